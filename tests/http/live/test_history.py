"""The seconds that the live page remembers."""

from __future__ import annotations

from virtiod.http.live.cells import IDLE, Cell
from virtiod.http.live.history import History


def test_history_keeps_the_last_seconds_and_no_more_cells_than_it_may() -> None:
    history = History(seconds=10, max_cells=12)
    for at in range(100):
        history.add(at, Cell(reads=at), {"a": Cell(reads=at), **({"b": Cell(reads=-at)} if at > 50 else {})})
    assert [(at, one.reads) for at, one in history.of(None)] == [(at, at) for at in range(90, 100)]
    assert [(at, one.reads) for at, one in history.of("b")] == [(at, -at) for at in range(94, 100)]
    assert history.of("c") == [(at, IDLE) for at in range(94, 100)]
