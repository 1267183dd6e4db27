"""Manual pages and shell completions of both commands, made from their parsers when a package is built.

python -m virtiod.manuals DIRECTORY

writes man/virtiod.1, man/virtiod-rpc.1, bash/virtiod, bash/virtiod-rpc, zsh/_virtiod and zsh/_virtiod-rpc. It needs
argparse-manpage and shtab; SOURCE_DATE_EPOCH sets the pages' date.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

import rpc_client.cli
import virtiod.cli
from virtiod import __version__

PARSERS = {"virtiod": virtiod.cli.parser, "virtiod-rpc": rpc_client.cli.parser}

_PATHS = {"FILE", "PATH", "SOCKET"}  # metavars of arguments that a shell completes by the names of files


def write(into: Path) -> None:
    """Raises OSError."""
    for name, parser in PARSERS.items():
        outputs = {
            f"man/{name}.1": manual(parser()),
            f"bash/{name}": completion(parser(), "bash"),
            f"zsh/_{name}": completion(parser(), "zsh"),
        }
        for path, text in outputs.items():
            (into / path).parent.mkdir(parents=True, exist_ok=True)
            (into / path).write_text(text)


def manual(parser: argparse.ArgumentParser) -> str:
    """A page for man(1)."""
    page = Manpage(parser)
    page.description = (parser.description or "").rstrip(".").lower()
    page.manual = "virtiod"
    page.source = f"virtiod {__version__}"
    return str(page)


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    for action in _actions(parser):
        if action.metavar in _PATHS:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return shtab.complete(parser, shell)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in set(action.choices.values()):
                yield from _actions(command)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
