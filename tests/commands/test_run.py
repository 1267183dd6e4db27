"""The command `virtiod`, as a process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.rpc_peer import connected
from tests.support.spdk_client import spdk_rpc
from tests.support.waiting import PATIENCE_S
from virtiod import __version__

pytestmark = pytest.mark.programs


class Process:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    async def until_said(self, text: str) -> None:
        """Reads the log until it has this."""
        assert self._process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            said = ""
            while text not in said:
                line = (await self._process.stderr.readline()).decode()
                assert line, f"ended without saying {text!r}:\n{said}"
                said += line

    async def ended(self) -> tuple[int, str]:
        """Exit status, and what is left of the log."""
        async with asyncio.timeout(PATIENCE_S):
            _, err = await self._process.communicate()
        assert self._process.returncode is not None
        return self._process.returncode, err.decode()


@contextlib.asynccontextmanager
async def virtiod(*words: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "virtiod.cli", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@contextlib.asynccontextmanager
async def serving(run_dir: Path, *words: str) -> AsyncIterator[Process]:
    async with virtiod("-r", str(run_dir / "rpc"), "--http", "none", "--nbd-socket", "none", "-s", "16", *words) as one:
        await one.until_said("running: ")
        yield one


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_ends_it_in_order(run_dir: Path, number: signal.Signals) -> None:
    async def run() -> None:
        async with serving(run_dir) as daemon:
            daemon.signal(number)
            status, log = await daemon.ended()
            assert (status, f"{number.name}: stopping" in log) == (0, True)

    asyncio.run(run())
    assert list(run_dir.iterdir()) == []


def test_spdk_kill_instance_ends_it_in_order(run_dir: Path) -> None:
    pytest.importorskip("spdk")

    async def run() -> None:
        async with serving(run_dir) as daemon:
            assert (await spdk_rpc(run_dir, "spdk_kill_instance", "SIGTERM")).status == 0
            assert (await daemon.ended())[0] == 0

    asyncio.run(run())
    assert list(run_dir.iterdir()) == []


def test_sigusr1_has_it_tell_where_it_is(run_dir: Path) -> None:
    async def run() -> None:
        async with serving(run_dir) as daemon:
            daemon.signal(signal.SIGUSR1)
            await daemon.until_said("most recent call first")
            async with connected(run_dir) as peer:
                assert (await peer.ask("spdk_get_version"))["result"]["version"].startswith("virtiod v")

    asyncio.run(run())


def test_a_second_daemon_says_that_the_socket_is_in_use(run_dir: Path) -> None:
    async def run() -> None:
        async with serving(run_dir), virtiod("-r", str(run_dir / "rpc"), "--http", "none") as second:
            status, log = await second.ended()
            assert (status, log.splitlines()[-1]) == (
                1,
                f"virtiod: RPC socket {run_dir}/rpc is in use by another process",
            )

    asyncio.run(run())


def test_a_daemon_that_was_killed_leaves_nothing_that_hinders_the_next(run_dir: Path) -> None:
    async def run() -> None:
        async with serving(run_dir) as first:
            first.signal(signal.SIGKILL)
            assert (await first.ended())[0] == -signal.SIGKILL
        async with serving(run_dir) as second:
            second.signal(signal.SIGTERM)
            assert (await second.ended())[0] == 0

    asyncio.run(run())
    assert list(run_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-m", "0"), "virtiod: cpumask '0': names no core"),
        (("-c", "/nowhere.json"), "virtiod: /nowhere.json: No such file or directory"),
        (("-r", "/no/where"), "virtiod: open /no/where.lock: No such file or directory"),
    ],
)
def test_what_is_wrong_at_start_is_said_in_one_line(run_dir: Path, words: tuple[str, ...], message: str) -> None:
    async def run() -> None:
        async with virtiod("run", "-r", str(run_dir / "rpc"), "--http", "none", *words) as one:
            status, log = await one.ended()
            assert (status, log.splitlines()[-1]) == (1, message)

    asyncio.run(run())
    assert list(run_dir.iterdir()) == []


def test_a_signal_while_it_starts_ends_it(run_dir: Path) -> None:
    async def run() -> None:
        words = ("-r", str(run_dir / "rpc"), "--http", "none", "-s", "16", "--wait-for-rpc")
        async with virtiod(*words) as one:
            await one.until_said("RPC at ")
            one.signal(signal.SIGTERM)
            assert (await one.ended())[0] in {0, 1}

    asyncio.run(run())
    assert list(run_dir.iterdir()) == []


def test_a_file_that_hangs_does_not_keep_it_from_its_end(run_dir: Path) -> None:
    """As on a file system of another machine that does not answer; here, a FIFO that nobody writes to."""
    os.mkfifo(run_dir / "c")

    async def run() -> None:
        async with virtiod("-r", str(run_dir / "rpc"), "--http", "none", "-c", str(run_dir / "c")) as one:
            await one.until_said("options ")
            one.signal(signal.SIGTERM)
            assert (await one.ended())[0] == 1

    asyncio.run(run())


def test_version_and_help() -> None:
    async def run() -> None:
        for words in (("--version",), ("--help",), ("run", "--help")):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "virtiod.cli", *words), stdout=asyncio.subprocess.PIPE, env={**os.environ}
            )
            out, _ = await process.communicate()
            assert process.returncode == 0
            assert (f"virtiod {__version__}" if words[0] == "--version" else "usage: virtiod") in out.decode()

    asyncio.run(run())
