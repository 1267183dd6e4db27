"""What idle controllers cost, and how fast they wake up."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from tests.support.clocks import ran_s, threads, waited_s
from tests.support.peers import Peer
from tests.support.process import Daemon, allowed_cpus, cpumask, daemon, target

CONTROLLERS = 16
IDLE_S = 3.0
MAX_SHARE = 0.015  # of a core: the goal is 1 %, the rest is for the noise of a machine that does other things too
FIRST_IO_US = 200
WAKE_UPS = 15
ROUNDS = 5  # one whose median is good is enough: the machine may have been busy in the others
NAP_S = 0.1  # long enough for pollers to sleep, which they do after 200 us


def test_idle_controllers_cost_next_to_nothing(run_dir: Path) -> None:
    with target(run_dir, "--memory", "1M", count=CONTROLLERS) as disks, daemon(run_dir, "-m", cpumask(2)) as virtiod:
        for number in range(CONTROLLERS):
            virtiod.attach(run_dir / f"t{number or ''}.sock", f"V{number}")
        time.sleep(0.5)  # for what attaching left to do
        shares: list[float] = []
        while len(shares) < ROUNDS and min(shares, default=1.0) >= MAX_SHARE:
            before, started = threads_of(virtiod, disks), time.monotonic()
            time.sleep(IDLE_S)
            elapsed = time.monotonic() - started
            ours, theirs = (
                (now - then) / elapsed for now, then in zip(threads_of(virtiod, disks), before, strict=True)
            )
            shares.append(max(ours, theirs))
            print(f"daemon {ours:.3%}, target {theirs:.3%} of a core")
        assert min(shares) < MAX_SHARE


def threads_of(*some: Peer) -> list[float]:
    """How long the threads of each have run."""
    return [ran_s(threads(one.process.pid)) for one in some]


def test_the_first_io_after_a_sleep_is_fast(run_dir: Path) -> None:
    ours, theirs = allowed_cpus(2)  # on one core each would wait until the other has looked for work in vain
    with target(run_dir, "--null", "1G", "-m", f"[{theirs}]") as disk, daemon(run_dir, "-m", f"[{ours}]") as virtiod:
        virtiod.attach(disk.socket)
        medians: list[float] = []
        while len(medians) < ROUNDS and min(medians, default=FIRST_IO_US) >= FIRST_IO_US:
            medians.append(statistics.median(first_io_us(virtiod, disk) for _ in range(WAKE_UPS)))
        print("us:", *(f"{median:.0f}" for median in medians))
        assert medians[-1] < FIRST_IO_US


def first_io_us(virtiod: Daemon, disk: Peer) -> float:
    """The latency of an I/O after a sleep, as the bdev counts it, less what both pollers waited for their cores."""
    time.sleep(NAP_S)
    virtiod.call("bdev_reset_iostat", name="V0", mode="all")
    both = [*pollers(virtiod), *pollers(disk)]
    before = waited_s(both)
    virtiod.call("perform_tests", bdevs=["V0"], total_bytes=4096, queue_depth=1)
    return float(virtiod.iostat()["read_latency_ticks"]) / 1000 - (waited_s(both) - before) * 1e6


def pollers(peer: Peer) -> list[Path]:
    """All threads but the first."""
    return [one for one in threads(peer.process.pid) if one.name != str(peer.process.pid)]
