"""The daemon's log: all of Python logging, printed on standard error or sent to the journal.

Two thresholds, as operators of SPDK know them: the level from which messages are made, and the level from which
they are printed. A flag makes one part of the daemon (rpc, bdev, ...) log everything in spite of both.
"""

from __future__ import annotations

import logging
import sys
import threading

from virtiod.core.errors import InvalidArgument
from virtiod.core.levels import LEVELS, NOTICE
from virtiod.core.outqueue import let_go_of
from virtiod.daemon.logformats import handler_for

PARTS = ("bdev", "config", "controllers", "core", "daemon", "exports", "http", "rpc", "transports")

logger = logging.getLogger(__name__)


class LogControl:
    """Owns the log's handler; close() removes it. form: one of logformats.FORMATS."""

    def __init__(self, level: str = "INFO", form: str = "text") -> None:
        logging.addLevelName(NOTICE, "NOTICE")
        self._logger = logging.getLogger("virtiod")
        self._flags = dict.fromkeys(PARTS, False)
        self._handler = handler_for(form)
        self._handler.addFilter(self._prints)
        logging.getLogger().addHandler(self._handler)  # other libraries log, too
        self.level = level
        self.print_level = level

    @property
    def level(self) -> str:
        return self._level

    @level.setter
    def level(self, name: str) -> None:
        self._level = name
        self._logger.setLevel(LEVELS[name])

    @property
    def dropped(self) -> int:
        """How many messages were dropped, as nobody read the log, or it could not be written."""
        return self._handler.queue.dropped

    @property
    def dropping(self) -> bool:
        """Whether they are now."""
        return self._handler.queue.dropping

    def flags(self) -> dict[str, bool]:
        return dict(self._flags)

    def set_flag(self, name: str, on: bool) -> None:
        """Sets or clears a flag; "all" is every part. Raises InvalidArgument for an unknown part."""
        if name != "all" and name not in self._flags:
            raise InvalidArgument(f"there is no log flag {name!r} (flags: all, {', '.join(PARTS)})")
        for part in PARTS if name == "all" else (name,):
            self._flags[part] = on
            logging.getLogger(f"virtiod.{part}").setLevel(logging.DEBUG if on else logging.NOTSET)

    def log_stacks(self, stacks: str) -> None:
        """Logs what an operator has asked for, whatever the levels are."""
        message = "the stacks of all threads"
        self._handler.emit(logging.LogRecord(__name__, NOTICE, __file__, 0, message, None, None, sinfo=stacks))

    def close(self) -> None:
        """Writes what waits, but does not wait long for a reader. Idempotent."""
        self.set_flag("all", False)
        self._logger.setLevel(logging.NOTSET)
        logging.getLogger().removeHandler(self._handler)
        if not self._handler.finish():
            let_go_of(sys.stderr)

    def _prints(self, record: logging.LogRecord) -> bool:
        root, _, rest = record.name.partition(".")
        flag = root == "virtiod" and self._flags.get(rest.partition(".")[0], False)
        return flag or record.levelno >= LEVELS[self.print_level]


def log_what_python_prints() -> None:
    """Has Python's own messages logged, which would else go straight to standard error, and wait for a reader."""
    logging.captureWarnings(True)
    sys.unraisablehook = _unraisable
    threading.excepthook = _thread_failed


def _unraisable(args: sys.UnraisableHookArgs) -> None:
    where = args.err_msg or "an exception was ignored"
    logger.error("%s: %r", where, args.object, exc_info=args.exc_value)


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    name = args.thread.name if args.thread else "?"
    logger.error("thread %s failed", name, exc_info=args.exc_value)
