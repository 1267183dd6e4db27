"""python -m tests.sim [--seed S] [--hours H]: simulates one seed, or seeds for hours.

    python -m tests.sim --seed 4711              # that seed, once: what a failure says
    python -m tests.sim --hours 8                # seed after seed, from a random one on
    python -m tests.sim --seed 1 --bug 'the ring is not emptied'    # that seed with a mistake in the code

Ends with 1 at the first violation, and says how to repeat it.
"""

from __future__ import annotations

import argparse
import random
import sys

from tests.sim import runner
from tests.sim.bugs import BUGS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description="Simulate pollers, controllers and disks.")
    parser.add_argument("--seed", type=int, help="the first seed; a random one if not given")
    parser.add_argument("--hours", type=float, help="seed after seed for so long; without it, one seed")
    parser.add_argument("--ios", type=int, default=runner.IOS, help="I/Os of a seed (default: %(default)s)")
    parser.add_argument("--bug", choices=sorted(BUGS), default="", help="a mistake that must be found", metavar="NAME")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    try:
        if options.hours is None:
            print(runner.run(seed, options.ios, options.bug))
        else:
            print(f"from seed {seed} on", flush=True)
            runner.watch(seed, options.hours)
    except runner.Found as found:
        print(f"\n{found}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
