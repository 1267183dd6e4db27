"""A poller that goes to sleep while others send it messages: push, run, settle and rise of virtiod/poller/rounds.py.

A message is a number from 1 on; what it says is in memory of its own, as is the link to the one below it.
"""

from __future__ import annotations

from collections.abc import Generator

from tests.models.memory import Op, cas, choose, exchange, fence, load, read, signal, store, wait, write
from tests.models.search import Code, Model, Wrong

SAID = 7


def _push(m: int) -> Generator[Op, int, None]:
    while True:
        old = yield load("inbox")
        yield write(f"next {m}", old)
        stored = yield cas("inbox", old, m)
        if stored:
            break


def push(first: int, last: int) -> Code:
    """A thread that sends the messages first .. last."""
    m = first
    while m <= last:
        yield write(f"message {m}", SAID)
        yield from _push(m)
        yield fence()
        sleeping = yield load("sleeping")
        if sleeping:
            yield signal("evfd")
        m += 1


def run_inbox() -> Generator[Op, int, int]:
    n = 0
    m = yield exchange("inbox", 0)
    while m:
        after = yield read(f"next {m}")
        said = yield read(f"message {m}")
        if said != SAID:
            raise Wrong(f"message {m} is run before what it says has come")
        n += 1
        m = after
    return n


def _sleep(sources: int) -> Generator[Op, int, None]:
    yield store("sleeping", 1)
    yield fence()
    found = False
    if sources:
        found = yield from arm()
    inbox = yield load("inbox")
    if not found and not inbox:
        yield wait("evfd")
    yield store("sleeping", 0)


def arm() -> Generator[Op, int, bool]:
    """Of a queue on whose ring nothing happens: it has a fence of its own."""
    yield store("used_event", 0)
    yield fence()
    seen = yield load("used.idx")
    return seen != 0


def run(messages: int, sources: int) -> Code:
    """Until all messages have come."""
    left = messages
    while left:
        work = 0
        inbox = yield read("inbox")
        if inbox:
            work = yield from run_inbox()
        left -= work
        if left and not work:
            idle_for_long = yield choose(2)
            if idle_for_long:
                yield from _sleep(sources)


def model(sources: int = 0, senders: int = 2, each: int = 1) -> Model:
    messages = senders * each
    threads = {f"sender {n}": (lambda n=n: push(n * each + 1, n * each + each)) for n in range(senders)}
    cells = {"inbox": 0, "sleeping": 0, "used_event": 0, "used.idx": 0}
    for m in range(1, messages + 1):
        cells |= {f"next {m}": 0, f"message {m}": 0}
    return Model({**threads, "poller": lambda: run(messages, sources)}, cells, ("poller",))
