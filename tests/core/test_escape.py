"""Text from outside is safe to print."""

from __future__ import annotations

import pytest

from virtiod.core.escape import escaped, escaped_lines, shortened


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("V0: 7 µs, 日本, 😀 C:\\x", "V0: 7 µs, 日本, 😀 C:\\x"),
        ("a\nb\rc\td\0", r"a\nb\rc\td\x00"),
        ("\x1b[31m\x7f", r"\x1b[31m\x7f"),
        ("\x80\x85\x9b2J\x9f\xa0", "\\x80\\x85\\x9b2J\\x9f\xa0"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("\u061c\u200e\u200f\u202a\u202e\u2066\u2069", r"\u061c\u200e\u200f\u202a\u202e\u2066\u2069"),
        ("\ud800\udcff", r"\ud800\udcff"),
    ],
)
def test_control_characters_are_spelt_out(text: str, shown: str) -> None:
    assert escaped(text) == shown
    shown.encode()


def test_nothing_that_is_left_ends_a_line() -> None:
    everything = "".join(map(chr, range(0x110000)))
    assert len(escaped(everything).splitlines()) == 1
    assert escaped_lines("a\x1b\nb\r") == "a\\x1b\nb\\r"


def test_what_is_long_is_cut_and_says_how_long_it_was() -> None:
    assert shortened("abc", 3) == "abc"
    assert shortened("abcd", 3) == "abc... (4 characters)"
