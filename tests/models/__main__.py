"""python -m tests.models [--ios N] [--blocks N] ...: searches kept_writes.pml within larger bounds than the tests.

    python -m tests.models --ios 4 --blocks 2 --megabytes 30000
    python -m tests.models --without REPEAT_TOGETHER      # the shortest way to what goes wrong without that rule

Prints the number of states. Ends with 1 if a promise is broken, and prints the steps that led there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.models.rules import RULES
from tests.models.spin import search

BOUNDS = {"ios": 3, "blocks": 1, "users": 1, "slots": 2, "deaths": 2, "silences": 1, "times": 1}
OF_IOS = ("buffers", "keep")  # as many as I/Os


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.models", description="Search the model of kept writes.")
    for name, default in BOUNDS.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    for name in OF_IOS:
        parser.add_argument(f"--{name}", type=int, help="default: as many as I/Os")
    parser.add_argument("--megabytes", type=int, default=4096, help="the most memory to use (default: 4096)")
    parser.add_argument("--without", choices=[rule.without for rule in RULES], help="take this rule away")
    options = vars(parser.parse_args())
    defines = {name.upper(): options[name] for name in [*BOUNDS, *OF_IOS] if options[name] is not None}
    rule = next((rule for rule in RULES if rule.without == options["without"]), None)
    if rule:
        defines = rule.bounds | {rule.without: 1}
    print(*(f"{name} {value}" for name, value in defines.items()), sep=", ", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        searched = search(Path(folder), defines, shortest=rule is not None, megabytes=options["megabytes"])
    print(f"{searched.states} states in {time.monotonic() - started:.0f} s")
    if searched.broken:
        print(f"broken: {searched.broken}", *searched.steps, sep="\n  ")
    return 1 if searched.broken else 0


if __name__ == "__main__":
    sys.exit(main())
