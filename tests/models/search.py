"""Visits all states of a few threads on a memory.

A thread is a generator of Ops that is written like the code it models, statement by statement. Its state is where it
stands and what its local variables hold. So whatever a model must remember has to be in local variables (ints, bools,
strings and dataclasses of them), and an Op is yielded by a statement of its own: `x = yield load("flag")`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Hashable
from dataclasses import astuple, dataclass, is_dataclass
from types import GeneratorType
from typing import NamedTuple

from tests.models.memory import Memory, Op, Tso, Views

Code = Generator[Op, int, None]
MEMORIES: dict[str, Callable[[dict[str, int], int], Memory]] = {"TSO": Tso.start, "weak": Views.start}
DONE = "done"


class Wrong(Exception):
    """Raised by a thread that saw what must not be."""


@dataclass(frozen=True)
class Model:
    """threads: by name, what each runs; cells: memory at the start. must_end: threads that may not wait for ever."""

    threads: dict[str, Callable[[], Code]]
    cells: dict[str, int]
    must_end: tuple[str, ...]


@dataclass(frozen=True)
class Searched:
    """States visited, barriers met, and the steps that led to what is wrong, if anything is."""

    states: int
    barriers: frozenset[str]
    wrong: str
    steps: list[str]


class _Place(NamedTuple):
    """A state of a thread: its next op, and the functions that it stands in, from outside to inside."""

    key: Hashable
    op: Op | None
    function: str


def _frozen(value: object) -> Hashable:
    if is_dataclass(value) and not isinstance(value, type):
        return astuple(value)
    assert isinstance(value, int | str | type(None)), value
    return value


class _Thread:
    """All that a thread's code can do, found by running it again from its start with other results of its ops."""

    def __init__(self, code: Callable[[], Code]) -> None:
        self._code = code
        self._results: dict[Hashable, tuple[int, ...]] = {}
        self._after: dict[tuple[Hashable, int], _Place] = {}
        self.first = self._place(())

    def after(self, place: _Place, result: int) -> _Place:
        found = self._after.get((place.key, result))
        if found is None:
            found = self._place((*self._results[place.key], result))
            self._after[place.key, result] = found
        return found

    def _place(self, results: tuple[int, ...]) -> _Place:
        code = self._code()
        try:
            op = next(code)
            for result in results:
                op = code.send(result)
        except StopIteration:
            return _Place(DONE, None, "")
        inner: object = code
        key: list[Hashable] = []
        function = ""
        while isinstance(inner, GeneratorType) and (frame := inner.gi_frame) is not None:
            function = frame.f_code.co_name
            values = tuple((name, _frozen(value)) for name, value in frame.f_locals.items())
            key.append((function, frame.f_lasti, values))
            inner = inner.gi_yieldfrom
        place = _Place(tuple(key), op, function)
        self._results.setdefault(place.key, results)
        return place


def barrier(place: _Place) -> str:
    """The name of the barrier that a thread is at, '' if it is at none: '_publish: store avail.idx'."""
    op = place.op
    return f"{place.function}: {op.kind} {op.at}".rstrip() if op is not None and op.strong else ""


@dataclass(frozen=True)
class _State:
    places: tuple[_Place, ...]
    memory: Memory
    events: frozenset[str]  # eventfds that are not 0


class Search:
    def __init__(self, model: Model, memory: str, without: str = "") -> None:
        self._model = model
        self._names = list(model.threads)
        self._threads = [_Thread(code) for code in model.threads.values()]
        self._without = without
        self._start = MEMORIES[memory](model.cells, len(self._threads))
        self._barriers: set[str] = set()

    def run(self) -> Searched:
        first = _State(tuple(thread.first for thread in self._threads), self._start, frozenset())
        before: dict[_State, tuple[_State, str] | None] = {first: None}
        todo = deque([first])
        while todo:
            state = todo.popleft()
            moved = False
            try:
                for label, after in self._next(state):
                    moved = True
                    if after not in before:
                        before[after] = (state, label)
                        todo.append(after)
            except Wrong as wrong:
                return self._end(before, state, str(wrong))
            if not moved and (stuck := self._waiting(state)):
                return self._end(before, state, f"{stuck} waits for ever")
        return Searched(len(before), frozenset(self._barriers), "", [])

    def _waiting(self, state: _State) -> str:
        ended = {name for name, place in zip(self._names, state.places, strict=True) if place.key == DONE}
        return next((name for name in self._model.must_end if name not in ended), "")

    def _end(self, before: dict[_State, tuple[_State, str] | None], state: _State, wrong: str) -> Searched:
        steps = []
        at = before[state]
        while at is not None:
            steps.append(at[1])
            at = before[at[0]]
        return Searched(len(before), frozenset(self._barriers), wrong, steps[::-1])

    def _next(self, state: _State) -> list[tuple[str, _State]]:
        found = [(f"memory: {what}", _State(state.places, m, state.events)) for what, m in state.memory.own_steps()]
        for number, place in enumerate(state.places):
            op = place.op
            if op is None:
                continue
            if name := barrier(place):
                self._barriers.add(name)
                if name == self._without:
                    op = op._replace(strong=False)
            for result, memory, events in self._results(number, op, state):
                after = self._threads[number].after(place, result)
                places = (*state.places[:number], after, *state.places[number + 1 :])
                value = op.value if op.kind == "store" else result
                label = f"{self._names[number]}: {place.function}: {op.kind} {op.at} -> {value}"
                found.append((label, _State(places, memory, events)))
        return found

    def _results(self, thread: int, op: Op, state: _State) -> list[tuple[int, Memory, frozenset[str]]]:
        events = state.events
        if op.kind == "choose":
            return [(n, state.memory, events) for n in range(op.value)]
        if op.kind == "signal":
            return [(0, state.memory, events | {op.at})]
        if op.kind == "wait":
            return [(0, state.memory, events - {op.at})] if op.at in events else []
        return [(result, memory, events) for result, memory in state.memory.steps(thread, op)]
