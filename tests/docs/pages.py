"""Examples as they stand in pages, of shell and of Python, and what a page says about running them.

A comment on a line of its own above a block tells the tests what a reader knows from the text:

<!-- not run: REASON -->   this block cannot be run here; REASONS says what covers it
<!-- with: SETTING -->     what is there before the section begins; SETTINGS
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")])

# Why a block is not run, and what holds it instead.
REASONS = {
    "it sets this tree up": "scripts/fresh.sh does it on a fresh Debian",
    "it reserves huge pages of this machine": "the guest of tests/guest boots with some",
    "it needs PCI devices": "tests/pci with imitations, tests/guest with real ones",
    "it needs systemd": "tests/systemd boots a machine with it",
}
PROGRAMS = ("curl", "nbdcopy", "nbdinfo", "openssl", "qemu-storage-daemon")  # that examples run, besides the system's
SETTINGS = ("a target at /run/disk.sock", "a daemon", "hosts storage1 and storage2")

_PIECE = re.compile(
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```$"
    r"|^<!-- (?P<key>not run|with): (?P<value>.*?) -->$"
    r"|^(?P<heading>#+ [^\n]*)$",
    re.DOTALL | re.MULTILINE,
)
_HEREDOC = re.compile(r"<<-?'?(\w+)'?")


@dataclass(frozen=True)
class Statement:
    """What is typed at once, and the lines that the page shows as its output."""

    text: str
    output: tuple[str, ...] = ()


@dataclass
class Section:
    """What stands under one heading: its examples build on each other."""

    page: Path
    heading: str
    settings: list[str] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.page.stem}: {self.heading}"


def sections(page: Path) -> list[Section]:
    """Those with examples. Raises ValueError for a comment that stands above no example."""
    found = [Section(page, page.stem)]
    reason = ""
    for piece in _PIECE.finditer(page.read_text()):
        if piece["heading"]:
            found.append(Section(page, piece["heading"].lstrip("# ")))
        elif piece["key"] == "with":
            found[-1].settings.append(piece["value"])
        elif piece["key"]:
            reason = piece["value"]
        elif piece["language"] in {"sh", "console", "python"}:
            if reason:
                found[-1].not_run.append(reason)
                reason = ""
            else:
                found[-1].statements += statements(piece["language"], piece["text"])
        elif reason:
            raise ValueError(f"{page.name}: not run: {reason}: no example follows")
    return [section for section in found if section.statements or section.not_run]


def statements(language: str, text: str) -> list[Statement]:
    """Of a block: with prompts and outputs in a console, everything typed in sh, a program of Python.

    What the program prints stands behind "#> " in it.
    """
    if language == "python":
        printed = [line.removeprefix("#> ") for line in text.splitlines() if line.startswith("#> ")]
        return [Statement(f"python - <<'EXAMPLE'\n{text}EXAMPLE", tuple(printed))]
    if language == "sh":
        return [Statement(typed) for typed in _typed(text.splitlines())]
    found: list[Statement] = []
    typed = ""
    output: list[str] = []
    for line in [*text.splitlines(), "$ "]:
        if line.startswith("$ "):
            if typed:
                found.append(Statement(typed, tuple(output)))
            typed, output = line[2:], []
        else:
            output.append(line)
    return found


def _typed(lines: list[str]) -> list[str]:
    """Lines that belong together as one: those that a backslash continues, and here-documents."""
    found: list[str] = []
    rest = iter(lines)
    for first in rest:
        text = line = first
        while line.endswith("\\"):
            line = next(rest)
            text += "\n" + line
        end = _HEREDOC.search(text)
        while end and line != end[1]:
            line = next(rest)
            text += "\n" + line
        if text.strip() and not text.lstrip().startswith("#"):
            found.append(text)
    return found
