"""What is printed waits here, in bounded memory, for a thread that writes it: who prints never waits for a reader.

When the bounds are reached messages are dropped, and counted, until half of the room is free again. In their place
stands a message that says how many there were, and why.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from io import UnsupportedOperation
from typing import Protocol, TextIO

from virtiod.core.escape import escaped_lines

MAX_BYTES = 1 << 20
MAX_MESSAGES = 8192
_AT_ONCE = 1 << 16  # bytes: the thread may get its turn seldom while another is busy
FLUSH_S = 1.0  # for what waits, at the end
_GIVE_UP_S = 0.5  # for the writer to end when that is over
_LOOK_MS = 200  # how often it looks whether it is to end, while nobody reads
_RETRY_S = 0.5  # until it tries again what failed


class Output(Protocol):
    """Where messages go. write() is called in the queue's thread only, close() after it."""

    @property
    def stream(self) -> bool:
        """Whether several messages can be written as one."""

    @property
    def trouble(self) -> str:
        """Why nothing can be written; "" as long as it only has to wait."""

    def write(self, message: bytes, given_up: threading.Event) -> bool:
        """Writes all of it, however long that takes; False if it is given up before."""

    def close(self) -> None:
        """Gives back what it has opened."""


class Descriptor:
    """A file descriptor: a pipe, a terminal, a socket, a file. What can't be written, as on a full disk, is retried."""

    stream = True

    def __init__(self, fd: int) -> None:
        self.trouble = ""
        self._fd = fd
        # A pipe that has room takes as many bytes without making the writer wait (pipe(7)).
        self._at_once = _AT_ONCE if stat.S_ISREG(os.fstat(fd).st_mode) else select.PIPE_BUF
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def write(self, message: bytes, given_up: threading.Event) -> bool:
        left = memoryview(message)
        while left:
            try:
                if self._poll.poll(_LOOK_MS):
                    left = left[os.write(self._fd, left[: self._at_once]) :]
                    self.trouble = ""
                elif given_up.is_set():
                    return False
            except BlockingIOError:  # somebody made it non-blocking
                if given_up.wait(_LOOK_MS / 1e3):
                    return False
            except OSError as error:
                self.trouble = os.strerror(error.errno or 0)
                if given_up.wait(_RETRY_S):
                    return False
        return True

    def close(self) -> None:
        """The descriptor is not its own."""


class Memory:
    """A stream without a file descriptor, as tests have: it is written at once."""

    stream = True
    trouble = ""

    def __init__(self, text: TextIO) -> None:
        self._text = text

    def write(self, message: bytes, _given_up: threading.Event) -> bool:
        with contextlib.suppress(ValueError):  # it is closed
            self._text.write(message.decode())
        return True

    def close(self) -> None:
        """The stream is not its own."""


def output_of(stream: TextIO) -> Output:
    """Standard output or standard error."""
    try:
        return Descriptor(stream.fileno())
    except UnsupportedOperation:
        return Memory(stream)


@dataclass
class Gap:
    """What was dropped at one place. size: bytes. why: "" when nobody read."""

    since: float  # of time.monotonic()
    messages: int = 0
    size: int = 0
    why: str = ""

    @property
    def seconds(self) -> float:
        """Since when it grows, or grew."""
        return time.monotonic() - self.since


class OutputQueue:
    """Any thread may put messages; close() at the end, with which the queue's thread ends.

    tell: makes a message of a gap; without it nothing stands in its place.
    """

    def __init__(
        self,
        output: Output,
        tell: Callable[[Gap], bytes] = lambda _: b"",
        max_bytes: int = MAX_BYTES,
        max_messages: int = MAX_MESSAGES,
    ) -> None:
        self.dropped = 0
        self.dropping = False
        self._output = output
        self._tell = tell
        self._max_bytes, self._max_messages = max_bytes, max_messages
        # Its lock is one that the same thread can take again: while put() has it, a finalizer may run, and log.
        self._changed = threading.Condition()
        self._waiting: deque[bytes | Gap] = deque()  # the first are being written
        self._bytes = 0  # of those
        self._thread: threading.Thread | None = None
        self._given_up = threading.Event()
        self._closing = self._closed = False

    def put(self, message: bytes) -> None:
        """Has it written; drops it when there is no room. Never waits."""
        if self._closed:  # its thread may have been left behind with the lock
            self.dropped += 1
            return
        with self._changed:
            if self._has_room(len(message)) and self._started():
                self._waiting.append(message)
                self._bytes += len(message)
            else:
                self._drop(len(message))
            self._changed.notify()

    def close(self, deadline_s: float = FLUSH_S) -> bool:
        """Waits until all is written, for so long at most; what is put from then on is dropped. Idempotent.

        Returns whether all was written.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        if not self._closed:
            self._closed = True
            if self._thread is None or self._ends(self._thread, deadline_s):
                self._output.close()
        return not self._waiting

    def _ends(self, thread: threading.Thread, deadline_s: float) -> bool:
        thread.join(deadline_s)
        if thread.is_alive():
            self._given_up.set()
            thread.join(_GIVE_UP_S)
        return not thread.is_alive()

    def _has_room(self, size: int) -> bool:
        of_bytes, of_messages = self._max_bytes, self._max_messages
        if self.dropping:
            self.dropping = self._bytes > of_bytes // 2 or len(self._waiting) > of_messages // 2
        else:
            # One that is longer than all the room is taken if no other waits.
            crowded = self._bytes + size > of_bytes or len(self._waiting) >= of_messages
            self.dropping = bool(self._waiting) and crowded
        return not self.dropping

    def _drop(self, size: int) -> None:
        last = self._waiting[-1] if self._waiting else None
        if not isinstance(last, Gap):
            last = Gap(time.monotonic())
            self._waiting.append(last)
        last.messages += 1
        last.size += size
        last.why = self._output.trouble
        self.dropped += 1

    def _started(self) -> bool:
        """Starts the thread with the first message; False if that can't be."""
        if self._thread is None:
            # It ends with the process, however stuck it may be.
            self._thread = threading.Thread(target=self._write, name="output", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:
                self._thread = None
        return self._thread is not None

    # ---- the thread

    def _write(self) -> None:
        while messages := self._next():
            if not self._output.write(b"".join(messages), self._given_up):
                return
            with self._changed:
                for message in messages:
                    self._waiting.popleft()
                    self._bytes -= len(message)

    def _next(self) -> list[bytes]:
        """The next messages, which stay the first of the queue until they are written; none at the end."""
        with self._changed:
            while not self._waiting:
                if self._closing:
                    return []
                self._changed.wait()
            first = self._waiting[0]
            if isinstance(first, Gap):
                first = self._waiting[0] = self._tell(first)
                self._bytes += len(first)
            messages, size = [first], len(first)
            # By index: a finalizer that prints meanwhile makes the queue longer.
            while self._output.stream and len(messages) < len(self._waiting):
                message = self._waiting[len(messages)]
                if isinstance(message, Gap) or size + len(message) > _AT_ONCE:
                    break
                messages.append(message)
                size += len(message)
            return messages


def print_last(text: str) -> None:
    """Prints last lines on standard error, but does not wait long for a reader."""
    queue = OutputQueue(output_of(sys.stderr))
    queue.put(f"{escaped_lines(text)}\n".encode())
    if not queue.close():
        let_go_of(sys.stderr)


def let_go_of(stream: TextIO) -> None:
    """Has what is printed from now on go nowhere: nobody reads, and Python itself may print when it ends."""
    with contextlib.suppress(OSError, UnsupportedOperation):
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
