"""A pipe that is full and that nobody reads, as standard output and standard error of a program."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support import peers
from tests.support.waiting import PATIENCE_S, wait_until

FILLER = b"-" * 1023 + b"\n"


class FullPipe:
    """`writes` is the end for a program. read() begins to read what comes; `lines` are those that have come."""

    def __init__(self) -> None:
        self._reads, self.writes = os.pipe()
        self._read = bytearray()
        self._reader: threading.Thread | None = None
        self._closed = False
        # Opened again, so that it is non-blocking here, and not for the program.
        mine = os.open(f"/proc/self/fd/{self.writes}", os.O_WRONLY | os.O_NONBLOCK)
        with suppress(BlockingIOError):
            while True:
                os.write(mine, FILLER)
        os.close(mine)

    def read(self) -> None:
        self._reader = threading.Thread(target=self._read_all)
        self._reader.start()

    @property
    def lines(self) -> list[str]:
        """Whole lines, without the filler."""
        whole = bytes(self._read[: self._read.rfind(b"\n") + 1]).replace(FILLER, b"")
        return whole.decode().split("\n")[:-1]

    def until(self, text: str) -> None:
        """Returns when a line has that text."""
        wait_until(lambda: any(text in line for line in self.lines), f"{text!r} to be printed")

    def close(self) -> None:
        """After this `lines` has all. Idempotent."""
        if self._closed:
            return
        self._closed = True
        os.close(self.writes)
        if self._reader is None:
            self.read()
        assert self._reader is not None
        self._reader.join(PATIENCE_S)
        os.close(self._reads)

    def _read_all(self) -> None:
        while data := os.read(self._reads, 1 << 20):
            self._read += data


@contextmanager
def full_pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[FullPipe]:
    """One that each peer that is started meanwhile prints to."""
    pipe = FullPipe()
    try:
        with printing_to(pipe.writes, monkeypatch):
            yield pipe
    finally:
        pipe.close()


@contextmanager
def printing_to(output: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What each peer that is started meanwhile prints goes to a file descriptor, and not to its log."""

    def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
        log.touch()
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    with monkeypatch.context() as patch:
        patch.setattr(peers, "start", start)
        yield
