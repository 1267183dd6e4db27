"""Processes to be killed: programs, and `virtiod` commands that start at once.

Python takes half a second to import virtiod. A nursery has done so already, and a command is a fork of it:

with Nursery() as nursery:
    process = nursery.virtiod(["target", ...], log)
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from virtiod import cli

ROOT = Path(__file__).parents[2]  # of the tree


class Process:
    """A process that runs beside this one. popen: its parent is this one, which has to reap it."""

    def __init__(self, pid: int, popen: subprocess.Popen[bytes] | None = None) -> None:
        self._popen = popen
        self._fd = -1
        with contextlib.suppress(ProcessLookupError):  # it has ended
            self._fd = os.pidfd_open(pid)

    @property
    def ended(self) -> bool:
        return self._fd < 0 or bool(select.select([self._fd], [], [], 0)[0])

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        if self._fd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)

    async def gone(self) -> None:
        """Returns when it has exited: none of its threads does anything any more."""
        await asyncio.to_thread(self._wait)

    def _wait(self) -> None:
        if self._fd >= 0:
            select.select([self._fd], [], [])
        if self._popen is not None:
            self._popen.wait()

    def close(self) -> None:
        """Kills it if need be, and waits for its end. May be called again."""
        self.kill()
        self._wait()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Nursery:
    """Starts `virtiod` commands. Its own process begins with the first."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.communicate()

    def program(self, command: Sequence[str], log: Path) -> Process:
        """Any program. Its output goes to the log."""
        with log.open("wb") as output:
            popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        return Process(popen.pid, popen)

    def virtiod(self, words: Sequence[str], log: Path) -> Process:
        """`virtiod WORDS`."""
        if self._process is None:
            command = [sys.executable, "-m", "tests.crash.processes"]
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(log), *words]) + "\n")
        self._process.stdin.flush()
        return Process(int(self._process.stdout.readline()))


def nurse() -> None:
    """The nursery's own process: forks for each line of stdin, until that ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps them
    gc.freeze()
    for line in sys.stdin:
        log, *words = json.loads(line)
        pid = os.fork()
        if not pid:
            _become(log, words)
        print(pid, flush=True)


def _become(log: str, words: list[str]) -> None:
    """Does not return."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for number in (sys.stdout.fileno(), sys.stderr.fileno()):
            os.dup2(output, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
        status = cli.main(words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    nurse()
