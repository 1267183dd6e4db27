"""The state file: what RPC created, written again after each change, in the format of a configuration file.

It is replaced by a new file, whose name nobody can foresee: who may make files in the same directory can neither have
another file overwritten, by a link of that name, nor keep the new one from being made.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

from virtiod.config.document import Call, read_config
from virtiod.core.errors import InvalidArgument

_SUFFIX = ".new"


class StateFile:
    """`path` always holds a complete document, whenever the machine stops."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._written = ""

    def read(self) -> list[Call]:
        """The calls that were written last; none if there is no file yet. Call it before write(). Raises
        InvalidArgument."""
        folder = Path(self.path).parent
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InvalidArgument(f"--state {self.path}: {folder} is not a directory that can be written to")
        self._tidy(folder)
        return read_config(self.path) if Path(self.path).exists() else []

    def write(self, document: dict[str, Any]) -> None:
        """Writes the document; blocks until it is on disk. Raises OSError, and keeps the old content then.

        One thread at a time.
        """
        text = json.dumps(document, indent=2) + "\n"
        if text != self._written:
            self._written = ""  # a failure may come before or after the file is there
            self._replace(text)
            self._written = text

    def _replace(self, text: str) -> None:
        folder = Path(self.path).parent
        fd, new = tempfile.mkstemp(_SUFFIX, self._prefix, folder)  # O_EXCL, O_NOFOLLOW, mode 0600
        try:
            with os.fdopen(fd, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(new).replace(self.path)
        except BaseException:
            Path(new).unlink(missing_ok=True)
            raise
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)  # the new name
        finally:
            os.close(directory)

    @property
    def _prefix(self) -> str:
        return f".{Path(self.path).name}."

    def _tidy(self, folder: Path) -> None:
        """Removes what a daemon that was killed left of a file that it was writing."""
        for left in folder.glob(f"{glob.escape(self._prefix)}*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                found = left.lstat()
                if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
                    left.unlink()
