"""What another daemon answers is shown as text that does nothing but to be read."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from rpc_client.errors import BadReply
from rpc_client.fleet import read_hosts
from rpc_client.printing import cut, printable, printable_lines, show, width
from rpc_client.tables import as_json, render, render_each, table
from rpc_client.top import Sample, view

HOSTILE = ["a\nb", "\x1b[2Jx", "\x9b2J", "abc\u202exyz", "\ud800", "\x7f", "a\rb", "\u2028", "\U000e0041", "x" * 60_000]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größe, two words", "größe, two words"),
        ("a\nb\x1b[2J", r"a\nb\x1b[2J"),
        ("\u202e\u2066", r"\u202e\u2066"),
        ("\ud800\udcff", r"\ud800\udcff"),
        ("\x7f\x9b\u2028\ufeff", r"\x7f\x9b\u2028\ufeff"),
        ("\U000e0041", r"\U000e0041"),
        ("it's", "it's"),
    ],
)
def test_what_can_not_be_printed_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable_lines(f"{text}\n") == "\n".join([*map(printable, text.split("\n")), ""])


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdef", 5, "abcd…"),
        ("abcdef", 1, "…"),
        ("abcdef", 0, ""),
        ("ディスク", 8, "ディスク"),
        ("ディスク", 7, "ディス…"),
        ("ディスク", 6, "ディ…"),
        ("e\u0301e\u0301e\u0301", 3, "e\u0301e\u0301e\u0301"),
        ("e\u0301e\u0301e\u0301", 2, "e\u0301…"),
    ],
)
def test_what_is_too_wide_is_cut_by_the_columns_that_it_takes(text: str, columns: int, shown: str) -> None:
    assert cut(text, columns) == shown
    assert width(shown) <= columns


@pytest.mark.parametrize(
    ("encoding", "shown"), [("utf-8", "größe…"), ("latin-1", "größe~"), ("ascii", r"gr\xf6\xdfe~"), ("cp437", "größe~")]
)
def test_what_the_encoding_does_not_have_is_escaped(encoding: str, shown: str) -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
    show("größe…", out)
    assert raw.getvalue().decode(encoding) == f"{shown}\n"
    show("x", None)


def bdev(name: Any) -> dict[str, Any]:
    return {
        "name": name,
        "product_name": name,
        "num_blocks": 8,
        "block_size": 512,
        "claimed": True,
        "supported_io_types": {name: True},
    }


@pytest.mark.parametrize(
    ("users", "shown"),
    [([], "yes"), (["none"], "open"), (["none", "read"], "read"), (["read", "write", "none"], "write")],
)
def test_a_bdev_shows_what_its_users_may_do(users: list[str], shown: str) -> None:
    one = {**bdev("V0"), "users": [{"access": access} for access in users]}
    assert render("bdev_get_bdevs", [one]).split("\n")[1].split()[5] == shown


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_a_table_has_a_line_for_each_row_and_stays_within_the_terminal(columns: int) -> None:
    lines = render("bdev_get_bdevs", [bdev(name) for name in [*HOSTILE, "ディスク" * 50, "V0"]], columns).split("\n")
    assert len(lines) == 1 + len(HOSTILE) + 2
    assert all(width(line) <= columns and line.isprintable() for line in lines)
    assert lines[-1].startswith("V0 ")
    assert lines[0].startswith("NAME")


def test_only_what_is_too_wide_is_cut() -> None:
    rows = [("V0", "x" * 100, 1), ("V1", "y", 22)]
    assert table(("A", "B", "N"), rows, 20).split("\n") == [
        "A   B              N",
        f"V0  {'x' * 11}…   1",
        "V1  y             22",
    ]
    assert table(("A", "B", "N"), rows).split("\n")[1] == f"V0  {'x' * 100}   1"
    assert table(("A", "B"), [("ディ", "x"), ("ab", "y")]).split("\n")[1:] == ["ディ  x", "ab    y"]


@pytest.mark.parametrize("result", ["\x1b[2J\n", ["a\nb", "\ud800"], {"\x7f": "\x1b\x7f\ud800"}, [1, "\x9b"]])
def test_other_results_are_printable_too(result: Any) -> None:
    shown = render("method", result)
    assert all(line.isprintable() and line.isascii() for line in shown.split("\n"))
    if not isinstance(result, str) and not all(isinstance(item, str) for item in result):
        assert json.loads(shown) == result
    assert json.loads(as_json(result)) == result


@pytest.mark.parametrize("result", [None, 7, "text", [None], [{"name": "B0"}], [{**bdev("x"), "num_blocks": "8"}]])
def test_an_answer_that_is_not_as_described_is_shown_as_it_is(result: Any) -> None:
    shown = render("bdev_get_bdevs", result)
    assert shown in (as_json(result, 2), result)
    lines = render_each("bdev_get_bdevs", [("h1", [bdev("B0")]), ("h2", result), ("h3", [bdev("B1")])], []).split("\n")
    assert [line.split()[0] for line in lines] == ["HOST", "h1", "h3", "h2"]
    assert lines[-1].endswith("bdev_get_bdevs: the result is not as described")


def test_a_fleets_table_is_safe_whatever_its_hosts_say() -> None:
    shown = render_each("m", [(name, name) for name in HOSTILE], [("h", text) for text in HOSTILE], 80).split("\n")
    assert len(shown) == 1 + 2 * len(HOSTILE)
    assert all(width(line) <= 80 and line.isprintable() for line in shown)


@pytest.mark.parametrize("word", ["a\x1b[2J", "a\u202eb", "\x7f"])
def test_a_host_must_be_printable(run_dir: Path, word: str) -> None:
    path = run_dir / "hosts"
    for line in (f"{word} /run/a.sock", f"a /run/{word}"):
        path.write_text(f"# all\n{line}\n")
        with pytest.raises(ValueError, match=r"hosts:2: '.*' holds characters that can't be printed") as caught:
            read_hosts(str(path))
        assert str(caught.value).isprintable()


def test_a_view_of_answers_that_are_none_is_an_error() -> None:
    good = Sample({"ticks": 1, "tick_rate": 1, "bdevs": []}, {"pollers": []}, [])
    for bad in (
        Sample({}, {}, []),
        Sample({"ticks": "1", "tick_rate": 1, "bdevs": []}, {"pollers": []}, []),
        Sample({"ticks": 1, "tick_rate": 0, "bdevs": []}, {"pollers": []}, []),
        Sample({"ticks": 1, "tick_rate": 1, "bdevs": [{"name": "a", "io_error": 7}]}, {"pollers": []}, []),
        Sample({"ticks": 1, "tick_rate": 1, "bdevs": []}, {"pollers": []}, [{"name": "V0"}]),
    ):
        with pytest.raises(BadReply, match="the answers are not those of a virtiod"):
            view(good, bad)
