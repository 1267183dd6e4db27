"""The rule for names, and what becomes of what devices call themselves."""

from __future__ import annotations

import re
import sys
import unicodedata

import pytest

from virtiod.controllers.scsi.unit import Unit
from virtiod.core.errors import InvalidArgument
from virtiod.core.names import MAX_CONTROLLER_NAME, MAX_NAME, PATTERN, check_name, clean, problem, unprintable
from virtiod.scsi import address
from virtiod.scsi.parse import Capacity, Inquiry, Mode

UNSEEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs"}

NAMES = [
    "B0",
    "x" * 255,
    "größe",
    "ディスク",
    "two words",
    "lvs0/lvol0",
    'quote"',
    "back\\slash",
    "{}=,",
    "-n",
    "😀",
    "iqn.2026-01.org.example:disk",
    "3c1d0a5e-1b7a-4a53-9d8a-000000000000",
]
NO_NAMES = [
    ("", "must have 1 to 255 characters, not 0"),
    ("x" * 256, f"must have 1 to 255 characters, not 256: '{'x' * 64}'..."),
    ("x" * 60_000, "not 60000"),
    ("a\nb", r"must not hold U+000A, which can't be printed: 'a\nb'"),
    ("\x1b[31mred", r"must not hold U+001B, which can't be printed: '\x1b[31mred'"),
    ("a\x7f", "U+007F"),
    ("a\x9bb", r"U+009B, which can't be printed: 'a\x9bb'"),
    ("a\u00a0b", "U+00A0"),
    ("abc\u202exyz", r"U+202E, which can't be printed: 'abc\u202exyz'"),
    ("a\u2066b", "U+2066"),
    ("a\u2028b", "U+2028"),
    ("a\u200bb", "U+200B"),
    ("a\ufeff", "U+FEFF"),
    ("\ud800", r"U+D800, which can't be printed: '\ud800'"),
    ("a\udcffb", "U+DCFF"),
    ("\U000e0041", r"U+E0041, which can't be printed: '\U000e0041'"),
    (" ", "must not begin or end with a space: ' '"),
    (" a", "must not begin or end with a space"),
    ("a ", "must not begin or end with a space"),
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_what_can_be_read_is_a_name(name: str) -> None:
    assert problem(name) == ""
    assert re.search(PATTERN, name)
    assert clean(name) == name
    check_name("name", name)


@pytest.mark.parametrize(("name", "why"), NO_NAMES, ids=[ascii(name[:9]) for name, _ in NO_NAMES])
def test_what_can_not_is_refused_and_shown_escaped(name: str, why: str) -> None:
    assert why in problem(name)
    assert problem(name).isascii()
    with pytest.raises(InvalidArgument, match=r"^name must"):
        check_name("name", name)


def test_the_rule_is_that_of_unicode_and_the_pattern_says_the_same() -> None:
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        refused = bool(unprintable(character))
        unseen = unicodedata.category(character) in UNSEEN and character != " "
        assert refused or not unseen, f"U+{code:04X}"
        if code <= 0xFFFF:
            assert bool(re.search(PATTERN, f"a{character}a")) != refused, f"U+{code:04X}"
            assert unseen or not refused or unicodedata.category(character) in {"Cn", "So"}, f"U+{code:04X}"


def test_the_name_of_every_unit_of_a_controller_is_a_name() -> None:
    controller = "x" * MAX_CONTROLLER_NAME
    assert problem(controller, MAX_CONTROLLER_NAME) == ""
    assert "1 to 245" in problem(controller + "x", MAX_CONTROLLER_NAME)
    last = Unit(
        address.MAX_TARGET, address.MAX_LUN, Inquiry(0, 0, 6, "", "", ""), Capacity(1, 512), Mode(False, False, None)
    )
    name = last.bdev_name(controller)
    assert len(name) == MAX_NAME and problem(name) == ""


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("  serial 7 \n", "serial 7"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\x01", r"a\x01"),
        ("\u202etxt", r"\u202etxt"),
        ("\ufffd\ufffd", "\ufffd\ufffd"),
        ("\x00", r"\x00"),
        ("", ""),
        ("\x01" * 255, (r"\x01" * 64)[:255]),
    ],
)
def test_what_a_device_calls_itself_is_escaped_so_that_it_stays_another_name(told: str, shown: str) -> None:
    assert clean(told) == shown
    assert not shown or problem(clean(told)) == ""
