"""The harness itself: what it must find, found; its plans, its client, what it prints."""

from __future__ import annotations

import asyncio
import shlex
import shutil

import pytest

from tests.crash import __main__ as command
from tests.crash import run as runs
from tests.crash.client import _REPLY, _REPLY_MAGIC, Client, Command, Reply
from tests.crash.finding import Finding, Verdict
from tests.crash.oracle import Policy
from tests.crash.plan import KILLS, VARIANTS, draw
from tests.crash.processes import Nursery, Process
from tests.crash.report import Report, describe
from tests.crash.run import Case, Outcome, run
from tests.crash.targets import TARGETS, Qcow2, Raw

# ---- targets that do what must be found


class Forgetful(Raw):
    """Each start finds the image as it was at the start before."""

    kind = "forgetful"

    def _start(self) -> Process:
        before = self.image.with_suffix(".before")
        if before.exists():
            shutil.copy(before, self.image)
        shutil.copy(self.image, before)
        return super()._start()


class Careless(Raw):
    """A block comes back at another place."""

    kind = "careless"

    def _start(self) -> Process:
        data = self.image.read_bytes()
        used = [at for at in range(0, len(data), 512) if any(data[at : at + 512])]
        if used:
            with self.image.open("r+b") as file:
                file.seek(used[0])
                file.write(data[used[-1] : used[-1] + 512])
        return super()._start()


class WriteThrough(Qcow2):
    """Nothing is acknowledged before it is stable."""

    kind = "write-through"
    export = f"{Qcow2.export},writethrough=on"


def verdicts(case: Case) -> set[Verdict]:
    with Nursery() as nursery:
        outcome = asyncio.run(run(case, nursery))
    return {verdict for finding in outcome.findings for verdict in finding.verdicts}


@pytest.mark.programs
def test_a_target_that_forgets_what_it_flushed_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TARGETS, Forgetful.kind, Forgetful)
    assert Verdict.LOST_STABLE in verdicts(Case(Forgetful.kind, seed=1))


@pytest.mark.programs
def test_a_target_that_mixes_blocks_up_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TARGETS, Careless.kind, Careless)
    assert Verdict.FOREIGN in verdicts(Case(Careless.kind, seed=1))


@pytest.mark.programs
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nothing_is_wrong_with_a_target_that_writes_through(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setitem(TARGETS, WriteThrough.kind, WriteThrough)
    assert verdicts(Case(WriteThrough.kind, seed)) == set()


@pytest.mark.programs
@pytest.mark.parametrize(
    ("fault", "verdict"), [("error,after=300,every=100", Verdict.FAILED), ("death,after=300", Verdict.TARGET)]
)
def test_faults_of_a_target_are_found(fault: str, verdict: Verdict) -> None:
    assert verdict in verdicts(Case("embedded", seed=3, kills=1, options=(f"--fault={fault}",)))


@pytest.mark.programs
def test_a_target_that_does_not_answer_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "HANG_S", 2.0)
    assert verdicts(Case("embedded", seed=3, kills=1, options=("--fault=silence,after=300",))) == {Verdict.HUNG}


# ---- plans


def test_a_seed_always_makes_the_same_plan() -> None:
    assert draw(7) == draw(7)
    assert draw(7) != draw(8)


def test_a_plan_can_end_early() -> None:
    whole, part = draw(7), draw(7, kills=2)
    assert len(whole.kills) == KILLS
    assert part.kills == whole.kills[:2]
    assert (part.setup, part.load) == (whole.setup, whole.load)


def test_a_variant_is_what_it_says_whatever_the_seed() -> None:
    for seed in range(20):
        assert not draw(seed, variant="no-indirect").setup.indirect
        assert not draw(seed, variant="no-event-idx").setup.event_idx
        shared = draw(seed, variant="shared-queue").setup
        assert (shared.pollers, shared.queues) == (2, 1)


def test_all_moments_are_drawn() -> None:
    drawn = {kill.when for seed in range(100) for kill in draw(seed).kills}
    assert len(drawn) == len(type(next(iter(drawn))))


# ---- the client


def connected() -> tuple[Client, list[bytes]]:
    """A client without a server, and what it sends."""
    sent: list[bytes] = []

    class Transport(asyncio.Transport):
        def write(self, data: bytes | bytearray | memoryview) -> None:
            sent.append(bytes(data))

        def abort(self) -> None:
            client.connection_lost(None)

    client = Client()
    client.connection_made(Transport())
    return client, sent


def reply(cookie: int, error: int = 0, data: bytes = b"") -> bytes:
    return _REPLY.pack(_REPLY_MAGIC, error, cookie) + data


