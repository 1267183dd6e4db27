"""What threads do to shared memory, and two ways in which memory may order it.

`Tso` is x86: each thread's stores go through a queue of its own; a fence waits until it is empty, and so does an atomic
read-modify-write. `Views` is weaker than any processor that the code may run on (ARM, say), and is what C11 promises of
atomics: a load may return any value that is not older than what the thread knows of; a release store tells what its
thread knows to whoever reads it by an acquire load; two fences tell each other. Neither lets a load see the future.

System calls order nothing here, though the kernel's do: what needs no help from them does not depend on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol


class Op(NamedTuple):
    """A step of a thread. strong: acquire for a load, release for a store, both for cas and exchange."""

    kind: str  # load, store, cas, exchange, fence, signal, wait, choose
    at: str = ""
    value: int = 0
    expected: int = 0
    strong: bool = False


def load(at: str) -> Op:
    """atomics.load_*"""
    return Op("load", at, strong=True)


def store(at: str, value: int) -> Op:
    """atomics.store_*"""
    return Op("store", at, value, strong=True)


def read(at: str) -> Op:
    """A plain load."""
    return Op("load", at)


def write(at: str, value: int) -> Op:
    """A plain store."""
    return Op("store", at, value)


def fence() -> Op:
    """atomics.fence"""
    return Op("fence", strong=True)


def cas(at: str, expected: int, value: int) -> Op:
    """atomics.cas_ptr: 1 if it was stored."""
    return Op("cas", at, value, expected, strong=True)


def exchange(at: str, value: int) -> Op:
    """atomics.exchange_ptr"""
    return Op("exchange", at, value, strong=True)


def signal(at: str) -> Op:
    """Write to an eventfd."""
    return Op("signal", at)


def wait(at: str) -> Op:
    """Wait for an eventfd, and read it."""
    return Op("wait", at)


def choose(n: int) -> Op:
    """Any of 0 .. n - 1."""
    return Op("choose", value=n)


class Memory(Protocol):
    """A state of memory, which is never changed: steps yield the result of an op, and the state after it."""

    def steps(self, thread: int, op: Op) -> Iterator[tuple[int, Memory]]: ...

    def own_steps(self) -> Iterator[tuple[str, Memory]]:
        """What memory does by itself."""


Pairs = tuple[tuple[str, int], ...]


def _with(pairs: Pairs, at: str, value: int) -> Pairs:
    return tuple((name, value if name == at else old) for name, old in pairs)


def _get(pairs: Pairs, at: str) -> int:
    return next(value for name, value in pairs if name == at)


@dataclass(frozen=True)
class Tso:
    cells: Pairs
    queues: tuple[Pairs, ...]

    @staticmethod
    def start(cells: dict[str, int], threads: int) -> Tso:
        return Tso(tuple(sorted(cells.items())), ((),) * threads)

    def _queued(self, thread: int, queue: Pairs) -> tuple[Pairs, ...]:
        return (*self.queues[:thread], queue, *self.queues[thread + 1 :])

    def steps(self, thread: int, op: Op) -> Iterator[tuple[int, Memory]]:
        queue = self.queues[thread]
        if op.kind == "store":
            yield 0, Tso(self.cells, self._queued(thread, (*queue, (op.at, op.value))))
        elif op.kind == "load":
            mine = [value for at, value in queue if at == op.at]
            yield (mine[-1] if mine else _get(self.cells, op.at)), self
        elif op.kind == "fence":
            if not op.strong or not queue:
                yield 0, self
        elif not queue:  # cas and exchange: a locked instruction, whatever the order asked for
            old = _get(self.cells, op.at)
            stored = op.kind == "exchange" or old == op.expected
            after = Tso(_with(self.cells, op.at, op.value), self.queues) if stored else self
            yield (old if op.kind == "exchange" else int(stored)), after

    def own_steps(self) -> Iterator[tuple[str, Memory]]:
        for thread, queue in enumerate(self.queues):
            if queue:
                at, value = queue[0]
                yield f"{at} = {value} is visible", Tso(_with(self.cells, at, value), self._queued(thread, queue[1:]))


View = tuple[int, ...]  # for each cell, the oldest message that may still be read


def _join(a: View, b: View) -> View:
    return tuple(map(max, a, b))


def _seen(view: View, cell: int, at: int) -> View:
    return (*view[:cell], max(view[cell], at), *view[cell + 1 :])


class Message(NamedTuple):
    value: int
    view: View  # what whoever reads it by an acquire load then knows


class Knowledge(NamedTuple):
    """What a thread knows: now; after a fence; and when it last released all it knew by a fence."""

    now: View
    fenced: View
    released: View


@dataclass(frozen=True)
class Views:
    names: tuple[str, ...]
    cells: tuple[tuple[Message, ...], ...]
    threads: tuple[Knowledge, ...]
    fences: View

    @staticmethod
    def start(cells: dict[str, int], threads: int) -> Views:
        names = tuple(sorted(cells))
        nothing = (0,) * len(names)
        know = Knowledge(nothing, nothing, nothing)
        return Views(names, tuple((Message(cells[n], nothing),) for n in names), (know,) * threads, nothing)

    def _after(self, thread: int, know: Knowledge, cells: Sequence[tuple[Message, ...]], fences: View) -> Views:
        """Without messages that no thread can read any more; the others are counted anew."""
        threads = (*self.threads[:thread], know, *self.threads[thread + 1 :])
        oldest: View = tuple(map(min, *(t.now for t in threads)))
        if not any(oldest):
            return Views(self.names, tuple(cells), threads, fences)

        def less(view: View) -> View:
            return tuple(max(0, at - gone) for at, gone in zip(view, oldest, strict=True))

        kept = tuple(
            tuple(Message(m.value, less(m.view)) for m in messages[gone:])
            for messages, gone in zip(cells, oldest, strict=True)
        )
        return Views(
            self.names,
            kept,
            tuple(Knowledge(less(t.now), less(t.fenced), less(t.released)) for t in threads),
            less(fences),
        )

    def _put(self, thread: int, know: Knowledge, cell: int, value: int, strong: bool) -> Memory:
        at = len(self.cells[cell])
        know = Knowledge(_seen(know.now, cell, at), _seen(know.fenced, cell, at), know.released)
        view = know.now if strong else _seen(know.released, cell, at)
        cells = (*self.cells[:cell], (*self.cells[cell], Message(value, view)), *self.cells[cell + 1 :])
        return self._after(thread, know, cells, self.fences)

    def _got(self, know: Knowledge, cell: int, at: int, strong: bool) -> Knowledge:
        known = _join(_seen(know.now, cell, at), self.cells[cell][at].view if strong else know.now)
        return Knowledge(known, _join(_join(know.fenced, known), self.cells[cell][at].view), know.released)

    def steps(self, thread: int, op: Op) -> Iterator[tuple[int, Memory]]:
        know = self.threads[thread]
        if op.kind == "fence":
            if op.strong:
                fences = _join(know.fenced, self.fences)
                yield 0, self._after(thread, Knowledge(fences, fences, fences), self.cells, fences)
            else:
                yield 0, self
            return
        cell = self.names.index(op.at)
        last = len(self.cells[cell]) - 1
        if op.kind == "store":
            yield 0, self._put(thread, know, cell, op.value, op.strong)
        elif op.kind == "load":
            for at in range(know.now[cell], last + 1):
                after = self._got(know, cell, at, op.strong)
                yield self.cells[cell][at].value, self._after(thread, after, self.cells, self.fences)
        else:  # cas and exchange work on the newest
            old = self.cells[cell][last].value
            know = self._got(know, cell, last, op.strong)
            if op.kind == "cas" and old != op.expected:
                yield 0, self._after(thread, know, self.cells, self.fences)
            else:
                after_put = replace(self, threads=(*self.threads[:thread], know, *self.threads[thread + 1 :]))
                put = after_put._put(thread, know, cell, op.value, op.strong)
                yield (old if op.kind == "exchange" else 1), put

    def own_steps(self) -> Iterator[tuple[str, Memory]]:
        return iter(())
