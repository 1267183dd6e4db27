"""What is said often is said once a second."""

from __future__ import annotations

import logging

import pytest

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
