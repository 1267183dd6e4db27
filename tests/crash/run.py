"""A run: one target, killed again and again under the I/O of its users. Each return is looked at, and at the end
everything must be in its place."""

from __future__ import annotations

import asyncio
import collections
import logging
import shutil
import tempfile
import time
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.crash import plan
from tests.crash.client import Client, Command
from tests.crash.finding import Finding, Verdict
from tests.crash.oracle import Oracle, Policy
from tests.crash.plan import BEFORE_IO, DISK_BLOCKS, Kill, When
from tests.crash.processes import Nursery
from tests.crash.rig import DISK, OTHER, Rig
from tests.crash.stamp import BLOCK
from tests.crash.targets import TARGETS, TargetFailed
from tests.crash.turns import Turns
from tests.crash.users import Io, Traffic, Trigger, User, Worker
from tests.support.waiting import PATIENCE_S
from virtiod.core.errors import VirtiodError
from virtiod.core.tasks import cancel, spawn

HANG_S = PATIENCE_S / 2  # nothing takes so long
END_S = PATIENCE_S  # for a system to stop, whatever state it is in
IO_TIMEOUT_S = 4 * HANG_S  # virtiod's: no request is to reach it
LOOK_S = 0.5  # how often it is looked whether the target is there, when something takes long
AUDIT_BLOCKS = 2048  # of one read
OTHER_BYTES = 132 << 10  # buffers of both sizes
LOG_LINES = 20

Result = TypeVar("Result")


@dataclass(frozen=True)
class Case:
    """What tells a run from others; with these it comes again. options: of the target."""

    kind: str
    seed: int
    kills: int = plan.KILLS
    variant: str = "any"
    users: int | None = None
    policy: Policy = Policy.KEEP
    options: Sequence[str] = ()

    def command(self, kill: int) -> str:
        """What runs it again, up to that kill."""
        words = [f"--kind {self.kind} --seed {self.seed} --kills {max(1, kill)}"]
        words += [f"--variant {self.variant}"] if self.variant != "any" else []
        words += [f"--users {self.users}"] if self.users else []
        words += [f"--policy {self.policy}"] if self.policy is not Policy.KEEP else []
        words += [f"--target-option={option}" for option in self.options]
        return f"python -m tests.crash {' '.join(words)}"


@dataclass
class Outcome:
    """Of a run.

    slowest_return_s: from a target's start to the first answer. log: virtiod's before the first finding.
    """

    case: Case
    kills: int = 0
    requests: int = 0
    flushes: int = 0
    slowest_return_s: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    log: Sequence[str] = ()


class Hung(Exception):
    """Something did not end."""


async def run(case: Case, nursery: Nursery) -> Outcome:
    """A whole run, which leaves nothing behind."""
    directory = Path(tempfile.mkdtemp(prefix="v-", dir="/tmp"))
    try:
        with _logged() as lines:
            one = Run(case, directory, lines, nursery)
            await one.run()
    finally:
        shutil.rmtree(directory)
    return one.outcome


