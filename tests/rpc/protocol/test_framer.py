"""What the framer takes out of a stream, whatever the pieces are, and what ends the stream."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtiod.rpc.protocol.framer import FrameError, Framer


def feed_all(data: bytes, piece: int = 1 << 20, **limits: int) -> tuple[list[Any], str]:
    """The values and the error ("" for none), with the data in pieces."""
    framer = Framer(**limits)
    values: list[Any] = []
    for start in range(0, len(data), piece):
        values += framer.feed(data[start : start + piece])
        if framer.error is not None:
            return values, str(framer.error)
    return values, ""


ACCEPTED: list[tuple[bytes, list[Any]]] = [
    (b"", []),
    (b" \r\n\t", []),
    (b"{}", [{}]),
    (b"[]", [[]]),
    (b'{"a":1}{"b":2}', [{"a": 1}, {"b": 2}]),
    (b'{"a":\n1}\n\n[1, 2]\n', [{"a": 1}, [1, 2]]),
    (b'{"a":"}]\\"{"}', [{"a": '}]"{'}]),
    (b'{"a":"\\\\"}', [{"a": "\\"}]),
    (b'["\\ud83d\\ude00", "\xf0\x9f\x98\x80"]', [["😀", "😀"]]),
    (b'[-1.5e3, true, null, "\\u0000"]', [[-1500.0, True, None, "\0"]]),
    (b'{"a":[{"b":{}}]} {"half', [{"a": [{"b": {}}]}]),
    (b"[[[]]]" * 100, [[[[]]]] * 100),
]

REFUSED: list[tuple[bytes, str]] = [
    (b"1", "expected an object or an array"),
    (b'"text"', "expected an object or an array"),
    (b"}", "expected an object or an array"),
    (b"GET / HTTP/1.1\r\n", "expected an object or an array"),
    (b"\xef\xbb\xbf{}", "expected an object or an array"),
    (b"[}", "Expecting value"),
    (b"{]", "Expecting property name"),
    (b"[1,]", "Expecting value"),
    (b"{'a':1}", "Expecting property name"),
    (b'{"a" 1}', "delimiter"),
    (b'["\x01"]', "Invalid control character"),
    (b'["\\x"]', "Invalid \\escape"),
    (b'{"a":1,"a":2}', "'a' is given twice"),
    (b"[NaN]", "NaN is not JSON"),
    (b"[-Infinity]", "-Infinity is not JSON"),
    (b"[1e999]", "number out of range"),
    (b"[" + b"9" * 5000 + b"]", "number out of range"),
    (b'["\xff"]', "not UTF-8"),
    (b'["\xed\xa0\x80"]', "not UTF-8"),
    (b'["\\ud800"]', "not UTF-8"),
]


@pytest.mark.parametrize("piece", [1, 2, 3, 1 << 20])
@pytest.mark.parametrize(("data", "values"), ACCEPTED)
def test_values_are_found_in_pieces_of_any_size(data: bytes, values: list[Any], piece: int) -> None:
    assert feed_all(data, piece) == (values, "")


@pytest.mark.parametrize("piece", [1, 1 << 20])
@pytest.mark.parametrize(("data", "message"), REFUSED)
def test_what_is_not_acceptable_ends_the_stream(data: bytes, message: str, piece: int) -> None:
    values, error = feed_all(b'{"before":1}' + data, piece)
    assert values == [{"before": 1}]
    assert message in error


def test_after_an_error_nothing_is_taken() -> None:
    framer = Framer()
    framer.feed(b"x")
    with pytest.raises(FrameError):
        framer.feed(b"{}")


@pytest.mark.parametrize(
    ("data", "limits", "message"),
    [
        (b'["12345678"]', {"max_bytes": 12}, ""),
        (b'["123456789"]', {"max_bytes": 12}, "longer than 12 bytes"),
        (b'["123456789', {"max_bytes": 10}, "longer than 10 bytes"),
        (b"[[[]]]", {"max_depth": 3}, ""),
        (b"[[[[]]]]", {"max_depth": 3}, "more than 3 levels"),
        (b"[1,2,3]", {"max_values": 4}, ""),
        (b"[1,2,3,4,5]", {"max_values": 4}, "more than 4 values"),
    ],
)
def test_limits(data: bytes, limits: dict[str, int], message: str) -> None:
    _, error = feed_all(data, **limits)
    assert (message in error) if message else not error


def test_limits_are_those_of_one_request_not_of_the_stream() -> None:
    values, error = feed_all(b"[1,2,3]" * 1000, max_bytes=7, max_values=4)
    assert (len(values), error) == (1000, "")


@pytest.mark.parametrize(
    "data",
    [b'["' + b"x" * 260_000 + b'"]', b'["' + b"\\n" * 130_000 + b'"]', b"[" + b"1" * 260_000, b" " * 260_000 + b"[]"],
)
def test_many_small_pieces_cost_no_more_than_proportional_time(data: bytes) -> None:
    def seconds(part: bytes) -> float:
        started = time.process_time()
        feed_all(part, 16)
        return time.process_time() - started

    # Quadratic work would take 64 times as long for 8 times the data.
    assert seconds(data) < 32 * max(seconds(data[: len(data) // 8]), 1e-4)


def test_memory_of_what_was_taken_is_given_back() -> None:
    framer = Framer()
    framer.feed(b'{"a":1}' * 1000 + b'{"b"')
    assert framer.pending == 4


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.lists(st.lists(JSON) | st.dictionaries(st.text(), JSON), max_size=5), st.integers(1, 40))
def test_any_values_come_back_as_they_were_sent(values: list[Any], piece: int) -> None:
    stream = "\n".join(json.dumps(value, ensure_ascii=len(values) % 2 == 0) for value in values).encode()
    assert feed_all(stream, piece) == (values, "")
