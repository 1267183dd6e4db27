"""Check configuration files without a daemon."""

from __future__ import annotations

import argparse
import sys

from virtiod.config.check import check_calls
from virtiod.config.document import read_config
from virtiod.core.errors import InvalidArgument
from virtiod.core.escape import escaped, escaped_lines
from virtiod.rpc.methods import METHODS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="configuration file, as for `virtiod run -c`")


def run(args: argparse.Namespace) -> int:
    """Prints the errors of each file, and where they are; returns 1 if there are any."""
    return max(_check(file) for file in args.files)


def _check(file: str) -> int:
    try:
        checked = check_calls(read_config(file), METHODS, at_start=True)
    except InvalidArgument as error:
        print(escaped_lines(str(error)), file=sys.stderr)
        return 1
    for warning in checked.warnings():
        print(escaped(warning), file=sys.stderr)
    for _, problem in checked.problems:
        print(escaped(problem), file=sys.stderr)
    if checked.problems:
        return 1
    ignored = f", {len(checked.ignored)} ignored" if checked.ignored else ""
    calls = len(checked.calls)
    print(f"{file}: {calls} call{'' if calls == 1 else 's'}{ignored}: ok")
    return 0