class _Log(logging.Handler):
    def __init__(self, lines: collections.deque[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(f"{record.levelname.lower()}: {record.getMessage()}")


@contextmanager
def _logged() -> Iterator[collections.deque[str]]:
    """The last lines of virtiod's log. Nobody else gets its records: one with an exception would hold a whole run."""
    lines: collections.deque[str] = collections.deque(maxlen=LOG_LINES)
    logger, handler = logging.getLogger("virtiod"), _Log(lines)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield lines
    finally:
        logger.propagate = propagate
        logger.setLevel(level)
        logger.removeHandler(handler)


class Run:
    """The course of a run. log: what is said goes there too."""

    def __init__(self, case: Case, directory: Path, log: collections.deque[str], nursery: Nursery) -> None:
        self.case = case
        self.log = log
        self.plan = plan.draw(case.seed, case.kills, case.variant, case.users)
        self.outcome = Outcome(case)
        self.oracle = Oracle(case.seed, case.policy, TARGETS[case.kind].zeros_first)
        self.trigger = Trigger(self._kill)
        self.traffic = Traffic(self.oracle, self.trigger, self._collect)
        self.target = TARGETS[case.kind](directory, self.plan.setup, case.options, nursery)
        self.rig = Rig(directory, self.plan.setup, IO_TIMEOUT_S)
        self.started = 0.0  # the target, the last time
        self.workers: list[Worker] = []
        self.clients: list[Client] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.auditor: User
        self.others: list[Client] = []  # of the other export, one for each poller

    async def run(self) -> None:
        try:
            await self._course()
        except Hung as hung:
            self._found(Verdict.HUNG, str(hung))
        except TargetFailed as failure:
            self._found(Verdict.TARGET, str(failure))
        except (VirtiodError, ConnectionError, EOFError) as error:
            self._found(Verdict.FAILED, str(error))
        finally:
            await self._end()
        self.outcome.requests, self.outcome.flushes = self.traffic.requests, self.traffic.flushes

    async def _course(self) -> None:
        await self._begin()
        for number, kill in enumerate(self.plan.kills):
            following = self.plan.kills[number + 1 : number + 2]
            await self._one(number, kill, again=any(after.when in BEFORE_IO for after in following))
        await self._finish()
        await self._leave()
        for line in await self._in_time(self.rig.end(), "the export's and the controller's end"):
            self._found(Verdict.LEFT, line)

    # ---- beginning and end

    async def _begin(self) -> None:
        await self.rig.start()
        self.target.start()
        await self._in_time(self.target.listening(), "the target's start")
        await self.rig.attach(self.target.socket)
        for _ in range(self.plan.setup.pollers):  # the first clients: virtiod spreads them
            self.others.append(await self._connect(OTHER))
        self.auditor = User(0, await self._connect(DISK), self.traffic)
        load, turns = self.plan.load, Turns(self.target.grain)
        for number in range(1, load.users + 1):
            client = await self._connect(DISK)
            worker = Worker(number, client, self.traffic, turns, load, self.plan.setup.block_size)
            self.workers.append(worker)
            self.tasks += [spawn(worker.work(), f"user {number}", awaited=True) for _ in range(load.depth)]

    async def _connect(self, export: str) -> Client:
        client = await self._in_time(self.rig.connect(export), f"a connection to {export}")
        self.clients.append(client)
        return client

    async def _finish(self) -> None:
        """Users end, and all that they did is there."""
        await self._audit()
        await self._in_time(self.auditor.do(Io(Command.FLUSH)), "the last flush")
        self.traffic.ended = True
        self.traffic.open.set()
        await self._in_time(asyncio.gather(*self.tasks), "the users' end")
        await self._look_at_other("at the end")

    async def _leave(self) -> None:
        """All clients, in order."""
        for client in self.clients:
            await self._in_time(client.close(), "a client's end")

    async def _end(self) -> None:
        """Of everything, whatever state it is in."""
        await cancel(*self.tasks)
        for client in self.clients:
            client.abort()
            for stray in client.strays:
                self._found(Verdict.ANSWERED_TWICE, stray)
        try:
            await asyncio.wait_for(self.rig.stop(), END_S)
        except TimeoutError:
            self._found(Verdict.HUNG, f"the system's end: not within {END_S:g} s")
        self.target.close()

    # ---- one kill

    async def _one(self, number: int, kill: Kill, again: bool) -> None:
        """Work, kill, start, look. again: the next kill comes before the return is complete."""
        if kill.when in BEFORE_IO:
            if kill.when is When.CONNECTED:
                await self._in_time(self.target.connected(), "virtiod's return to a target that listens")
            await asyncio.sleep(kill.delay)
            self.trigger.fire()
        else:
            await self._work_until(number, kill)
        await self._in_time(self.target.gone(), "the target's end")
        self.oracle.killed()
        await self._look_at_other("while the target is down")
        if kill.peek:
            self._collect(self.oracle.image(0, await asyncio.to_thread(self.target.contents)))
        await asyncio.sleep(kill.down)
        self.target.start()
        self.started = time.monotonic()
        if again:
            return
        await self._return()
        if kill.audit:
            await self._audit()

    async def _work_until(self, number: int, kill: Kill) -> None:
        for worker in self.workers:
            worker.turn_to(kill.window, f"{self.case.seed}/{number}")
        self.trigger.arm(kill)
        self.traffic.open.set()
        if kill.when is When.QUIET:
            await self._in_time(self.trigger.reached.wait(), f"a kill {kill.when}")
            await self._in_time(self.traffic.pause(), "what is in flight before a quiet kill")
            if kill.flush:
                await self._in_time(self.auditor.do(Io(Command.FLUSH)), "a flush")
            self.trigger.fire()
        await self._in_time(self.trigger.fired.wait(), f"a kill {kill.when}")

    def _kill(self) -> None:
        self.outcome.kills += 1
        self.log.append(f"kill {self.outcome.kills}")
        self.oracle.killing()
        self.target.kill()

    async def _return(self) -> None:
        """The first answer from the new process: to what was asked for only now, and is nobody's."""
        first = Io(Command.READ, 0, self.plan.setup.block_size // BLOCK)
        await self._in_time(self.auditor.do(first), "the first answer after a return")
        self.outcome.slowest_return_s = max(self.outcome.slowest_return_s, time.monotonic() - self.started)

    # ---- looking

    async def _audit(self) -> None:
        """Read everything, while nothing else is going on."""
        await self._in_time(self.traffic.pause(), "what is in flight before an audit")
        for first in range(0, DISK_BLOCKS, AUDIT_BLOCKS):
            await self._in_time(self.auditor.do(Io(Command.READ, first, AUDIT_BLOCKS)), "an audit")

    async def _look_at_other(self, when: str) -> None:
        reads = asyncio.gather(*(client.send(Command.READ, 0, OTHER_BYTES) for client in self.others))
        for reply in await self._in_time(reads, f"a read of the other export {when}"):
            if reply.error:
                self._found(Verdict.OTHER, f"a read of the other export failed with {reply.error} {when}")

    async def _in_time(self, work: Awaitable[Result], what: str) -> Result:
        """Its result. Raises Hung, or TargetFailed when that is why."""
        task = asyncio.ensure_future(work)
        until = time.monotonic() + HANG_S
        try:
            while time.monotonic() < until:
                if (await asyncio.wait({task}, timeout=LOOK_S))[0]:
                    return task.result()
                self.target.check()
        finally:
            await cancel(task)
        oldest = min(self.traffic.in_flight, key=self.traffic.in_flight.__getitem__, default=None)
        waiting = f", {len(self.traffic.in_flight)} in flight, first {oldest.name()}" if oldest else ""
        raise Hung(f"{what}: not within {HANG_S:g} s{waiting}")

    def _found(self, verdict: Verdict, text: str) -> None:
        self._collect([Finding((verdict,), text)])

    def _collect(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            finding.kill = self.outcome.kills
            self.outcome.log = self.outcome.log or tuple(self.log)
            self.outcome.findings.append(finding)
