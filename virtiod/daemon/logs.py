"""The daemon's log: Python logging below the logger "virtiod", printed on standard error or sent to the journal.

Two thresholds, as operators of SPDK know them: the level from which messages are made, and the level from which
they are printed. A flag makes one part of the daemon (rpc, bdev, ...) log everything in spite of both.
"""

from __future__ import annotations

import logging

from virtiod.core.errors import InvalidArgument
from virtiod.core.levels import LEVELS, NOTICE
from virtiod.daemon.logformats import handler_for

PARTS = ("bdev", "config", "controllers", "core", "daemon", "exports", "http", "rpc", "transports")


class LogControl:
    """Owns the log's handler; close() removes it. form: one of logformats.FORMATS."""

    def __init__(self, level: str = "INFO", form: str = "text") -> None:
        logging.addLevelName(NOTICE, "NOTICE")
        self._logger = logging.getLogger("virtiod")
        self._flags = dict.fromkeys(PARTS, False)
        self._handler = handler_for(form)
        self._handler.addFilter(self._prints)
        self._logger.addHandler(self._handler)
        self.level = level
        self.print_level = level

    @property
    def level(self) -> str:
        return self._level

    @level.setter
    def level(self, name: str) -> None:
        self._level = name
        self._logger.setLevel(LEVELS[name])

    def flags(self) -> dict[str, bool]:
        return dict(self._flags)

    def set_flag(self, name: str, on: bool) -> None:
        """Sets or clears a flag; "all" is every part. Raises InvalidArgument for an unknown part."""
        if name != "all" and name not in self._flags:
            raise InvalidArgument(f"there is no log flag {name!r} (flags: all, {', '.join(PARTS)})")
        for part in PARTS if name == "all" else (name,):
            self._flags[part] = on
            logging.getLogger(f"virtiod.{part}").setLevel(logging.DEBUG if on else logging.NOTSET)

    def close(self) -> None:
        self.set_flag("all", False)
        self._logger.setLevel(logging.NOTSET)
        self._logger.removeHandler(self._handler)
        self._handler.close()

    def _prints(self, record: logging.LogRecord) -> bool:
        part = record.name.split(".")[1] if "." in record.name else ""
        return record.levelno >= LEVELS[self.print_level] or self._flags.get(part, False)
