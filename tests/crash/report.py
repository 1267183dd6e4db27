"""What runs found: each finding with the command that runs it again, and a table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import TextIO

from tests.crash.finding import Finding, Verdict
from tests.crash.run import Outcome

SHOWN = 3  # findings of a run that are shown in full
OWN_COLUMNS = (Verdict.LOST_STABLE, Verdict.LOST_KEPT, Verdict.LIED, Verdict.HUNG)
LINE_S = 10.0  # between lines of progress where no terminal is


def describe(outcome: Outcome) -> str:
    """All findings of a run, the first in full."""
    lines = []
    for finding in outcome.findings[:SHOWN]:
        lines += _finding(outcome, finding)
    more = outcome.findings[SHOWN:]
    lines += [f"  and {len(more)} more of the same run: {_counted(more)}"] if more else []
    lines += ["  virtiod's log before the first:", *(f"      {line}" for line in outcome.log)]
    return "\n".join(lines)


def _finding(outcome: Outcome, finding: Finding) -> list[str]:
    case = outcome.case
    lines = [f"{', '.join(finding.verdicts).upper()}: {finding.text}"]
    lines.append(f"  {case.kind}, seed {case.seed}, kill {finding.kill}; to run it again, up to that kill:")
    lines.append(f"      {case.command(finding.kill)}")
    if finding.blocks:
        lines.append(f"  blocks {ranges(finding.blocks)}; what happened to block {finding.blocks[0]}:")
        lines += [f"      {line}" for line in finding.history]
    return lines


def ranges(numbers: Iterable[int]) -> str:
    """Rising numbers, "4-6, 9"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _counted(findings: Iterable[Finding]) -> str:
    counts: dict[str, int] = {}
    for finding in findings:
        for verdict in finding.verdicts:
            counts[verdict] = counts.get(verdict, 0) + 1
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


class Report:
    """Adds outcomes up."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    @property
    def kills(self) -> int:
        return sum(outcome.kills for outcome in self.outcomes)

    @property
    def findings(self) -> int:
        return sum(len(outcome.findings) for outcome in self.outcomes)

    def table(self) -> str:
        """A line for each kind, and one for all. What was lost is counted in writes."""
        kinds = list(dict.fromkeys(outcome.case.kind for outcome in self.outcomes))
        rows: list[tuple[str, ...]] = [
            ("", "runs", "kills", "I/Os", "flushes", *OWN_COLUMNS, "others", "slowest return")
        ]
        for kind in kinds:
            rows.append(_row(kind, [outcome for outcome in self.outcomes if outcome.case.kind == kind]))
        if len(kinds) > 1:
            rows.append(_row("all", self.outcomes))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _row(name: str, outcomes: list[Outcome]) -> tuple[str, ...]:
    findings = [finding for outcome in outcomes for finding in outcome.findings]
    counts = [sum(verdict in finding.verdicts for finding in findings) for verdict in OWN_COLUMNS]
    others = sum(not set(OWN_COLUMNS) & set(finding.verdicts) for finding in findings)
    totals = [len(outcomes), sum(one.kills for one in outcomes)]
    totals += [sum(one.requests for one in outcomes), sum(one.flushes for one in outcomes)]
    slowest = max(one.slowest_return_s for one in outcomes)
    return (name, *(f"{number:,}" for number in [*totals, *counts, others]), f"{1000 * slowest:,.0f} ms")


class Progress:
    """How far it is: a bar on a terminal, else a line now and then."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._shown = time.monotonic()

    def show(self, done: float, text: str) -> None:
        """done: of 1."""
        if self._terminal:
            bar = ("#" * int(30 * min(1.0, done))).ljust(30, ".")
            self._stream.write(f"\r[{bar}] {text}\x1b[K")
        elif time.monotonic() - self._shown > LINE_S:
            self._shown = time.monotonic()
            self._stream.write(f"{100 * min(1.0, done):3.0f} % {text}\n")
        self._stream.flush()

    def clear(self) -> None:
        """Something else is to be printed."""
        if self._terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
