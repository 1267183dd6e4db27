"""Who waits for whom: shared (s) and alone (a) on ranges of blocks, 8 of which belong together."""

from __future__ import annotations

import asyncio

import pytest

from tests.crash.turns import Turns


@pytest.mark.parametrize(
    ("asked", "admitted"),
    [
        (["s 0 4", "s 2 4"], [0, 1]),
        (["a 0 4", "a 8 8"], [0, 1]),
        (["a 0 1", "s 7 1"], [0]),
        (["s 0 1", "a 7 1"], [0]),
        (["a 0 20", "s 16 1", "s 24 1"], [0, 2]),
        (["s 0 8", "a 0 16", "s 8 8"], [0]),  # nobody overtakes on the same blocks
        (["s 0 8", "a 0 16", "s 16 8"], [0, 2]),
        (["a 0 8", "s 0 0"], [0, 1]),  # a flush
    ],
)
def test_a_turn_comes_when_nobody_is_in_the_way(asked: list[str], admitted: list[int]) -> None:
    async def ask() -> None:
        turns = Turns(8)
        wanted = [(int(first), int(blocks), kind == "a") for kind, first, blocks in map(str.split, asked)]
        tasks = [asyncio.create_task(turns.take(*one)) for one in wanted]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [number for number, task in enumerate(tasks) if task.done()] == admitted
        given: set[int] = set()
        while len(given) < len(tasks):  # each turn that ends lets others begin
            over = [number for number, task in enumerate(tasks) if task.done() and number not in given]
            assert over
            for number in over:
                given.add(number)
                turns.give(*wanted[number])
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    asyncio.run(ask())


def test_without_a_grain_nobody_waits() -> None:
    async def ask() -> None:
        turns = Turns(0)
        async with asyncio.timeout(5):
            for _ in range(3):
                await turns.take(0, 8, alone=True)

    asyncio.run(ask())
