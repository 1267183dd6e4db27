"""What a reader may call, and what the log says of calls that change something."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import running
from tests.support.rpc_peer import connected
from virtiod.api.caller import Caller, Role
from virtiod.rpc.methods import METHODS
from virtiod.rpc.protocol.audit import MAX_PARAMS, audit, redacted

READER, ADMIN = Caller("grafana", Role.READ_ONLY), Caller("alice", Role.ADMIN)


def call(run_dir: Path, caller: Caller, *requests: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers to a batch."""

    async def run() -> Any:
        async with running(run_dir) as daemon:
            batch = [{"method": method, "params": params, "id": i} for i, (method, params) in enumerate(requests)]
            return await daemon.rpc.handle(batch, caller)

    return asyncio.run(run())


def audited(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "virtiod.rpc.audit"]


WRITES_A_FILE = "env_dpdk_get_mem_stats"


@pytest.mark.parametrize("name", METHODS)
def test_methods_that_are_for_readers_are_those_whose_name_says_that_they_only_look(name: str) -> None:
    looks = name != WRITES_A_FILE and bool(re.search(r"_(get|wait)_|\.discover$", name))
    assert METHODS[name].reads == looks, f"{name} is classified wrongly"


@pytest.mark.parametrize("name", METHODS)
def test_what_can_change_something_in_a_method_for_readers_is_a_parameter_of_it(name: str) -> None:
    entry = METHODS[name]
    assert set(entry.changing) <= {param.name for param in entry.params if not param.required}
    assert entry.reads or not entry.changing
    resets = {param.name for param in entry.params if re.search("reset|clear|delete", param.name)}
    assert not entry.reads or resets == set(entry.changing)


def test_a_reader_can_call_no_method_that_changes_something(run_dir: Path) -> None:
    changing = [name for name, entry in METHODS.items() if not entry.reads]
    aliases = [alias for name in changing for alias in METHODS[name].aliases]
    answers = call(run_dir, READER, *((name, {}) for name in changing + aliases))
    assert len(answers) > 15
    for name, answer in zip(changing + aliases, answers, strict=True):
        error = answer["error"]
        assert error["code"] == -13, name
        assert error["message"].endswith(": needs the role admin, grafana is read-only")


def test_a_reader_reads(run_dir: Path) -> None:
    answers = call(run_dir, READER, ("rpc_get_methods", {}), ("virtiod_get_version", {}), ("bdev_get_bdevs", {}))
    assert ["error" in answer for answer in answers] == [False] * 3


def test_a_parameter_can_make_a_change_of_reading(run_dir: Path) -> None:
    wanted: list[dict[str, Any]] = [
        {},
        {"reset_mode": "none"},
        {"reset_mode": "all"},
        {"reset_mode": []},
        {"unknown": 1},
    ]
    answers = call(run_dir, READER, *(("bdev_get_iostat", params) for params in wanted))
    assert [answer.get("error", {}).get("code") for answer in answers] == [None, None, -13, -13, -32602]
    answers = call(run_dir, ADMIN, *(("bdev_get_iostat", params) for params in wanted))
    assert [answer.get("error", {}).get("code") for answer in answers] == [None, None, None, -32602, -32602]


def test_each_call_that_changes_something_leaves_a_line(run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "virtiod")
    call(
        run_dir,
        ADMIN,
        ("bdev_get_bdevs", {}),
        ("log_set_flag", {"flag": "rpc"}),
        ("nbd_delete_export", {"name": "x\ny"}),
        ("no_such_method", {}),
    )
    lines = [re.sub(r"[\d.]+ ms", "T ms", line) for line in audited(caplog)]
    assert sorted(lines) == [  # what is refused at once is not waited for
        'alice (admin): log_set_flag {"flag": "rpc"}: ok, T ms',
        r"""alice (admin): nbd_delete_export {"name": "x\ny"}: nbd_delete_export: 'name' must not hold U+000A, """
        r"""which can't be printed: 'x\ny' (-32602), T ms""",
    ]


def test_what_a_reader_tries_leaves_a_line(run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    call(run_dir, READER, ("log_set_flag", {"flag": "rpc"}))
    (line,) = audited(caplog)
    assert line.startswith('grafana (read-only): log_set_flag {"flag": "rpc"}: log_set_flag: needs the role admin')


def test_clients_of_the_socket_are_named_by_their_process_and_user(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with running(run_dir), connected(run_dir) as peer:
            assert await peer.result("log_set_level", level="INFO") is True

    asyncio.run(run())
    (line,) = audited(caplog)
    assert line.startswith(f"pid={os.getpid()} uid={os.geteuid()} gid={os.getegid()} (admin): log_set_level ")


def test_secrets_are_not_logged_and_long_parameters_are_cut(caplog: pytest.LogCaptureFixture) -> None:
    assert redacted({"password": "x", "a": [{"psk_hex": 1, "tls_key": 2, "key_count": 3}], "b": "y"}) == {
        "password": "***",
        "a": [{"psk_hex": "***", "tls_key": "***", "key_count": 3}],
        "b": "y",
    }
    caplog.set_level(logging.INFO)
    audit(ADMIN, "m", {"a": "b" * 5000}, "said", 0.001)
    (line,) = audited(caplog)
    assert len(line) < MAX_PARAMS + 100
    assert line.endswith("... (5009 characters): said, 1.0 ms")
