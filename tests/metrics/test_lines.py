"""Lines of counters, written by compiled code."""

from __future__ import annotations

import pytest

from virtiod.metrics.lines import counter_lines


def test_counter_lines_are_what_python_would_write() -> None:
    values = [0, 1, 9, 10, 99, 100, 12345678901234567890, (1 << 64) - 1]
    middles = [b"m" * n + b" " for n in range(len(values))]
    expected = "".join(f"start{m.decode()}{value}\n" for m, value in zip(middles, values, strict=True))
    assert counter_lines(b"start", middles, values).decode() == expected
    assert counter_lines(b"", [], []) == b""
    for wrong in (-1, 1 << 64):
        with pytest.raises(OverflowError):
            counter_lines(b"a", [b"b"], [wrong])
    with pytest.raises(ValueError, match="2 lines, but 1 values"):
        counter_lines(b"a", [b"b", b"c"], [1])
