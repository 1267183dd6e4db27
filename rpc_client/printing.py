"""Text of other daemons, for terminals and pipes. It may hold anything: what can't be printed is escaped, so that it
neither steers the terminal nor adds lines, and what the reader's encoding does not have, too."""

from __future__ import annotations

import unicodedata
from typing import TextIO

MORE = "…"  # at the end of what was cut
_MORE_ASCII = "~"


def printable(text: str) -> str:
    """The text with control characters, marks of direction, lone surrogates and the like escaped."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def printable_lines(text: str) -> str:
    """The same of each line."""
    return "\n".join(map(printable, text.split("\n")))


def counted(number: int, noun: str) -> str:
    """ "1 bdev", "2 bdevs"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def width(text: str) -> int:
    """Columns that a printable text takes on a terminal."""
    return len(text) if text.isascii() else sum(map(_width, text))


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


def cut(text: str, columns: int) -> str:
    """The beginning of a printable text, if it takes more columns than that."""
    if width(text) <= columns:
        return text
    end, left = 0, columns - 1
    while end < len(text) and _width(text[end]) <= left:
        left -= _width(text[end])
        end += 1
    return text[:end] + MORE if columns > 0 else ""


def pad(text: str, columns: int, *, right: bool = False) -> str:
    """The text with spaces around it, to take as many columns; to the right: with spaces before it."""
    spaces = " " * (columns - width(text))
    return spaces + text if right else text + spaces


def show(text: str, out: TextIO | None, end: str = "\n") -> None:
    """Writes a text. out: None for a stream that was closed before the start, which takes nothing. Raises OSError."""
    if out is None:
        return
    encoding = getattr(out, "encoding", None) or "utf-8"
    try:
        MORE.encode(encoding)
    except UnicodeEncodeError:
        text = text.replace(MORE, _MORE_ASCII)
    print(text.encode(encoding, "backslashreplace").decode(encoding), end=end, file=out, flush=True)
