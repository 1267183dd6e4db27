"""The guest by hand: python -m tests.guest build | run [-k EXPRESSION] [--variant NAME] | shell [--variant NAME]."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.guest import image
from tests.guest.devices import VARIANTS
from tests.guest.machine import Machine
from tests.guest.packages import Unavailable


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.guest", description=__doc__.partition(":")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="make the image, unless it is there")
    run = commands.add_parser("run", help="run the tests; more arguments go to pytest")
    run.add_argument("-k", default="", metavar="EXPRESSION", help="as pytest's")
    shell = commands.add_parser("shell", help="a shell on the guest's console; `poweroff -f` ends it")
    for command in (run, shell):
        command.add_argument("--variant", choices=VARIANTS)
    args, rest = parser.parse_known_args()
    if rest and args.command != "run":
        parser.error(f"unknown: {' '.join(rest)}")
    try:
        if args.command == "build":
            started = time.monotonic()
            print(f"{image.build().base.parent} ({time.monotonic() - started:.1f} s)")
        elif args.command == "shell":
            with tempfile.TemporaryDirectory(prefix="vg-") as run_dir:
                return int(Machine(Path(run_dir), args.variant or VARIANTS[0], shell=True).process.wait())
        else:
            chosen = " and ".join(f"({part})" for part in (args.k, args.variant) if part)
            return int(pytest.main([str(Path(__file__).parent), "-k", chosen, *rest]))
    except Unavailable as reason:
        print(f"no guest here: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
