"""RPC answers while every poller works at full load. benchmarks/rpc_under_load.py says how fast."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.clocks import Stopwatch, thread
from tests.support.process import cpumask, daemon
from tests.support.waiting import LOAD_S

CALLS = 100
BDEVS = 4
BOUND_S = 1.0  # of each call, less what a busy machine takes: the goal is 20 ms


def test_statistics_are_answered_while_all_pollers_are_busy(run_dir: Path) -> None:
    names = [f"B{number}" for number in range(BDEVS)]
    with daemon(run_dir, "-m", cpumask(2)) as virtiod:
        for name in names:
            assert virtiod.call("bdev_null_create", name=name, num_blocks=1 << 21, block_size=512) == name
        load = virtiod.send("perform_tests", bdevs=names, queue_depth=32, time_s=LOAD_S)
        virtiod.wait_busy("B0")
        control = [thread(virtiod.process.pid), thread(os.getpid())]  # those that take turns at a call
        slowest, before = 0.0, virtiod.ops("B0")
        for _ in range(CALLS):
            clock = Stopwatch(control)
            found = virtiod.call("bdev_get_iostat")["bdevs"]
            slowest = max(slowest, clock.own_s())
            assert [bdev["name"] for bdev in found] == names
        assert slowest < BOUND_S
        assert virtiod.ops("B0") > before
        load.cancel()
