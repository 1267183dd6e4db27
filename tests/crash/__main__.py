"""python -m tests.crash: kills targets under load until enough were killed; ends with 1 if anything was lost.

    python -m tests.crash --kills 10000
    python -m tests.crash --kind qcow2 --minutes 30
    python -m tests.crash --kind qcow2 --seed 17 --kills 3          # again: the run of seed 17, up to its third kill
    python -m tests.crash --kind qcow2 --seed 17 --kills 3 --times 20
    python -m tests.crash --kind embedded --target-option=--no-write-cache

Each run has the next seed, and the next of the kinds. It is what the seed says as far as timing lets it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import sys
import time
from collections.abc import Iterator, Sequence

from tests.crash.oracle import Policy
from tests.crash.plan import KILLS, VARIANTS
from tests.crash.processes import Nursery
from tests.crash.report import Progress, Report, describe
from tests.crash.run import Case, run
from tests.crash.targets import TARGETS, Direct


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description="Kill targets under load.")
    parser.add_argument("--kind", choices=(*TARGETS, "all"), default="all", help="of target (default: %(default)s)")
    parser.add_argument("--kills", type=int, help="at least so many (default: 100, or no limit with --minutes)")
    parser.add_argument("--minutes", type=float, help="at most so long")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31), help="of the first run")
    parser.add_argument("--users", type=int, help="clients (default: 2 to 5)")
    parser.add_argument("--variant", choices=tuple(VARIANTS), default="any", help="default: %(default)s")
    parser.add_argument("--times", type=int, help="run the first seed so often, and no other")
    parser.add_argument("--policy", type=Policy, choices=tuple(Policy), default=Policy.KEEP, help="that must hold")
    parser.add_argument("--target-option", action="append", default=[], help="of the target's command line")
    return parser.parse_args(words)


def kinds(asked: str) -> list[str]:
    if asked != "all":
        return [asked]
    if Direct.possible():
        return list(TARGETS)
    print(f"{Direct.directory()} has no direct I/O: without the kind 'direct'", file=sys.stderr)
    return [kind for kind in TARGETS if kind != Direct.kind]


def cases(options: argparse.Namespace, report: Report) -> Iterator[Case]:
    """Run after run, as long as there is something left to do."""
    limit = options.kills or (None if options.minutes else 100)
    until = time.monotonic() + 60 * options.minutes if options.minutes else None
    for number, kind in enumerate(itertools.cycle(kinds(options.kind))):
        if options.times is not None and number == options.times:
            return
        if until is not None and time.monotonic() > until:
            return
        left = KILLS if limit is None or options.times else min(KILLS, limit - report.kills)
        if left <= 0:
            return
        seed = options.seed if options.times else options.seed + number
        kills = min(KILLS, limit) if limit is not None and options.times else left
        yield Case(kind, seed, kills, options.variant, options.users, options.policy, tuple(options.target_option))


def main() -> int:
    options = parse()
    report, progress = Report(), Progress()
    start = time.monotonic()
    with Nursery() as nursery:
        for case in cases(options, report):
            text = f"{report.kills} kills, {report.findings} findings, {case.kind} with seed {case.seed}"
            progress.show(_done(options, report, start), text)
            outcome = asyncio.run(run(case, nursery))
            report.outcomes.append(outcome)
            if outcome.findings:
                progress.clear()
                print(describe(outcome), flush=True)
    progress.clear()
    print(report.table())
    return 1 if report.findings else 0


def _done(options: argparse.Namespace, report: Report, start: float) -> float:
    if options.times:
        return len(report.outcomes) / float(options.times)
    shares = [report.kills / (options.kills or 100)] if options.kills or not options.minutes else []
    shares += [(time.monotonic() - start) / (60 * options.minutes)] if options.minutes else []
    return max(shares)


if __name__ == "__main__":
    sys.exit(main())
