"""The kernel's disks of a PCI device, and what uses them: a device whose disk is in use is never taken."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from virtiod.core.errors import Busy
from virtiod.pci.devices import PciDevice
from virtiod.pci.host import Host, entries, read

NO_DEVICE = (errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM)  # nothing there that could be in use


@dataclass(frozen=True)
class Use:
    """Something that uses a disk, as a phrase. passing: it can be waited for, as udev opens each new disk."""

    what: str
    passing: bool = False


@dataclass(frozen=True)
class Disk:
    """A disk ("vda") with its own and its partitions' names and numbers ("254:1")."""

    name: str
    parts: dict[str, str]
    uses: tuple[Use, ...]


def disks_of(device: PciDevice, host: Host) -> list[Disk]:
    """The disks that the kernel has on a device, by name."""
    beneath = device.path.resolve()
    found: dict[str, dict[str, str]] = {}
    for entry in entries(host.sys / "class/block"):
        target = entry.resolve()
        if target.is_relative_to(beneath):
            whole = target.parent.name if (target / "partition").exists() else target.name
            found.setdefault(whole, {})[target.name] = read(target / "dev")
    return [Disk(name, parts, tuple(_uses(host, name, parts))) for name, parts in sorted(found.items())]


def claim(disks: list[Disk], host: Host, stack: ExitStack) -> None:
    """Claims whole disks until the stack is closed: nobody can mount them meanwhile. Raises Busy."""
    for disk in disks:
        try:
            stack.callback(os.close, host.claim(_node(host, disk.name)))
        except OSError as error:
            if error.errno not in NO_DEVICE:
                raise Busy(f"its disk {disk.name} is in use: {error.strerror}") from error


def _uses(host: Host, name: str, parts: dict[str, str]) -> Iterator[Use]:
    known = [
        *_held(host, parts),
        *_mounted(host, parts),
        *_swapped(host, parts),
        *_looped(host, parts),
        *_opened(host, parts),
    ]
    yield from known
    if any(not use.passing for use in known):
        return
    try:
        os.close(host.claim(_node(host, name)))
    except OSError as error:
        if error.errno == errno.EBUSY:
            yield Use(f"{name} is claimed, perhaps mounted in another mount namespace")
        elif error.errno not in NO_DEVICE:
            yield Use(f"can't tell whether {name} is in use: open {_node(host, name)}: {error.strerror}")


def _held(host: Host, parts: dict[str, str]) -> Iterator[Use]:
    for name in parts:
        for holder in entries(host.sys / "class/block" / name / "holders"):
            yield Use(f"{name} is part of {read(holder / 'dm/name') or holder.name}")


def _mounted(host: Host, parts: dict[str, str]) -> Iterator[Use]:
    """Mounts, found by number and by name: some file systems (btrfs) have numbers of their own."""
    for line in read(host.proc / "self/mountinfo").splitlines():
        fields = line.split()
        if "-" not in fields or len(fields) < fields.index("-") + 3:
            continue
        source = _plain(fields[fields.index("-") + 2])
        for name, number in parts.items():
            if fields[2] == number or source == _public(name):
                yield Use(f"{name} is mounted at {_plain(fields[4])}")


def _swapped(host: Host, parts: dict[str, str]) -> Iterator[Use]:
    for line in read(host.proc / "swaps").splitlines()[1:]:
        used = _plain(line.split()[0])
        yield from (Use(f"{name} is swap space") for name in parts if used == _public(name))


def _looped(host: Host, parts: dict[str, str]) -> Iterator[Use]:
    for loop in entries(host.sys / "class/block"):
        backing = read(loop / "loop/backing_file")
        yield from (Use(f"{name} is behind {loop.name}") for name in parts if backing == _public(name))


def _opened(host: Host, parts: dict[str, str]) -> Iterator[Use]:
    """Processes that have a part open. Only root sees those of other users, and only root can take a device."""
    own = str(os.getpid())
    for process in entries(host.proc):
        if not process.name.isdecimal() or process.name == own:
            continue
        for fd in entries(process / "fd"):
            name = _block_device(fd, parts)
            if name:
                program = read(process / "comm")
                yield Use(f"{name} is open in process {process.name} ({program})", passing="udev" in program)
                break


def _block_device(fd: Path, parts: dict[str, str]) -> str | None:
    """Which of these an open file is. Only device nodes are examined: other files may be on a hung server."""
    try:
        target = str(fd.readlink())
        if not target.startswith("/dev/"):
            return None
        for name in parts:
            if target == _public(name):
                return name
        status = fd.stat()
    except OSError:
        return None
    number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}" if stat.S_ISBLK(status.st_mode) else ""
    return next((name for name, its in parts.items() if its == number), None)


def _node(host: Host, name: str) -> Path:
    return host.root / _public(name)[1:]


def _public(name: str) -> str:
    """The path of a disk's node; in sysfs a "!" stands for a slash."""
    return "/dev/" + name.replace("!", "/")


def _plain(text: str) -> str:
    """The text without the octal escapes of /proc (\\040 is a space)."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
