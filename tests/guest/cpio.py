"""Writes what the kernel unpacks as its first file system: a cpio archive in the "newc" format.

Archives may follow each other in one file: each is padded to 512 bytes, and later files replace earlier ones.
"""

from __future__ import annotations

import stat
from pathlib import Path, PurePosixPath
from typing import BinaryIO

ALIGNMENT = 512
END = "TRAILER!!!"


class Archive:
    """Files under their paths in the guest; all belong to root. Parents are made as they are needed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._names: set[str] = set()

    def _entry(self, name: str, mode: int, data: bytes = b"", mtime: int = 0) -> None:
        encoded = name.encode() + b"\0"
        # ino, mode, uid, gid, nlink, mtime, size, major, minor, rmajor, rminor, name's size, check
        fields = (len(self._names), mode, 0, 0, 1, mtime, len(data), 0, 0, 0, 0, len(encoded), 0)
        self._file.write(b"070701" + b"".join(b"%08x" % field for field in fields) + encoded)
        self._pad(4)
        self._file.write(data)
        self._pad(4)

    def _pad(self, alignment: int) -> None:
        self._file.write(bytes(-self._file.tell() % alignment))

    def _claim(self, path: PurePosixPath) -> bool:
        """Whether the path is new; its parents are then there."""
        name = str(path).lstrip("/")
        if not name or name in self._names:
            return False
        self.folder(path.parent)
        self._names.add(name)
        return True

    def folder(self, path: PurePosixPath) -> None:
        if self._claim(path):
            self._entry(str(path).lstrip("/"), stat.S_IFDIR | 0o755)

    def link(self, path: PurePosixPath, target: str) -> None:
        if self._claim(path):
            self._entry(str(path).lstrip("/"), stat.S_IFLNK | 0o777, target.encode())

    def file(self, path: PurePosixPath, data: bytes, mode: int = 0o644, mtime: int = 0) -> None:
        """The first file of a path stays."""
        if self._claim(path):
            self._entry(str(path).lstrip("/"), stat.S_IFREG | mode, data, mtime)

    def copy(self, source: Path, path: PurePosixPath) -> None:
        """With the time of its last change, by which Python knows whether what it compiled is up to date."""
        found = source.stat()
        self.file(path, source.read_bytes(), 0o755 if found.st_mode & 0o100 else 0o644, int(found.st_mtime))

    def end(self) -> None:
        self._entry(END, 0)
        self._pad(ALIGNMENT)
