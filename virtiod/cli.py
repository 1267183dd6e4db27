"""The command `virtiod`: the daemon, and what comes with it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType

from virtiod import __version__
from virtiod.commands import demo, perf, run, target
from virtiod.errors import VirtiodError

COMMANDS: dict[str, ModuleType] = {"run": run, "perf": perf, "target": target, "demo": demo}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a sub-command, `run` when none is named; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or (words[0] not in COMMANDS and words[0] not in {"-h", "--help", "--version"}):
        words.insert(0, "run")
    args = _parser().parse_args(words)
    try:
        status: int = COMMANDS[args.command].run(args)
    except VirtiodError as error:
        print(f"virtiod: {error}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="virtiod",
        description="Drives virtio storage controllers from user space by polling.",
        epilog="`virtiod OPTION...` is short for `virtiod run OPTION...`.",
    )
    parser.add_argument("--version", action="version", version=f"virtiod {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").strip().splitlines()[0]
        module.add_arguments(commands.add_parser(name, help=summary, description=summary))
    return parser


if __name__ == "__main__":
    sys.exit(main())
