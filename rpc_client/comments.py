"""Comments in JSON, as SPDK's loader takes them in configurations: from // to the end of the line, and /* to */."""

from __future__ import annotations

import json
import re

_STRING_OR_COMMENT = re.compile(r'"(?:\\.|[^"\\\r\n])*"?|//[^\r\n]*|/\*.*?(?:\*/|\Z)', re.DOTALL)
_SHORTEST = len("/**/")


def without_comments(text: str) -> str:
    """The text with spaces in place of comments, so that everything else stays where it is.

    Raises JSONDecodeError for a comment that does not end.
    """
    return _STRING_OR_COMMENT.sub(_blank, text)


def _blank(found: re.Match[str]) -> str:
    one = found[0]
    if one.startswith('"'):
        return one
    if one.startswith("/*") and (len(one) < _SHORTEST or not one.endswith("*/")):
        raise json.JSONDecodeError("Unterminated comment starting at", found.string, found.start())
    return re.sub(r"[^\r\n]", " ", one)
