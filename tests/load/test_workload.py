"""Workloads: what their names are, and what a load can't be."""

from __future__ import annotations

from typing import get_args

import pytest

from virtiod.core.errors import InvalidArgument
from virtiod.load.workload import MAX_QUEUE_DEPTH, MIN_BLOCK, PATTERNS, Rw, Workload


def test_each_name_of_a_pattern_is_one() -> None:
    assert get_args(Rw) == tuple(PATTERNS)


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        (Workload(block_size=MIN_BLOCK - 1), "must be a multiple of 512"),
        (Workload(block_size=0), "must be a multiple of 512"),
        (Workload(queue_depth=0), "must be from 1 to 65536"),
        (Workload(queue_depth=MAX_QUEUE_DEPTH + 1), "must be from 1 to 65536"),
        (Workload(rw_mix_read=101), "must be from 0 to 100"),
        (Workload(time_s=0), "must be positive"),
        (Workload(total_bytes=4095), "must be at least block_size 4096"),
        (Workload(rw="randwalk"), "must be one of randread, randwrite"),
    ],
)
def test_what_no_bdev_could_do_is_refused(workload: Workload, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        workload.check()
