"""When a device that is not there is tried again."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from tests.support.rig import in_loop
from virtiod.controllers import attempts
from virtiod.controllers.attempts import BACKOFF_S, EAGER_FOR_S, EAGER_S, Attempts
from virtiod.transports.interface import Arrivals


class Clock:
    """Stands in for the event loop's time, which sleeps alone move on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(attempts, "asyncio", self)

    def get_running_loop(self) -> Clock:
        return self

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class Coming(Arrivals):
    """Something comes at these times."""

    def __init__(self, clock: Clock, *times: float) -> None:
        self.clock, self.times = clock, list(times)

    async def wait(self, seconds: float) -> bool:
        if self.times and self.times[0] <= self.clock.now + seconds:
            self.clock.now = max(self.clock.now, self.times.pop(0))
            return True
        self.clock.now += seconds
        return False


async def pauses(clock: Clock, tries: Attempts, count: int) -> list[float]:
    """Before each attempt; each fails at once."""
    times = [clock.now]
    for _ in range(count):
        await tries.due()
        times.append(clock.now)
    return [round(after - before, 6) for before, after in pairwise(times)]


@in_loop
async def test_it_is_tried_at_once_and_then_ever_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    assert await pauses(clock, Attempts(Coming(clock)), 9) == [0, *BACKOFF_S, BACKOFF_S[-1], BACKOFF_S[-1]]


@in_loop
async def test_one_that_did_not_last_is_tried_after_a_while_unless_something_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    assert await pauses(clock, Attempts(Coming(clock), failed=2), 2) == [BACKOFF_S[1], BACKOFF_S[2]]
    assert await pauses(clock, Attempts(Coming(clock, clock.now + 0.03), failed=2), 1) == [0.03]


@in_loop
async def test_when_something_comes_it_is_tried_at_once_and_often_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    tries = Attempts(Coming(clock, 107.0))
    before = await pauses(clock, tries, 9)
    assert clock.now == pytest.approx(107.0)
    assert before[-1] < BACKOFF_S[-1]
    eager = await pauses(clock, tries, 300)
    often = eager.index(BACKOFF_S[-1])
    assert eager[:often] == [EAGER_S] * often
    assert often * EAGER_S == pytest.approx(EAGER_FOR_S, abs=2 * EAGER_S)
    assert eager[often:] == [BACKOFF_S[-1]] * (300 - often)


@in_loop
async def test_what_comes_without_end_makes_no_more_attempts_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    tries = Attempts(Coming(clock, *(100.0 + n / 1000 for n in range(1000))))
    assert await pauses(clock, tries, 20) == [0, *[EAGER_S] * 19]


@in_loop
async def test_without_arrivals_time_passes() -> None:
    arrivals = Arrivals()
    assert not await arrivals.wait(0.001)
    arrivals.close()
    assert asyncio.get_running_loop().is_running()
