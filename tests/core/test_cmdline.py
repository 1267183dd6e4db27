"""Options that a dataclass describes: arguments, checks and values come from the one description."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Annotated

import pytest

from virtiod.core.cmdline import Made, Opt, add_arguments, describe, options_from, seconds, within
from virtiod.core.errors import InvalidArgument
from virtiod.core.sizes import parse_size


def _pair(args: argparse.Namespace) -> tuple[str, str]:
    return args.left, args.right


@dataclass(frozen=True)
class Described:
    names: Annotated[list[str], Opt("names", "what to do it to", "NAME")]
    size: Annotated[int, Opt("-s/--size", "bytes (default: %(default)s)", "SIZE", "sizes", convert=parse_size)] = 4096
    limit: Annotated[int | None, Opt("--limit", group="sizes")] = None
    depth: Annotated[int, Opt("--depth", parse=within(1, 8))] = 2
    wait_s: Annotated[float, Opt("--wait", "default: %(default)g", "S", parse=seconds)] = 1.5
    quick: Annotated[bool, Opt("--quick")] = False
    kind: Annotated[str, Opt("--kind", choices=("a", "b"), excludes="what")] = "a"
    other: Annotated[str, Opt("--other", excludes="what", default="given otherwise")] = ""
    pair: Annotated[tuple[str, str], Opt("--left"), Opt("--right", default="r"), Made(_pair)] = ("", "")
    plain: int = 7  # is no option


def parse(*words: str) -> Described:
    parser = argparse.ArgumentParser(prog="do")
    add_arguments(parser, Described)
    return options_from(Described, parser.parse_args(words))


def test_what_is_not_given_is_the_fields_default_or_the_options_own() -> None:
    found = parse("n")
    assert found == Described(["n"], other="given otherwise", pair=(None, "r"))  # type: ignore[arg-type]


def test_what_is_given_comes_in_the_fields_type() -> None:
    words = (
        "n",
        "m",
        "-s",
        "64K",
        "--limit",
        "5",
        "--depth",
        "8",
        "--wait",
        "0",
        "--quick",
        "--kind",
        "b",
        "--left",
        "l",
    )
    found = parse(*words)
    assert found.names == ["n", "m"]
    assert (found.size, found.limit, found.depth, found.wait_s, found.quick) == (65536, 5, 8, 0.0, True)
    assert (found.kind, found.pair, found.plain) == ("b", ("l", "r"), 7)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("n", "--depth", "9"), "argument --depth: must be an integer from 1 to 8, not '9'"),
        (("n", "--depth", "-1"), "argument --depth: must be an integer from 1 to 8, not '-1'"),
        (("n", "--limit", "x"), "argument --limit: invalid int value: 'x'"),
        (("n", "--wait", "86401"), "argument --wait: must be seconds from 0 to 86400, not '86401'"),
        (("n", "--wait", "soon"), "argument --wait: must be seconds from 0 to 86400, not 'soon'"),
        (("n", "--kind", "c"), "argument --kind: invalid choice: 'c'"),
        (("n", "--kind", "b", "--other", "o"), "argument --other: not allowed with argument --kind"),
        ((), "the following arguments are required: NAME"),
    ],
)
def test_what_does_not_fit_is_a_usage_error(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(*words)
    assert message in capsys.readouterr().err


def test_what_can_not_be_converted_is_an_error_of_the_command() -> None:
    with pytest.raises(InvalidArgument, match="size '4Q'"):
        parse("n", "-s", "4Q")


def test_help_has_options_below_their_headings_in_the_order_of_their_fields() -> None:
    parser = argparse.ArgumentParser(prog="do")
    add_arguments(parser, Described)
    text = parser.format_help()
    headings = [line for line in text.splitlines() if line.endswith(":")]
    assert headings == ["positional arguments:", "options:", "sizes:"]
    assert "[--kind {a,b} | --other OTHER]" in " ".join(text.split())
    assert "bytes (default: 4096)" in text.partition("sizes:")[2]


def test_values_are_described_as_json() -> None:
    @dataclass(frozen=True)
    class Values:
        some: frozenset[str]
        place: tuple[str, int]

    assert describe(Values(frozenset({"b", "a"}), ("::1", 80))) == '{"some": ["a", "b"], "place": ["::1", 80]}'
