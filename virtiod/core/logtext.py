"""The log as lines of text, and how messages reach it.

Each message is one line, whatever is in it; each line that belongs to it, as of a traceback, is indented. So no line
of the log can be taken for a message that the program did not make.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from virtiod.core.counted import counted
from virtiod.core.escape import escaped, shortened
from virtiod.core.outqueue import FLUSH_S, Gap, Output, OutputQueue, let_go_of, output_of

MAX_CHARACTERS = 1 << 17  # of a message, and of its traceback
INDENT = "    "

_TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class SafeFormatter(logging.Formatter):
    """Formats a message as one line, and indents what belongs to it."""

    def format(self, record: logging.LogRecord) -> str:
        record.message = message_of(record)
        if self.usesTime():
            record.asctime = self.formatTime(record)
        return "\n".join([self.formatMessage(record), *((INDENT + line).rstrip() for line in self.details(record))])

    def details(self, record: logging.LogRecord) -> Iterator[str]:
        """The lines of its traceback and of the stacks that belong to it."""
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)  # as other formatters do, who use it again
        for text in (record.exc_text, record.stack_info):
            if text:
                yield from (escaped(line) for line in shortened(text, MAX_CHARACTERS).rstrip("\n").split("\n"))


def message_of(record: logging.LogRecord) -> str:
    """The message, without control characters, and cut if it is very long."""
    return escaped(shortened(record.getMessage(), MAX_CHARACTERS))


class TextFormatter(SafeFormatter):
    """Formats a message as a line with time, level and logger."""

    def __init__(self) -> None:
        super().__init__(_TEXT)


class QueuedHandler(logging.Handler):
    """Hands messages to a queue, so that nobody who logs waits for a reader. encode: makes of one what is written."""

    def __init__(self, output: Output, encode: Callable[[logging.LogRecord], bytes]) -> None:
        super().__init__()
        self._encode = encode
        self.queue = OutputQueue(output, self._gap)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = self._encode(record)
        except Exception as error:
            message = self._encode(_broken(record, error))
        self.queue.put(message)

    def finish(self, deadline_s: float = FLUSH_S) -> bool:
        """Waits until all is written, for so long at most, and ends. Returns whether all was written."""
        written = self.queue.close(deadline_s)
        self.close()
        return written

    def _gap(self, gap: Gap) -> bytes:
        args = (counted(gap.messages, "message"), counted(gap.size, "byte"), gap.seconds, gap.why or "nobody read it")
        text = "%s of the log, %s in %.1f s, were dropped here: %s"
        return self._encode(logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, args, None))


def _broken(record: logging.LogRecord, error: Exception) -> logging.LogRecord:
    """The message in place of one that has no form: the mistake of whoever logs it must not be silent."""
    text, args = "%r has no form: %r", (record.msg, error)
    return logging.LogRecord(record.name, logging.ERROR, record.pathname, record.lineno, text, args, None)


def text_handler(output: Output) -> QueuedHandler:
    """A handler that writes lines of text."""
    formatter = TextFormatter()
    return QueuedHandler(output, lambda record: f"{formatter.format(record)}\n".encode(errors="backslashreplace"))


@contextmanager
def logged() -> Iterator[None]:
    """While a command runs, warnings and errors of all loggers are lines of text on standard error."""
    handler = text_handler(output_of(sys.stderr))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        if not handler.finish():
            let_go_of(sys.stderr)
