"""A small Debian whose init is systemd, in a container: namespaces, an overlay on an image, a cgroup of its own.

Needs root, as containers do; no virtual machine, no network. The image is made once and kept in .cache/systemd.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.cache import kept
from tests.support.peers import requires, run
from tests.support.waiting import PATIENCE_S, wait_until

ROOT = Path(__file__).parents[2]
PACKAGES = "systemd,systemd-sysv,dbus,python3,procps,iproute2,libnbd-bin"
VERSION = 1  # of the image: counts up when it has to be made anew
BUILD_S = 600.0


def image() -> Path:
    """The root file system, made when it is not there: this host's release, so that the package suits it."""
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    with kept("systemd") as folder:
        made = folder / f"{suite}-{VERSION}"
        if not made.exists():
            requires("debootstrap")
            for other in folder.iterdir():
                shutil.rmtree(other) if other.is_dir() else other.unlink()
            _make(suite, folder, made)
    return made


def _make(suite: str, folder: Path, made: Path) -> None:
    new = folder / "new"
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, str(new), *_mirror(suite)]
    with (folder / "log").open("w+") as log:
        done = subprocess.run(command, stdout=log, stderr=log, timeout=BUILD_S, check=False)
        if done.returncode:
            log.seek(0)
            pytest.fail(f"{' '.join(command)}: exit code {done.returncode}\n{log.read()[-4000:]}")
    for unneeded in ("var/cache/apt", "var/lib/apt/lists"):
        shutil.rmtree(new / unneeded)
    new.rename(made)


def _mirror(suite: str) -> list[str]:
    """Where this host has its packages from; nothing for debootstrap's own choice."""
    found = run("apt-get", "indextargets", "--format", "$(REPO_URI)", f"Codename: {suite}", "Component: main").split()
    return [found[0].rstrip("/")] if found else []


class Failed(Exception):
    """A command that did not exit with 0."""


class Machine:
    """A booted container. run() runs commands in it as root."""

    def __init__(self, process: subprocess.Popen[bytes], pid: int) -> None:
        self._process = process
        self.pid = pid  # of its init

    def command(self, *words: str | Path) -> list[str]:
        """What runs these words inside, for subprocess."""
        inside = [
            *("nsenter", "-t", str(self.pid), "--all", "--root", "--wd"),
            *("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root"),
        ]
        return [*inside, *map(str, words)]

    def run(self, *words: str | Path, seconds: float = PATIENCE_S) -> str:
        """What it prints. Raises Failed with its output."""
        done = subprocess.run(
            self.command(*words), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False
        )
        if done.returncode:
            raise Failed(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def write(self, path: str, text: str) -> None:
        subprocess.run(
            self.command("sh", "-c", f'mkdir -p "$(dirname {path})"; cat >{path}'), input=text.encode(), check=True
        )

    def copy(self, source: Path, path: str) -> None:
        with source.open("rb") as file:
            subprocess.run(self.command("sh", "-c", f"cat >{path}"), stdin=file, check=True)

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit."""
        lines = self.run("systemctl", "show", unit, f"--property={','.join(properties)}").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def journal(self, *words: str) -> str:
        self.run("journalctl", "--sync")
        return self.run("journalctl", "--no-pager", "-o", "cat", *words)


@contextmanager
def booted(run_dir: Path) -> Iterator[Machine]:
    """A machine from its boot to its end."""
    if os.geteuid():
        pytest.skip("needs root, to make a container")
    requires("unshare", "nsenter")
    lower, upper = image(), run_dir / "machine"
    upper.mkdir()
    namespaces = ["--pid", "--mount", "--uts", "--ipc", "--net", "--cgroup", "--fork", "--kill-child"]
    with own_cgroup() as join, (run_dir / "boot.log").open("w+") as log:
        command = ["unshare", *namespaces, str(Path(__file__).with_name("boot.sh")), str(lower), str(upper)]
        process = subprocess.Popen(
            ["sh", "-c", f'echo $$ >{join} && exec "$@"', "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            machine = Machine(process, _init(process))
            wait_until(lambda: _is_up(machine), "systemd to come up")
            yield machine
        except BaseException:
            log.seek(0)
            print(log.read())
            raise
        finally:
            process.kill()
            process.wait(PATIENCE_S)


def _init(process: subprocess.Popen[bytes]) -> int:
    """The child of unshare, which becomes the init."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    found: list[str] = []

    def look() -> bool:
        with contextlib.suppress(OSError):
            found[:] = children.read_text().split()
        return bool(found) and Path(f"/proc/{found[0]}/comm").read_text() == "systemd\n"

    wait_until(look, "the container's first process")
    return int(found[0])


def _is_up(machine: Machine) -> bool:
    with contextlib.suppress(Failed):
        return machine.run("systemctl", "is-system-running").strip() == "running"
    return False


@contextmanager
def own_cgroup() -> Iterator[Path]:
    """A cgroup (version 2) that a process can join by writing its number to the file."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    mounted = next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)
    if mounted is None:
        pytest.fail("no cgroup2 file system is mounted, which systemd needs")
    group = mounted / f"virtiod-test-{os.getpid()}"
    group.mkdir()
    try:
        yield group / "cgroup.procs"
    finally:
        deadline = time.monotonic() + PATIENCE_S
        folders = [group, *(path for path in group.rglob("*") if path.is_dir())]
        for folder in reversed(folders):
            while True:
                try:
                    folder.rmdir()
                    break
                except OSError:  # processes that were killed are still ending
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)
