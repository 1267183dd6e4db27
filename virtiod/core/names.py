"""The one rule for names that operators give: of controllers, bdevs and exports.

A name stands in tables, logs, labels of metrics and command lines, among others. So it has 1 to MAX_NAME characters,
each of which can be seen; there may be spaces between them. What devices call themselves can't be refused: clean().
"""

from __future__ import annotations

import re

from virtiod.core.errors import InvalidArgument

MAX_NAME = 255  # characters: as long as a file's name
MAX_CONTROLLER_NAME = MAX_NAME - len("t255l16383")  # the names of its bdevs begin with it
SHOWN = 64  # of a name that is refused

# Unicode's categories Cc, Cf, Cs, Co, Zl, Zp, and Zs but the space; as spelt in Python and in JavaScript.
_UNSEEN = (
    r"\u0000-\u001f\u007f-\u00a0\u00ad"  # control characters, no-break space, soft hyphen
    r"\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2"  # what changes the text after it, Arabic letter mark
    r"\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000"  # spaces, ends of lines, directions, joiners
    r"\ud800-\uf8ff\ufdd0-\ufdef\ufeff\ufff0-\ufffb\ufffe\uffff"  # surrogates, private use, no characters
)
_UNSEEN_BEYOND = r"\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a" + (
    r"\U000e0000-\U0010ffff"  # tags, private use
)
# The rule as a regular expression of JSON Schema, which can't spell what is beyond U+FFFF.
PATTERN = f"^(?! |.* $)[^{_UNSEEN}]+$"
_UNPRINTABLE = re.compile(f"[{_UNSEEN}{_UNSEEN_BEYOND}]")


def problem(name: str, longest: int = MAX_NAME) -> str:
    """What a text must be to be a name, if it is not: "must have 1 to ..."; "" if it can be one."""
    if not 1 <= len(name) <= longest:
        return f"must have 1 to {longest} characters, not {len(name)}{f': {quoted(name)}' if name else ''}"
    if found := unprintable(name):
        return f"must not hold {found}, which can't be printed: {quoted(name)}"
    if name != name.strip(" "):
        return f"must not begin or end with a space: {quoted(name)}"
    return ""


def check_name(what: str, name: str, longest: int = MAX_NAME) -> None:
    """Raises InvalidArgument unless it can be a name. what: whose, which begins the message."""
    if why := problem(name, longest):
        raise InvalidArgument(f"{what} {why}")


def unprintable(text: str) -> str:
    """The first character that can't be printed, as "U+001B"; "" if there is none."""
    found = _UNPRINTABLE.search(text)
    return f"U+{ord(found[0]):04X}" if found else ""


def quoted(text: str) -> str:
    """The text between quotes, escaped, and only its beginning if it is long."""
    return repr(text[:SHOWN]) + ("..." if len(text) > SHOWN else "")


def clean(text: str) -> str:
    """What a device calls itself, with what can't be printed escaped, and no longer than a name; it may be empty.

    Escaped, so that two names that differ still do.
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text.strip())[:MAX_NAME].rstrip()
