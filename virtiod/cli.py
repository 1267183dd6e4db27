"""The command `virtiod`: the daemon, and what comes with it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from types import ModuleType

from virtiod import __version__
from virtiod.core.errors import VirtiodError
from virtiod.core.outqueue import print_last

COMMANDS = ("run", "check-config", "dump-config", "perf", "target", "pci", "demo")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a sub-command; returns the exit status."""
    _open_what_is_closed()
    args = parse(sys.argv[1:] if argv is None else argv)
    try:
        status: int = module_of(args.command).run(args)
    except VirtiodError as error:
        print_last(f"virtiod: {error}")
        return 1
    return status


def _open_what_is_closed() -> None:
    """Has standard streams that were closed lead nowhere; else the next file or socket had such a one's number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 (it stays open)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The sub-command, `run` when none is named, and its options. Exits when they do not fit."""
    words = list(argv)
    if not words or (words[0] not in COMMANDS and words[0] not in {"-h", "--help", "--version"}):
        words.insert(0, "run")
    return parser(words[:1] if words[0] in COMMANDS else COMMANDS).parse_args(words)


def module_of(command: str) -> ModuleType:
    """Imported only now: a target starts several times faster without what only the daemon needs."""
    return import_module(f"virtiod.commands.{command.replace('-', '_')}")


def parser(names: Iterable[str] = COMMANDS) -> argparse.ArgumentParser:
    """With these commands."""
    found = argparse.ArgumentParser(
        prog="virtiod",
        description="Drives virtio storage controllers from user space by polling.",
        epilog="`virtiod OPTION...` is short for `virtiod run OPTION...`.",
    )
    found.add_argument("--version", action="version", version=f"virtiod {__version__}")
    commands = found.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in names:
        module = module_of(name)
        summary = (module.__doc__ or "").strip().splitlines()[0]
        module.add_arguments(commands.add_parser(name, help=summary, description=summary))
    return found


if __name__ == "__main__":
    sys.exit(main())
