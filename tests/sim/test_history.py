"""What is a register, and what is not: times are (from, to, stamp)."""

from __future__ import annotations

import pytest

from tests.sim.history import overlap


@pytest.mark.parametrize(
    ("forward", "backward"),
    [
        ([], []),
        ([(1, 5, 1)], []),
        ([(1, 5, 1), (6, 9, 2)], []),  # one after the other
        ([(3, 5, 1)], [(1, 2, 2), (6, 7, 3)]),  # before and after it
        ([(3, 5, 1)], [(2, 4, 2), (4, 6, 3)]),  # it began before, or ended later
        ([(3, 5, 1)], [(2, 9, 2)]),
        ([], [(1, 5, 1), (2, 4, 2)]),  # side by side
    ],
)
def test_operations_that_have_an_order(
    forward: list[tuple[int, int, int]], backward: list[tuple[int, int, int]]
) -> None:
    assert overlap(forward, backward) == ""


@pytest.mark.parametrize(
    ("forward", "backward", "why"),
    [
        ([(1, 5, 1), (4, 9, 2)], [], "writes 1 and 2"),
        ([(1, 9, 1), (4, 5, 2)], [], "writes 1 and 2"),
        ([(1, 9, 1)], [(2, 3, 2)], "write 2 is missing"),
        ([(1, 3, 1), (4, 9, 2)], [(5, 8, 3)], "write 3 is missing: 2"),
    ],
)
def test_operations_that_have_none(
    forward: list[tuple[int, int, int]], backward: list[tuple[int, int, int]], why: str
) -> None:
    assert overlap(forward, backward).startswith(why)
