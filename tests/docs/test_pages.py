"""What the pages say exists: commands, options, methods, metrics, messages, files and links."""

from __future__ import annotations

import argparse
import ast
import errno
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

import rpc_client.cli
import virtiod.cli
from tests.docs.pages import PROGRAMS, REASONS, SETTINGS, sections
from virtiod.bdev.registry import EVENTS
from virtiod.metrics.catalogue import ENTRIES
from virtiod.rpc.methods import METHODS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PLACEHOLDER = re.compile(r"[A-Z]{4,}")
FOLDER = r"(?:virtiod|rpc_client|tests|scripts|benchmarks|dashboards|docs|\.ci)/"
COMMANDS: dict[str, Callable[[list[str]], object]] = {
    "virtiod": virtiod.cli.parse,
    "virtiod-rpc": lambda words: rpc_client.cli.parser().parse_args(words),
}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def inline(page: Path) -> list[str]:
    return INLINE.findall(prose(page))


def shell_lines(page: Path) -> Iterator[str]:
    """What a reader would type: the lines of sh blocks, and those of console blocks that have a prompt."""
    for language, block in FENCE.findall(page.read_text()):
        lines = block.replace("\\\n", " ").splitlines()
        if language == "sh":
            yield from lines
        elif language == "console":
            yield from (line[2:] for line in lines if line.startswith("$ "))


def simple_commands(line: str) -> Iterator[list[str]]:
    """The commands of a shell line, by words, without redirections."""
    tokens = shlex.shlex(line, posix=True, punctuation_chars=True)
    tokens.wordchars += "[]:,"
    words: list[str] = []
    for token in tokens:
        if set(token) <= set("();<>|&"):
            yield words
            words = ["redirected to"] if set(token) & set("<>") else []
        else:
            words.append(token)
    yield words


@cache
def option_names() -> frozenset[str]:
    def walk(parser: argparse.ArgumentParser) -> Iterator[str]:
        for action in parser._actions:
            yield from action.option_strings
            if isinstance(action, argparse._SubParsersAction):
                for sub in action.choices.values():
                    yield from walk(sub)

    return frozenset([*walk(virtiod.cli.parser()), *walk(rpc_client.cli.parser())])


@cache
def strings() -> list[str]:
    """The constant parts of all strings of the program, and what the kernel says of errors."""
    found = [os.strerror(number) for number in errno.errorcode]
    for path in sorted(path for room in ("virtiod", "rpc_client") for path in (ROOT / room).rglob("*.py")):
        nodes = ast.walk(ast.parse(path.read_text()))
        found += [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return found


@every_page
def test_commands_are_accepted_by_their_parsers(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mentioned = [code for code in inline(page) if code.split()[0] in COMMANDS and len(code.split()) > 2]
    lines = [*shell_lines(page), *(code for code in mentioned if not PLACEHOLDER.search(code))]
    for line in lines:
        for words in simple_commands(line):
            if words and words[0] in COMMANDS:
                assert {word for word in words if word.startswith("--")} <= option_names(), line  # none abbreviated
                try:
                    COMMANDS[words[0]](words[1:])
                except SystemExit as refusal:  # --help and --version exit with 0
                    assert not refusal.code, f"{line}: {capsys.readouterr().err}"


@every_page
def test_options_exist(page: Path) -> None:
    named = {option for code in inline(page) if code.startswith("-") for option in re.findall(r"^--?[a-z-]+", code)}
    assert named <= option_names()


@every_page
def test_methods_and_metrics_exist(page: Path) -> None:
    known = {name for method in METHODS.values() for name in (method.name, *method.aliases)}
    known |= set(EVENTS)
    known |= {entry.name + end for entry in ENTRIES for end in ("", "_bucket", "_sum", "_count")}
    named = {code for code in inline(page) if re.fullmatch(r"(bdev|nbd|framework|log|thread|virtiod)_\w+", code)}
    assert named <= known


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path) if path else page
        assert target.exists(), link
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in headings}


@every_page
def test_files_exist(page: Path) -> None:
    blocks = [block for language, block in FENCE.findall(page.read_text()) if not language]
    trees = [line.split()[0] for block in blocks for line in block.splitlines() if re.match(FOLDER, line)]
    named = [
        code for code in inline(page) if re.fullmatch(rf"{FOLDER}[\w./*-]*", code) and not PLACEHOLDER.search(code)
    ]
    for name in [*trees, *named]:
        assert list(ROOT.glob(name)), name


# Blocks that are not run. One more is a decision.
NOT_RUN = {
    "it sets this tree up": 1,
    "it reserves huge pages of this machine": 1,
    "it needs PCI devices": 2,
    "it needs systemd": 1,
}
SYSTEM = {".", "TOKEN=$(openssl", "(umask", "cat", "cmp", "head", "mkdir", "python", "truncate"}


def test_examples_are_run_or_say_why_not() -> None:
    found = [section for page in PAGES for section in sections(page)]
    assert Counter(reason for section in found for reason in section.not_run) == NOT_RUN
    assert NOT_RUN.keys() == REASONS.keys()
    assert {setting for section in found for setting in section.settings} <= set(SETTINGS)
    run = {statement.text.split()[0] for section in found for statement in section.statements}
    assert run <= {*COMMANDS, *PROGRAMS, *SYSTEM}  # of others, say above the block why they are not run


def test_messages_are_the_programs_own() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    rows = re.findall(r"^\| (`.*?) \| [^|]+ \| [^|]+ \|$", page, re.MULTILINE)
    assert len(rows) == page.count("\n| `") > 50  # each with what it means and what to do
    for message in (code for row in rows for code in INLINE.findall(row)):
        for part in re.split(r"…|: (?=[A-Z])|[()]", message):
            assert any(part.strip() in text for text in strings()), f"{message}: {part!r}"
