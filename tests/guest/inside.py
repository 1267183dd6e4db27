"""In the guest: does the host's jobs, and is the plugin by which pytest reports to it.

A job is {"tests": [node ids]}, {"command": [words], "seconds": deadline}, or {} when there is no more to do.
"""

from __future__ import annotations

import base64
import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.guest.forks import Fork
from tests.guest.line import GuestLine
from tests.support import peers
from tests.support.waiting import SLOWNESS
from virtiod.cli import COMMANDS, module_of
from virtiod.pci import ownership


@functools.cache
def line() -> GuestLine:
    """The one line to the host, for the runner and for the tests."""
    return GuestLine()


class Host:
    """What tests ask of the host; each is explained at its like in host.py's Services. A refusal is a HostError."""

    def read(self, disk: str, offset: int, length: int) -> bytes:
        return base64.b64decode(line().ask("read", disk=disk, offset=offset, length=length))

    def write(self, disk: str, offset: int, data: bytes) -> None:
        line().ask("write", disk=disk, offset=offset, data=base64.b64encode(data).decode())

    def digest(self, disk: str, offset: int, length: int) -> str:
        return str(line().ask("digest", disk=disk, offset=offset, length=length))

    def qmp(self, command: str, **arguments: Any) -> Any:
        return line().ask("qmp", command=command, arguments=arguments)

    def plug(self, name: str, port: str, size: int, queues: int = 1) -> None:
        line().ask("plug", name=name, port=port, size=size, queues=queues)

    def forget(self, name: str) -> None:
        line().ask("forget", name=name)

    def unplug(self, name: str, seconds: float = 30.0) -> None:
        """Ask the guest for the device, and wait until it let go of it."""
        self.qmp("device_del", id=name)
        line().ask("unplugged", seconds + 10, device=name, seconds=seconds)


class Reporter:
    """Sends the host what it needs to report each test as its own."""

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        line().tell("start", nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        line().tell("finish", nodeid)

    def pytest_configure(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        line().tell("report", data)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            line().tell("trouble", str(report.longrepr))


def start(command: list[str], log: Path) -> Fork | subprocess.Popen[bytes]:
    """A Python module as a fork of this process, anything else as usual."""
    return Fork(command[2:], log) if command[:2] == [sys.executable, "-m"] else peers.popen(command, log)


def run_tests(nodes: list[str]) -> int:
    for command in COMMANDS:  # once, for all forks
        module_of(command)
    ownership.DEADLINE_S *= SLOWNESS  # the kernel of a guest on a busy machine is slow too
    peers.start = start
    return int(pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", *nodes], plugins=[Reporter()]))


def run_command(words: list[str], seconds: float) -> dict[str, Any]:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as late:
        out, err = peers.output_of(late)
        return {"code": None, "out": out, "err": f"still running after {seconds:g} s\n{err}"}
    return {"code": done.returncode, "out": done.stdout, "err": done.stderr}


def main() -> None:
    while job := line().ask("job"):
        if "tests" in job:
            line().tell("end", run_tests(job["tests"]))
        else:
            line().tell("end", run_command(job["command"], job["seconds"]))


if __name__ == "__main__":
    # As tests.guest.inside and not as __main__: the tests share this module's line.
    from tests.guest.inside import main as run

    run()
