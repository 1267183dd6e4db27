"""`virtiod perf`: its exit status."""

from __future__ import annotations

import argparse

import pytest

from virtiod.bdev.counters import NO_IO
from virtiod.commands import perf
from virtiod.load.job import LoadCounters
from virtiod.load.report import JobReport, LoadReport, figures


def report(*statuses: str, failed: int = 0, mismatches: int = 0) -> LoadReport:
    totals = figures(LoadCounters(0, 10**9, NO_IO._replace(completed=9, failed=failed), [], mismatches, 0))
    jobs = [
        JobReport(
            job="Null0",
            core_mask="0x1",
            workload="randread",
            status=status,
            queue_depth=1,
            io_size=4096,
            keeps_writes=False,
            **vars(totals),
        )
        for status in statuses
    ]
    return LoadReport(results=jobs, core_count=1, totals=totals)


@pytest.mark.parametrize(
    ("found", "interrupted", "code"),
    [
        (report("finished", "finished"), False, 0),
        (report("finished", "failed", failed=1), False, 1),
        (report("failed", mismatches=1), False, 1),
        (report("finished", "terminated"), False, 1),  # a disk was removed
        (report("terminated"), True, 0),
        (report("terminated", failed=1), True, 1),
    ],
)
def test_the_exit_status_says_whether_all_io_was_done_and_succeeded(
    found: LoadReport, interrupted: bool, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def measure(*_: object) -> tuple[LoadReport, bool]:
        return found, interrupted

    monkeypatch.setattr(perf, "_measure", measure)
    parser = argparse.ArgumentParser()
    perf.add_arguments(parser)
    assert perf.run(parser.parse_args(["null:1M"])) == code
