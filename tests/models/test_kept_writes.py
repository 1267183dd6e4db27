"""The model of kept writes: nothing that virtiod promises is broken, and each of its rules is needed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.models.rules import RULES, Rule
from tests.models.spin import MODEL, search
from tests.support.peers import requires

BOUNDS = {
    "two deaths and a silence": {"IOS": 3},
    "a death and two silences": {"IOS": 3, "DEATHS": 1, "SILENCES": 2},
    "few buffers, and few of them for what is kept": {"IOS": 3, "DEATHS": 1, "BUFFERS": 2, "KEEP": 1, "USERS": 2},
    "two blocks": {"IOS": 3, "DEATHS": 1, "BLOCKS": 2, "TIMES": 0},
}


@pytest.mark.programs
@pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS)
def test_no_promise_is_broken(tmp_path: Path, bounds: dict[str, int]) -> None:
    requires("spin", "gcc")
    searched = search(tmp_path, bounds)
    assert searched.broken == "", "\n".join(searched.steps)
    print(f"{searched.states} states")
    assert searched.states > 100_000


@pytest.mark.programs
@pytest.mark.parametrize("rule", RULES, ids=[rule.without for rule in RULES])
def test_a_promise_is_broken_without(tmp_path: Path, rule: Rule) -> None:
    requires("spin", "gcc")
    searched = search(tmp_path, rule.bounds | {rule.without: 1}, shortest=True)
    print(rule.says, *searched.steps, sep="\n  ")
    assert searched.broken == rule.breaks, searched.steps
    assert len(searched.steps) > 4


def test_each_switch_of_the_model_is_a_rule() -> None:
    text = MODEL.read_text()
    bounds = set(re.findall(r"^#ifndef (\w+)\n#define \1\b", text, re.MULTILINE))
    switches = set(re.findall(r"^#ifn?def (\w+)|defined\((\w+)\)", text, re.MULTILINE))
    assert {a or b for a, b in switches} - bounds == {rule.without for rule in RULES}


def test_each_assertion_is_broken_by_some_rule() -> None:
    names = set(re.findall(r"assert\(.*/\* (\w+) \*/$", MODEL.read_text(), re.MULTILINE))
    assert names == {rule.breaks for rule in RULES}
    assert len(re.findall(r"assert\(", MODEL.read_text())) == len(
        re.findall(r"assert\(.*/\* \w+ \*/$", MODEL.read_text(), re.MULTILINE)
    )
