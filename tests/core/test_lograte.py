"""What is said often is said once a second."""

from __future__ import annotations

import logging

import pytest

from tests.support.rig import in_loop
from tests.support.waiting import until
from virtiod.core import lograte
from virtiod.core.lograte import LogRate

log = logging.getLogger(__name__)


def test_each_thing_is_said_once_a_second_and_else_for_debugging(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    now = 100.0
    rate = LogRate(log, clock=lambda: now)
    for key in "aab":
        rate.say(logging.ERROR, key, "%s happened", key)
    now = 100.9
    rate.say(logging.ERROR, "a", "%s happened", "a")
    now = 101.0
    rate.say(logging.ERROR, "a", "%s happened", "a")
    said = [(r.getMessage()[0], r.levelname) for r in caplog.records]
    assert said == [("a", "ERROR"), ("a", "DEBUG"), ("b", "ERROR"), ("a", "DEBUG"), ("a", "ERROR")]


def test_it_remembers_a_bounded_number_of_things(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lograte, "MAX_KEYS", 2)
    rate = LogRate(log, clock=lambda: 1.0)
    for key in "abcb":
        rate.say(logging.ERROR, key, "%s", key)
    rate.say(logging.ERROR, "a", "again")
    assert [r.getMessage() for r in caplog.records] == ["a", "b", "c", "again"]


@in_loop
async def test_the_last_state_is_told_however_soon_it_comes(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    rate = LogRate(log, interval_s=0.01, clock=lambda: now)

    def told() -> list[str]:
        return [r.getMessage() for r in caplog.records]

    for state in ("down", "up", "down", "up", "down"):
        rate.say_state(logging.WARNING, "A", state, "A is %s", state)
    rate.say_state(logging.WARNING, "B", "up", "B is up")
    assert told() == ["A is down", "A is up", "B is up"]
    now = 101.0
    await until(lambda: len(told()) == 4)
    assert told()[-1] == "A is down"
    for state in ("down", "up"):
        rate.say_state(logging.WARNING, "A", state, "A is %s", state)
    assert told()[4:] == ["A is up"]
    for _ in range(2):
        rate.say_state(logging.WARNING, "C", "up", "C is up")
    rate.forget_state("C")
    for _ in range(2):
        rate.say_state(logging.WARNING, "B", "up", "B is up")
    now = 102.0
    await until(lambda: len(told()) == 8)
    assert told()[4:] == ["A is up", "C is up", "B is up", "B is up"]  # nothing of what was so before, or has gone
