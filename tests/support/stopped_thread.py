"""A thread that does not run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def stopped_thread(tid: int) -> Iterator[None]:
    """One thread of a process, or of this one, is held by ptrace (hold_thread.py); the others run."""
    holder = Path(__file__).with_name("hold_thread.py")
    with subprocess.Popen(
        [sys.executable, holder, str(tid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield
        finally:
            process.stdin.close()
            process.wait(10)
