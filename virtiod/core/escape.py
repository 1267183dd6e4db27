"""Text from outside, made safe to print: it can't end a line, command a terminal, or change the direction of text."""

from __future__ import annotations

import re

# C0, DEL and C1; what else ends a line (U+2028, U+2029); what changes the direction of text; halves of characters (lone
# surrogates), which have no encoding.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escaped(text: str) -> str:
    r"""The text with its control characters spelt out, a newline as \n, an escape as \x1b."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def escaped_lines(text: str) -> str:
    """The same, but newlines stay: for text that has them by itself."""
    return "\n".join(map(escaped, text.split("\n")))


def shortened(text: str, characters: int) -> str:
    """The text, cut to so many characters; what was cut says how many there were."""
    return text if len(text) <= characters else f"{text[:characters]}... ({len(text)} characters)"
