"""Sets of cores, as operators write them."""

from __future__ import annotations

import os

import pytest

from virtiod.core.cpumask import parse_cpumask
from virtiod.core.errors import InvalidArgument


@pytest.mark.parametrize("text", ["1", "0x1", "0X1", "[0]", "[0-0]", "[ 0, 0 ]", "01"])
def test_cpumasks(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert parse_cpumask(text) == (0,)


def test_cpumasks_of_several_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert parse_cpumask("0xB") == (0, 1, 3)
    assert parse_cpumask("10") == (4,)  # hexadecimal, as everywhere in SPDK
    assert parse_cpumask("[5,0-2]") == (0, 1, 2, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "names no core"),
        ("", "neither a hexadecimal mask nor a list"),
        ("[1-]", "neither"),
        ("0,1", "neither"),
        ("[2-1]", "names no core"),
        ("2", r"core 1 is not one of those allowed \(0\)"),
        ("[0-9999]", "more than 256"),
    ],
)
def test_cpumasks_that_make_no_sense(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    with pytest.raises(InvalidArgument, match=message):
        parse_cpumask(text)