def test_the_client_takes_replies_in_any_order_and_in_any_pieces() -> None:
    async def talk() -> None:
        client, sent = connected()
        read = client.send(Command.READ, 512, 8)
        write = client.send(Command.WRITE, 0, 4, data=b"data")
        failed = client.send(Command.READ, 0, 8)
        assert len(sent) == 3
        for byte in reply(2) + reply(3, error=5) + reply(1, data=b"12345678"):
            client.data_received(bytes([byte]))
        assert [await read, await write, await failed] == [Reply(0, b"12345678"), Reply(0), Reply(5)]
        assert client.strays == []

    asyncio.run(talk())


def test_the_client_notes_a_second_answer() -> None:
    async def talk() -> None:
        client, _ = connected()
        write = client.send(Command.WRITE, 0, 4, data=b"data")
        client.data_received(reply(1) + reply(1))
        assert await write == Reply(0)
        assert client.strays == ["an answer to request 1, which waits for none"]

    asyncio.run(talk())


def test_who_waits_for_a_server_that_hangs_up_hears_of_it() -> None:
    async def talk() -> None:
        client, _ = connected()
        before = client.send(Command.FLUSH)
        client.data_received(b"no reply at all.")
        after = client.send(Command.FLUSH)
        for future in (before, after):
            with pytest.raises(ConnectionError):
                await future

    asyncio.run(talk())


# ---- what is printed


@pytest.mark.parametrize(
    "case",
    [
        Case("qcow2", 17, 3),
        Case("embedded", 0, 1, "shared-queue", 9, Policy.REPORT, ("--no-write-cache", "--queues=2")),
        *(Case("raw", 1, 2, variant) for variant in VARIANTS),
    ],
)
def test_a_finding_comes_with_the_command_that_runs_it_again(case: Case) -> None:
    program, *words = shlex.split(case.command(case.kills).partition(" -m ")[2])
    assert program == "tests.crash"
    assert next(command.cases(command.parse(words), Report())) == case


def test_the_command_stops_at_the_number_of_kills() -> None:
    report = Report()
    asked = []
    for case in command.cases(command.parse(["--kind", "raw", "--seed", "4", "--kills", "12"]), report):
        asked.append((case.seed, case.kills))
        report.outcomes.append(outcome(case.kind, case.kills))
    assert asked == [(4, 5), (5, 5), (6, 2)]


def test_the_command_runs_one_seed_again_and_again() -> None:
    words = ["--kind", "raw", "--seed", "4", "--kills", "2", "--times", "3"]
    cases = command.cases(command.parse(words), Report())
    assert [(case.seed, case.kills) for case in cases] == [(4, 2)] * 3


def outcome(kind: str, kills: int, *findings: Finding) -> Outcome:
    return Outcome(Case(kind, 17), kills, 1000, 50, 0.0421, list(findings), ["warning: it is gone"])


def test_a_finding_is_described_with_all_that_is_known() -> None:
    found = Finding((Verdict.LOST_STABLE, Verdict.LIED), "a read found zeros", [4, 5, 9], ["1 sent", "2 kill 1"], 2)
    assert describe(outcome("qcow2", 5, found, *[Finding((Verdict.HUNG,), "x")] * 4)).splitlines()[:9] == [
        "LOST-STABLE, LIED: a read found zeros",
        "  qcow2, seed 17, kill 2; to run it again, up to that kill:",
        "      python -m tests.crash --kind qcow2 --seed 17 --kills 2",
        "  blocks 4-5, 9; what happened to block 4:",
        "      1 sent",
        "      2 kill 1",
        "HUNG: x",
        "  qcow2, seed 17, kill 0; to run it again, up to that kill:",
        "      python -m tests.crash --kind qcow2 --seed 17 --kills 1",
    ]


def test_the_table_adds_up() -> None:
    report = Report()
    report.outcomes = [
        outcome("qcow2", 5, Finding((Verdict.LOST_STABLE, Verdict.LIED), ""), Finding((Verdict.LOST_KEPT,), "")),
        outcome("raw", 4, Finding((Verdict.FAILED,), "")),
    ]
    assert [line.split() for line in report.table().splitlines()[1:]] == [
        ["qcow2", "1", "5", "1,000", "50", "1", "1", "1", "0", "0", "42", "ms"],
        ["raw", "1", "4", "1,000", "50", "0", "0", "0", "0", "1", "42", "ms"],
        ["all", "2", "9", "2,000", "100", "1", "1", "1", "0", "1", "42", "ms"],
    ]
