"""How the log is written: lines of text, lines of JSON, or entries of systemd's journal with fields.

What a message is about is part of its form: where a message says "controller %s", "bdev %s" or "export %s", the entry
has a field of that name, too, so that one can look for it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import socket
import struct
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

from virtiod.daemon.systemd import is_journal

FORMATS = ("auto", "text", "json", "journal")
JOURNAL_SOCKET = "/run/systemd/journal/socket"

_TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_SUBJECT = re.compile(r"\b(controller|bdev|export) $")
_ARGUMENT = re.compile(r"(?<!%)(?:%%)*%[-#0 +]*[\d.]*[sdrgxif]")
# Level from which on -> priority of syslog(3).
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (25, 5), (logging.INFO, 6), (0, 7))


def handler_for(form: str) -> logging.Handler:
    """The handler that writes the log to standard error, or to the journal if standard error leads there ("auto")."""
    if form == "journal" or (form == "auto" and is_journal(2)):
        return JournalHandler()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(_TEXT))
    return handler


def subjects(record: logging.LogRecord) -> Iterator[tuple[str, str]]:
    """What the message is about: ("controller", "V0")."""
    if not isinstance(record.args, tuple):
        return
    text, end = str(record.msg), 0
    for argument, placeholder in zip(record.args, _ARGUMENT.finditer(text), strict=False):
        match = _SUBJECT.search(text, end, placeholder.start())
        end = placeholder.end()
        if match:
            yield match[1], str(argument)


class JsonFormatter(logging.Formatter):
    """Formats a message as one line of JSON: time (UTC), level, logger, message, what it is about, exception."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **dict(subjects(record)),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class JournalHandler(logging.Handler):
    """Sends entries to the journal, by its native protocol. It never waits: entries that are not taken are counted."""

    def __init__(self, address: str = JOURNAL_SOCKET) -> None:
        super().__init__()
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            entry = journal_entry(record, self.format(record))
            if self._lost:
                entry += _field("VIRTIOD_LOST_ENTRIES", str(self._lost))
            self._send(entry)
            self._lost = 0
        except OSError:
            self._lost += 1
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        self._socket.close()
        super().close()

    def _send(self, entry: bytes) -> None:
        try:
            self._socket.sendto(entry, self._address)
        except OSError as error:
            if error.errno not in {errno.EMSGSIZE, errno.ENOBUFS}:
                raise
            self._send_file(entry)

    def _send_file(self, entry: bytes) -> None:
        """Sends an entry that is too long for a datagram, as a sealed file."""
        with os.fdopen(os.memfd_create("virtiod-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "wb", 0) as file:
            file.write(entry)
            seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
            descriptor = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", file.fileno()))]
            self._socket.sendmsg([b""], descriptor, 0, self._address)


def journal_entry(record: logging.LogRecord, message: str) -> bytes:
    """The fields of systemd.journal-fields(7), and those that say what it is about."""
    fields = {
        "MESSAGE": message,
        "PRIORITY": str(next(priority for level, priority in _PRIORITIES if record.levelno >= level)),
        "SYSLOG_IDENTIFIER": "virtiod",
        "SYSLOG_PID": str(os.getpid()),
        "CODE_FILE": record.pathname,
        "CODE_LINE": str(record.lineno),
        "CODE_FUNC": record.funcName or "",
        "LOGGER": record.name,
        **{subject.upper(): name for subject, name in subjects(record)},
    }
    return b"".join(_field(name, value) for name, value in fields.items())


def _field(name: str, value: str) -> bytes:
    """One field; a value of several lines is sent with its length (64 bits, little-endian)."""
    data = value.encode(errors="replace")
    if b"\n" in data:
        return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode() + b"=" + data + b"\n"
