"""The machine as its file systems show it, and the calls that change it."""

from __future__ import annotations

import os
from pathlib import Path


class Host:
    """The file systems below root: /sys, /proc and /dev. Tests use a tree of their own, and a simulated kernel."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self.sys = root / "sys"
        self.proc = root / "proc"
        self.dev = root / "dev"

    def write(self, path: Path, text: str) -> None:
        """Writes a control file of sysfs in one call. Raises OSError."""
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def claim(self, node: Path) -> int:
        """Opens a block device exclusively, which the kernel refuses with EBUSY while anything has claimed it."""
        return os.open(node, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC)


def read(path: Path) -> str:
    """A file's text without white space around it; "" if it can't be read (devices may be removed at any time)."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def link(path: Path) -> str | None:
    """The last part of the target of a symbolic link; None if there is no link."""
    try:
        return path.readlink().name
    except OSError:
        return None


def entries(folder: Path) -> list[Path]:
    """The entries of a folder, sorted; none if it does not exist."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
