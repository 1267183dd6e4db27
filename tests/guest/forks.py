"""Starts Python programs as forks of the process that runs the tests, which has imported them already.

In the guest Python takes seconds to start and import; a fork is there at once. The child undoes what pytest and the
tests' fixtures did to the process.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import NoReturn

from tests.support import leaks

HIGHEST_FD = 1024


class Fork:
    """As much of subprocess.Popen as tests/support/peers.py uses."""

    def __init__(self, words: list[str], log: Path) -> None:
        self.args = words
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            run_module(words, log)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run_module(words: list[str], log: Path) -> NoReturn:
    """In the child: be `python -m MODULE ARGUMENT...`, to the end."""
    code = 70
    try:
        start_afresh(log)
        sys.argv = list(words)
        code = 0
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        atexit._run_exitfuncs()
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def start_afresh(log: Path) -> None:
    os.closerange(3, HIGHEST_FD)
    for target, flags in ((os.devnull, os.O_RDONLY), (log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)):
        fd = os.open(target, flags)
        os.dup2(fd, 0 if flags == os.O_RDONLY else 1)
        os.close(fd)
    os.dup2(1, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    atexit._clear()
    warnings.resetwarnings()
    for name in (None, "asyncio"):
        logging.getLogger(name).handlers.clear()
    asyncio.run = leaks._run
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
