"""Log levels and flags by RPC."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.daemon import FakeDaemon
from tests.support.rpc_peer import Peer, talk


def test_log_levels_and_flags(run_dir: Path) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        await peer.result("log_set_level", level="DEBUG")
        assert await peer.result("log_get_level") == "DEBUG"
        await peer.result("log_set_print_level", level="WARNING")
        assert await peer.result("log_get_print_level") == "WARNING"
        assert not any((await peer.result("log_get_flags")).values())
        assert await peer.result("virtiod_get_log") == {"dropping": False, "dropped": 0}
        await peer.result("log_set_flag", flag="rpc")
        flags = await peer.result("log_get_flags")
        assert [name for name, on in flags.items() if on] == ["rpc"]
        await peer.result("log_set_flag", flag="all")
        assert all((await peer.result("log_get_flags")).values())
        await peer.result("log_clear_flag", flag="all")
        code, message = await peer.error("log_set_flag", flag="nvme")
        assert (code, "there is no log flag 'nvme'" in message) == (-32602, True)

    talk(run_dir, ask)


def test_a_flag_prints_what_the_level_would_not(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def ask(peer: Peer, daemon: FakeDaemon) -> None:
        for level in ("log_set_level", "log_set_print_level"):
            await peer.result(level, level="ERROR")
        await peer.error("bdev_get_bdevs", name="first")
        await peer.result("log_set_flag", flag="rpc")
        await peer.error("bdev_get_bdevs", name="second")

    talk(run_dir, ask)
    printed = capsys.readouterr().err
    assert "'second' does not exist" in printed
    assert "'first' does not exist" not in printed
