"""The state file: what RPC created, written again after each change, in the format of a configuration file."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from virtiod.config.document import Call, read_config
from virtiod.core.errors import InvalidArgument


class StateFile:
    """`path` always holds a complete document, whenever the machine stops."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._written = ""
        self._writing = threading.Lock()

    def read(self) -> list[Call]:
        """The calls that were written last; none if there is no file yet. Raises InvalidArgument."""
        folder = Path(self.path).parent
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InvalidArgument(f"--state {self.path}: {folder} is not a directory that can be written to")
        return read_config(self.path) if Path(self.path).exists() else []

    def write(self, document: dict[str, Any]) -> None:
        """Writes the document; blocks until it is on disk. Raises OSError, and keeps the old content then."""
        text = json.dumps(document, indent=2) + "\n"
        with self._writing:
            if text != self._written:
                self._replace(text)
                self._written = text

    def _replace(self, text: str) -> None:
        new = f"{self.path}.new"
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(new).replace(self.path)
        folder = os.open(Path(self.path).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)  # the new name
        finally:
            os.close(folder)
