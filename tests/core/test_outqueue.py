"""What is printed waits within bounds, and nobody waits for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.waiting import wait_until
from virtiod.core import outqueue
from virtiod.core.outqueue import Descriptor, Gap, OutputQueue


class Slow:
    """An output that takes what it is let take."""

    stream = False

    def __init__(self) -> None:
        self.trouble = ""
        self.took: list[bytes] = []
        self.may = threading.Semaphore(0)
        self.closed = False

    def write(self, message: bytes, given_up: threading.Event) -> bool:
        while not self.may.acquire(timeout=0.01):
            if given_up.is_set():
                return False
        self.took.append(message)
        return True

    def close(self) -> None:
        self.closed = True


def told(gap: Gap) -> bytes:
    return f"{gap.messages} of {gap.size} ({gap.why})".encode()


def test_messages_are_written_in_their_order_and_all_before_the_end() -> None:
    slow = Slow()
    queue = OutputQueue(slow)
    messages = [str(number).encode() for number in range(100)]
    for message in messages:
        queue.put(message)
    slow.may.release(100)
    assert queue.close()
    assert slow.took == messages
    assert slow.closed
    queue.put(b"late")
    assert queue.dropped == 1


@pytest.mark.parametrize(("max_bytes", "max_messages"), [(1000, 1_000_000), (1_000_000, 10)])
def test_what_has_no_room_is_dropped_and_told_in_its_place(max_bytes: int, max_messages: int) -> None:
    slow = Slow()
    queue = OutputQueue(slow, told, max_bytes, max_messages)
    for number in range(15):
        queue.put(b"%0100d" % number)
    assert (queue.dropped, queue.dropping) == (5, True)
    slow.may.release(4)
    wait_until(lambda: len(slow.took) == 4, "some to be written")
    queue.put(b"still dropped: half of the room is not free")
    slow.may.release(2)
    wait_until(lambda: len(slow.took) == 6, "more to be written")
    queue.put(b"after the gap")
    assert (queue.dropped, queue.dropping) == (6, False)
    slow.may.release(100)
    assert queue.close()
    assert slow.took == [*(b"%0100d" % number for number in range(10)), b"6 of 543 ()", b"after the gap"]


def test_a_gap_is_told_as_soon_as_all_before_it_is_written() -> None:
    slow = Slow()
    queue = OutputQueue(slow, told, max_messages=1)
    queue.put(b"a")
    slow.trouble = "No space left on device"
    queue.put(b"b")
    slow.may.release(2)
    wait_until(lambda: slow.took == [b"a", b"1 of 1 (No space left on device)"], "the gap to be told")
    assert queue.close()


def test_a_message_that_is_longer_than_all_the_room_is_written_if_no_other_waits() -> None:
    slow = Slow()
    queue = OutputQueue(slow, told, max_bytes=10)
    queue.put(b"x" * 100)
    queue.put(b"y")
    slow.may.release(2)
    assert queue.close()
    assert slow.took == [b"x" * 100, b"1 of 1 ()"]


def test_the_end_does_not_wait_for_a_reader_for_ever() -> None:
    slow = Slow()
    queue = OutputQueue(slow)
    queue.put(b"a")
    assert not queue.close(0.01)
    assert slow.took == []
    assert slow.closed


def test_a_finalizer_may_print_while_the_queue_is_locked() -> None:
    slow = Slow()
    queue = OutputQueue(slow)
    with queue._changed:  # as when the collector runs in put()
        queue.put(b"a")
    slow.may.release()
    assert queue.close()
    assert slow.took == [b"a"]


def test_messages_of_a_stream_are_written_together_but_not_too_many() -> None:
    slow = Slow()
    slow.stream = True
    queue = OutputQueue(slow, told, max_messages=20)
    with queue._changed:
        for number in range(21):
            queue.put(b"%010000d" % number)
    slow.may.release(100)
    assert queue.close()
    written = [b"%010000d" % number for number in range(20)]
    whole = [b"".join(written[first : first + 6]) for first in range(0, 20, 6)]
    assert slow.took == [*whole, b"1 of 10000 ()"]


@contextmanager
def pipe(blocking: bool = True) -> Iterator[tuple[int, int]]:
    """A pipe that is full."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writes, b"-" * 1024)
    os.set_blocking(writes, blocking)
    yield reads, writes
    os.close(reads)
    os.close(writes)


@pytest.mark.parametrize("blocking", [True, False])
def test_a_full_pipe_is_waited_for_by_the_thread_alone(blocking: bool) -> None:
    with pipe(blocking) as (reads, writes):
        queue = OutputQueue(Descriptor(writes))
        queue.put(b"x" * 100_000)
        queue.put(b"end")
        read = b""
        while not read.endswith(b"end"):
            read += os.read(reads, 1 << 16)
        assert read.lstrip(b"-") == b"x" * 100_000 + b"end"
        assert queue.close()


def test_a_full_pipe_does_not_hold_up_the_end() -> None:
    with pipe() as (_, writes):
        queue = OutputQueue(Descriptor(writes))
        queue.put(b"x" * 100_000)
        assert not queue.close(0.01)
        assert not any(thread.name == "output" for thread in threading.enumerate())


def test_what_can_not_be_written_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, writes = os.pipe()
    monkeypatch.setattr(outqueue, "_RETRY_S", 0.001)
    failures = [OSError(28, "No space left on device")] * 3
    real = os.write

    def write(fd: int, data: bytes) -> int:
        if fd == writes and failures:
            raise failures.pop()
        return real(fd, data[:2])

    monkeypatch.setattr(os, "write", write)
    output = Descriptor(writes)
    queue = OutputQueue(output)
    queue.put(b"whole")
    assert queue.close()
    assert (os.read(reads, 100), output.trouble) == (b"whole", "")
    os.close(reads)
    os.close(writes)


def test_a_reader_that_went_away_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outqueue, "_RETRY_S", 0.001)
    reads, writes = os.pipe()
    os.close(reads)
    output = Descriptor(writes)
    queue = OutputQueue(output)
    queue.put(b"a")
    wait_until(lambda: output.trouble == "Broken pipe", "the failure to be noticed")
    assert not queue.close(0.01)
    os.close(writes)
