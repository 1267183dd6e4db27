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
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

from virtiod.core.escape import escaped, shortened
from virtiod.core.logtext import QueuedHandler, SafeFormatter, message_of, text_handler
from virtiod.core.outqueue import output_of
from virtiod.daemon.systemd import is_journal

FORMATS = ("auto", "text", "json", "journal")
JOURNAL_SOCKET = "/run/systemd/journal/socket"

_SUBJECT = re.compile(r"\b(controller|bdev|export) $")
_ARGUMENT = re.compile(r"(?<!%)(?:%%)*%[-#0 +]*[\d.]*[sdrgxif]")
# Level from which on -> priority of syslog(3).
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (25, 5), (logging.INFO, 6), (0, 7))
MAX_FIELD = 4096  # characters of what a message is about
_BUSY_S = 0.05  # until the journal is tried again


def handler_for(form: str) -> QueuedHandler:
    """The handler that writes the log to standard error, or to the journal if standard error leads there ("auto")."""
    if form == "journal" or (form == "auto" and is_journal(2)):
        return journal_handler()
    if form != "json":
        return text_handler(output_of(sys.stderr))
    formatter = JsonFormatter()
    return QueuedHandler(output_of(sys.stderr), lambda record: f"{formatter.format(record)}\n".encode())


def subjects(record: logging.LogRecord) -> Iterator[tuple[str, str]]:
    """What the message is about: ("controller", "V0")."""
    if not isinstance(record.args, tuple):
        return
    text, end = str(record.msg), 0
    for argument, placeholder in zip(record.args, _ARGUMENT.finditer(text), strict=False):
        match = _SUBJECT.search(text, end, placeholder.start())
        end = placeholder.end()
        if match:
            yield match[1], escaped(shortened(str(argument), MAX_FIELD))


class JsonFormatter(SafeFormatter):
    """Formats a message as one line of JSON: time (UTC), level, logger, message, what it is about, exception, stacks.

    Control characters in the message are escaped as in a line of text, so that it is safe to print for whoever reads
    the JSON.
    """

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": message_of(record),
            **dict(subjects(record)),
        }
        if details := "\n".join(self.details(record)):
            entry["exception" if record.exc_info else "stacks"] = details
        return json.dumps(entry)


def journal_handler(address: str = JOURNAL_SOCKET) -> QueuedHandler:
    """A handler that sends entries to the journal, by its native protocol."""
    formatter = SafeFormatter()
    return QueuedHandler(Journal(address), lambda record: journal_entry(record, formatter.format(record)))


class Journal:
    """The journal's socket. Entries that are not taken are sent again, as long as it takes."""

    stream = False  # each is a datagram

    def __init__(self, address: str) -> None:
        self.trouble = ""
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

    def write(self, entry: bytes, given_up: threading.Event) -> bool:
        while True:
            try:
                self._send(entry)
            except BlockingIOError:
                self.trouble = ""
            except OSError as error:
                self.trouble = f"{self._address}: {error.strerror}"
            else:
                return True
            if given_up.wait(_BUSY_S):
                return False

    def close(self) -> None:
        self._socket.close()

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
