"""The daemon's options: what they accept, and that the pages name them as they are."""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path

import pytest

from virtiod.core.cmdline import describe
from virtiod.core.errors import InvalidArgument
from virtiod.daemon.options import Options, add_arguments, options_from, parse_address
from virtiod.http.security.tls import TlsFiles

ROOT = Path(__file__).parents[2]


def parse(*words: str) -> Options:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return options_from(parser.parse_args(words))


def test_defaults() -> None:
    options = parse()
    assert options.rpc_socket == "/run/virtiod/virtiod.sock"
    assert options.nbd_socket == "/run/virtiod/virtiod-nbd.sock"
    assert options.http == ("127.0.0.1", 9799)
    assert options.cpus == (min(os.sched_getaffinity(0)),)
    assert options.rpcs_allowed is None


def test_options_are_taken() -> None:
    options = parse(
        "-r",
        "/s",
        "--http",
        "none",
        "--nbd-socket",
        "none",
        "--rpcs-allowed",
        "bdev_get_bdevs, virtiod_get_version,nbd_get_exports",
        "-s",
        "64",
    )
    assert (options.rpc_socket, options.http, options.nbd_socket, options.memory_mib) == ("/s", None, "", 64)
    assert options.rpcs_allowed == frozenset({"bdev_get_bdevs", "virtiod_get_version", "nbd_get_exports"})


@pytest.mark.parametrize("words", [("-s", "x"), ("-s", "1"), ("--io-timeout", "-1"), ("--poll-mode", "lazy")])
def test_options_that_do_not_fit_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(*words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bdev_get_bdev", "no method 'bdev_get_bdev'; there is bdev_get_bdevs"),
        ("rpc_get_methods,nbd_get_export", "no method 'nbd_get_export'; there is nbd_get_exports"),
        ("qqq", "no method 'qqq'; virtiod-rpc rpc_get_methods lists those that there are"),
        ("bdev_get_bdevs,", "no method ''"),
    ],
)
def test_a_misspelt_method_is_refused_and_near_ones_are_named(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(f"--rpcs-allowed: there is {message}")):
        parse("--rpcs-allowed", text)


def test_addresses() -> None:
    assert parse_address("127.0.0.1:80", "--http") == ("127.0.0.1", 80)
    assert parse_address("[::1]:80", "--http") == ("::1", 80)
    for text in ("80", ":80", "host:", "host:x", "host:70000"):
        with pytest.raises(InvalidArgument, match="--http"):
            parse_address(text, "--http")


def test_the_nbd_socket_is_beside_the_rpc_socket_unless_it_is_given() -> None:
    assert parse("-r", "/run/x.sock").nbd_socket == "/run/x-nbd.sock"
    assert parse("-r", "/run/x").nbd_socket == "/run/x-nbd.sock"
    assert parse("--nbd-socket", "/n").nbd_socket == "/n"


def test_three_options_make_the_files_of_tls() -> None:
    assert parse().http_tls is None
    assert parse("--http-cert", "c", "--http-client-ca", "a").http_tls == TlsFiles("c", "", "a")
    for option in ("--http-key", "--http-client-ca"):
        with pytest.raises(InvalidArgument, match=f"{option} needs --http-cert"):
            parse(option, "f")


def test_all_values_are_described_in_one_line_of_json() -> None:
    options = parse(
        "--http",
        "[::1]:80",
        "--http-cert",
        "c",
        "--rpcs-allowed",
        "bdev_reset,bdev_get_bdevs",
        "-m",
        "[0]",
        "--log-level",
        "ERROR",
    )
    described = describe(options)
    assert "\n" not in described
    assert json.loads(described) == {
        **vars(options),
        "http": ["::1", 80],
        "http_tls": {"cert": "c", "key": "", "client_ca": ""},
        "rpcs_allowed": ["bdev_get_bdevs", "bdev_reset"],
        "cpus": list(options.cpus),
        "log_level": "ERROR",
    }


# ---- the pages


def actions() -> list[argparse.Action]:
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    return parser._actions


def table() -> dict[str, str]:
    """What README says of options: by the first cell of a row, the second."""
    rows = (ROOT / "README.md").read_text().partition("| option | |\n|---|---|\n")[2].partition("\n\n")[0]
    return dict(re.findall(r"^\| (.*?) \| (.*) \|$", rows, re.MULTILINE))


def test_every_option_is_on_a_page() -> None:
    pages = "".join(path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    named = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", pages))
    missing = [action.option_strings for action in actions() if not named & set(action.option_strings)]
    assert missing == []


def test_the_table_of_the_readme_names_options_that_there_are_and_their_defaults() -> None:
    known = {flag: action for action in actions() for flag in action.option_strings}
    rows = table()
    assert len(rows) > 10
    for names, text in rows.items():
        flags = re.findall(r"--?[a-z][a-z-]*", names)
        assert flags and set(flags) <= known.keys(), names
        defaults = [known[flag].default for flag in flags]
        for code, number in re.findall(r"\((?:`([^`]+)`|(\d+)(?: us)?)\)", text):
            assert (code or float(number)) in defaults, text
