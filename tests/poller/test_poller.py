"""Pollers and the control plane: every message arrives, also when the poller sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from tests.support.rig import in_loop
from tests.support.waiting import PATIENCE_S, soon, until
from virtiod.bdev.probe import run_rounds
from virtiod.poller.poller import Control, Poller


@asynccontextmanager
async def running(mode: str = "adaptive", n: int = 1, poll_us: int = 200) -> AsyncIterator[list[Poller]]:
    control = Control()
    control.attach(asyncio.get_running_loop())
    pollers = [Poller(control, i, -1, mode, poll_us) for i in range(n)]
    for p in pollers:
        p.start()
    try:
        yield pollers
    finally:
        for p in pollers:
            p.stop()
        control.detach()


@pytest.mark.parametrize("mode", ["adaptive", "busy"])
@in_loop
async def test_a_ping_comes_back_with_its_value(mode: str) -> None:
    async with running(mode) as (poller,):
        assert await soon(poller.ping(42)) == 42
        assert await soon(poller.ping(-7)) == -7


@pytest.mark.parametrize("poll_us", [0, 200])
@in_loop
async def test_of_many_messages_to_several_pollers_none_is_lost_or_answered_twice(poll_us: int) -> None:
    async with running(n=2, poll_us=poll_us) as pollers:
        for _ in range(20):
            pings = [p.ping(i) for i in range(200) for p in pollers]
            answers = await soon(asyncio.gather(*pings))
            assert answers == [i for i in range(200) for _ in pollers]


def has_slept(poller: Poller, before: int) -> bool:
    return poller.stats().sleeps > before


@in_loop
async def test_an_idle_poller_sleeps_and_a_message_wakes_it() -> None:
    async with running(poll_us=0) as (poller,):
        for i in range(20):
            before = poller.stats().sleeps
            async with asyncio.timeout(PATIENCE_S):
                assert await poller.ping(i) == i
            await until(partial(has_slept, poller, before))
        assert poller.stats().sleep_ns > 0


@in_loop
async def test_a_busy_poller_never_sleeps() -> None:
    async with running("busy") as (poller,):
        before = poller.stats().rounds
        await until(lambda: poller.stats().rounds > before + 1000)
        assert poller.stats().sleeps == 0


@in_loop
async def test_a_future_that_was_given_up_harms_nobody() -> None:
    async with running() as (poller,):
        given_up = asyncio.ensure_future(poller.ping(1))
        await asyncio.sleep(0)
        given_up.cancel()
        assert await soon(poller.ping(2)) == 2


@in_loop
async def test_its_thread_has_its_name_and_its_core() -> None:
    async with running() as (poller,):
        assert (poller.name, poller.id, poller.mode) == ("poller_0", 1, "adaptive")
        assert poller.tid > 0
        assert poller.sources() == []


@in_loop
async def test_rounds_by_hand_are_refused_while_the_thread_runs() -> None:
    async with running() as (poller,):
        with pytest.raises(RuntimeError, match="poller_0"):
            run_rounds(poller)


def test_stop_without_start_is_no_error() -> None:
    Poller(Control(), 0, -1).stop()
