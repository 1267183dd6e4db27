"""What is asked before something in use ends, whatever the daemon answers. tests/e2e/test_claims.py has real users."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from rpc_client import BadReply, Client, ClientError, MethodError, cli
from rpc_client.users import InUse, ending, users_of
from tests.support.daemon import FakeDaemon
from tests.support.rpc_server import with_daemon
from virtiod.bdev.use import Access, Use

LOAD = {"kind": "load", "name": "randread", "access": "read", "read_only": False, "clients": []}
IDLE = {"kind": "nbd", "name": "disk", "access": "none", "read_only": False, "clients": []}
BUSY = {**IDLE, "access": "write", "clients": ["pid 1 uid 0", "pid 2 uid 0", "10.0.0.1:7", "10.0.0.1:8"]}
OTHER = {**BUSY, "name": "other", "clients": ["pid 3 uid 0"]}
DISK = "NBD export disk of pid 1 uid 0, pid 2 uid 0, 10.0.0.1:7 and 1 more"


class Answers:
    """Stands in for a client: answers by method, notes what else was called."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.done: list[str] = []

    def call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        if method not in self.answers:
            self.done.append(method)
            return True
        answer = self.answers[method]
        if isinstance(answer, Exception):
            raise answer
        if method == "bdev_get_bdevs" and params:
            return [one for one in answer if one["name"] == params["name"]]
        return answer


def asked(answers: Answers) -> Client:
    return cast("Client", answers)


def daemon_with(*users: dict[str, Any]) -> Answers:
    bdevs = [{"name": "V0", "users": list(users)}, {"name": "V1", "users": [OTHER]}, {"name": "V2"}]
    controllers = [{"name": "C0", "bdevs": ["V0", "V2"]}]
    return Answers(
        bdev_get_bdevs=bdevs,
        virtiod_get_controllers=controllers,
        nbd_get_exports=[{"name": "disk", "bdev_name": "V0"}],
    )


@pytest.mark.parametrize(
    ("what", "name", "users", "found"),
    [
        ("bdev", "V0", [], []),
        ("bdev", "V0", [IDLE], []),
        ("bdev", "V2", [BUSY], []),
        ("bdev", "V0", [IDLE, BUSY, LOAD], [DISK, "load randread"]),
        ("controller", "C0", [BUSY], [f"{DISK}, on V0"]),
        ("controller", "C0", [IDLE], []),
        ("export", "disk", [BUSY, LOAD, OTHER], [DISK]),  # others of the same bdev stay
        ("export", "disk", [IDLE, LOAD], []),
    ],
)
def test_users_are_those_that_the_end_would_cut_off(
    what: str, name: str, users: list[dict[str, Any]], found: list[str]
) -> None:
    assert users_of(asked(daemon_with(*users)), what, name) == found


def test_what_is_not_there_or_not_told_has_no_users() -> None:
    gone = MethodError("bdev_get_bdevs", -19, "no such bdev")
    assert users_of(asked(Answers(bdev_get_bdevs=gone)), "bdev", "V0") == []
    older = Answers(bdev_get_bdevs=[{"name": "V0", "claimed": True}], virtiod_get_controllers=[{"name": "C0"}])
    assert users_of(asked(older), "bdev", "V0") == users_of(asked(older), "controller", "C0") == []


@pytest.mark.parametrize("users", [7, [7], [{"access": "write"}], {"a": 1}])
def test_nothing_ends_when_the_answer_is_not_as_described(users: Any) -> None:
    answers = Answers(bdev_get_bdevs=[{"name": "V0", "users": users}])
    with pytest.raises(BadReply, match="not as described"):
        ending(asked(answers), "bdev", "bdev_null_delete", {"name": "V0"}, lambda _: True, lambda _: None)
    assert answers.done == []


@pytest.mark.parametrize(
    ("users", "answer", "ends", "questions", "told"),
    [
        ([IDLE], False, True, 0, []),
        ([LOAD], False, False, 1, []),
        ([LOAD], True, True, 1, ["bdev_null_delete: cut off: load randread"]),
        ([LOAD], None, True, 0, ["bdev_null_delete: cut off: load randread"]),  # --force
    ],
)
def test_only_who_would_be_cut_off_makes_a_question(
    users: list[dict[str, Any]], answer: bool | None, ends: bool, questions: int, told: list[str]
) -> None:
    answers, put, said = daemon_with(*users), list[str](), list[str]()

    def agreed(question: str) -> bool:
        put.append(question)
        return bool(answer)

    def end() -> Any:
        ask = None if answer is None else agreed
        return ending(asked(answers), "bdev", "bdev_null_delete", {"name": "V0"}, ask, said.append)

    if ends:
        assert end() is True
    else:
        with pytest.raises(InUse, match=r"bdev V0 is in use: load randread; nothing was done \(--force ends it\)"):
            end()
    assert (answers.done, len(put), said) == (["bdev_null_delete"] if ends else [], questions, told)


def test_names_of_users_neither_steer_the_terminal_nor_add_lines() -> None:
    hostile = {**BUSY, "name": "x\ny", "clients": ["\x1b[2J\n"]}
    with pytest.raises(ClientError) as caught:
        ending(asked(daemon_with(hostile)), "bdev", "m", {"name": "V0"}, lambda _: False, lambda _: None)
    assert str(caught.value).isprintable()


def test_several_hosts_are_not_asked(capsys: pytest.CaptureFixture[str], run_dir: Path) -> None:
    def use(path: str, daemon: FakeDaemon) -> None:
        with Client(path) as client:
            client.call(
                "bdev_virtio_attach_controller", {"name": "B0", "trtype": "user", "traddr": "/x", "dev_type": "blk"}
            )
        use = Use("nbd", "NBD export", "disk", Access.WRITE, ["pid 1 uid 0"])
        daemon.bdev("B0").in_use.append(use)
        words = ["-s", path, "-s", path, "bdev_virtio_detach_controller", "B0"]
        assert cli.main(words) == 1
        assert "B0 is in use: NBD export disk of pid 1 uid 0, on B0; nothing was done" in capsys.readouterr().out
        assert cli.main(["-s", path, *words[4:], "--force"]) == 0
        assert "cut off: NBD export disk of pid 1 uid 0, on B0" in capsys.readouterr().err

    with_daemon(run_dir, use)
