"""python -m tests.fuzz [NAME] [--minutes N] [--seed S]: fuzzes one function, or lists them.

    python -m tests.fuzz rpc_framer --minutes 10
    python -m tests.fuzz rpc_framer --input tests/fuzz/found/rpc_framer-1f2e...    # that input again, once
    scripts/asan.sh python -m tests.fuzz used_ring --minutes 10    # compiled code: under AddressSanitizer

Ends with 1 at the first finding. If the process itself died, the next run first saves the input that it died on.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

from tests.fuzz import runner


def save_crash(name: str) -> None:
    data = runner.crashed_on(name)
    if data is not None:
        path = runner.HERE / "found" / f"{name}-crash"
        path.write_bytes(data)
        print(f"an earlier run of {name} did not end by itself; its last input is saved as {path}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz one function.")
    parser.add_argument("name", nargs="?", choices=runner.names(), help="none: list them")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--input", type=Path, help="run this file only")
    options = parser.parse_args()
    if options.name is None:
        print(*runner.names(), sep="\n")
        return 0
    function = runner.load(options.name)
    if options.input:
        function(options.input.read_bytes())
        return 0
    save_crash(options.name)
    known = runner.corpus(options.name)
    print(f"{options.name}: {len(known)} known inputs, seed {options.seed}, {options.minutes} minutes", flush=True)
    try:
        result = runner.run(options.name, function, known, 60 * options.minutes, options.seed)
    except runner.Finding as finding:
        print(finding, file=sys.stderr)
        raise SystemExit(1) from finding
    print(f"{options.name}: {result.inputs} inputs in {result.seconds:.0f} s, no finding")
    return 0


if __name__ == "__main__":
    sys.exit(main())
