"""Cuts a byte stream into JSON values. Pure: no socket, no clock.

Requests follow each other with or without white space between them, and arrive in pieces of any size. Each byte is
looked at once: the scanner jumps from one structural character to the next and remembers where it was; a value
is handed to the JSON parser only when it is complete. What is accepted is RFC 8259, with an object or an array
at the top, UTF-8 only, no duplicate keys, no NaN and no number beyond a double.
"""

from __future__ import annotations

import json
import math
import re
from typing import NoReturn

MAX_REQUEST_BYTES = 256 * 1024
MAX_VALUES = 8192
MAX_DEPTH = 64

_SPACE = re.compile(rb"[ \t\r\n]*+")
# Outside strings: the next character that opens, closes or separates something.
_STRUCTURE = re.compile(rb'["{}\[\],:]')
# Inside a string: all up to its closing quote, or to an escape whose second byte is not there yet.
_STRING_BODY = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)

_QUOTE, _BACKSLASH = b'"\\'
_OPEN, _CLOSE = frozenset(b"{["), frozenset(b"}]")


class FrameError(ValueError):
    """The stream holds something that is not an acceptable JSON value. Nothing after it can be read."""


class Framer:
    """Takes the bytes that were received, and returns the values that became complete.

    After a FrameError the values that came before it are still returned: `error` is then set, and the stream ends.
    """

    def __init__(
        self, max_bytes: int = MAX_REQUEST_BYTES, max_values: int = MAX_VALUES, max_depth: int = MAX_DEPTH
    ) -> None:
        self.max_bytes = max_bytes
        self.max_values = max_values
        self.max_depth = max_depth
        self.error: FrameError | None = None
        self._buffer = bytearray()
        self._restart(0)

    def _restart(self, position: int) -> None:
        self._start = position  # of the value being scanned
        self._position = position  # up to where it was scanned
        self._depth = 0
        self._values = 1
        self._in_string = False

    @property
    def pending(self) -> int:
        """How many bytes are kept of a value that is not complete yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[object]:
        if self.error is not None:
            raise self.error
        self._buffer += data
        values: list[object] = []
        try:
            while self._scan():
                values.append(self._parse(bytes(self._buffer[self._start : self._position])))
                self._restart(self._position)
        except FrameError as error:
            self.error = error
            self._buffer.clear()
            return values
        if self._start:
            del self._buffer[: self._start]
            self._position -= self._start
            self._start = 0
        return values

    def _scan(self) -> bool:
        """Moves on to the end of the value; false when more bytes are needed."""
        buffer = self._buffer
        if self._depth == 0:
            self._start = self._position = _end(_SPACE, buffer, self._position)
            if self._start < len(buffer) and buffer[self._start] not in _OPEN:
                raise FrameError("expected an object or an array")
        while not self._in_string or self._skip_string():
            found = _STRUCTURE.search(buffer, self._position)
            if found is None:
                self._position = len(buffer)
                break
            self._position = found.end()
            if self._at_structure(buffer[self._position - 1]):
                self._check_size(self._position)
                return True
        self._check_size(len(buffer))
        return False

    def _at_structure(self, character: int) -> bool:
        """Handles a structural character; true if it ends the value."""
        if character == _QUOTE:
            self._in_string = True
            return False
        # Names and scalars are preceded by one separator or opening each; containers also have a closing.
        self._values += 1
        if self._values > self.max_values + 1:
            raise FrameError(f"more than {self.max_values} values in one request")
        if character in _OPEN:
            self._depth += 1
            if self._depth > self.max_depth:
                raise FrameError(f"nested more than {self.max_depth} levels deep")
        elif character in _CLOSE:
            self._depth -= 1
            return self._depth == 0
        return False

    def _skip_string(self) -> bool:
        buffer = self._buffer
        self._position = _end(_STRING_BODY, buffer, self._position)
        if self._position == len(buffer) or buffer[self._position] == _BACKSLASH:
            return False
        self._position += 1
        self._in_string = False
        return True

    def _check_size(self, end: int) -> None:
        if end - self._start > self.max_bytes:
            raise FrameError(f"request longer than {self.max_bytes} bytes")

    @staticmethod
    def _parse(raw: bytes) -> object:
        try:
            value = json.loads(
                raw.decode("utf-8"),
                object_pairs_hook=_object,
                parse_constant=_refuse_constant,
                parse_float=_finite,
                parse_int=_integer,
            )
            if b"\\u" in raw:
                # An escaped lone surrogate parses, but is no character and can't be sent on.
                json.dumps(value, ensure_ascii=False).encode("utf-8")
        except (UnicodeDecodeError, UnicodeEncodeError) as error:
            raise FrameError(f"not UTF-8: {error.reason}") from None
        except ValueError as error:
            raise FrameError(str(error)) from None
        return value


def _end(pattern: re.Pattern[bytes], buffer: bytearray, position: int) -> int:
    found = pattern.match(buffer, position)
    assert found is not None  # the patterns match the empty string too
    return found.end()


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value: dict[str, object] = {}
    for name, member in pairs:
        if name in value:
            raise ValueError(f"{name[:64]!r} is given twice")
        value[name] = member
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _integer(text: str) -> int:
    if len(text) > 32:
        raise ValueError(f"number out of range: {text[:32]}...")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"number out of range: {text[:32]}")
    return number
