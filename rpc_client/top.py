"""A live view of bdevs and pollers, made of the differences between two looks at their counters."""

from __future__ import annotations

import itertools
import sys
import time
from typing import Any, TextIO

from rpc_client.client import Client
from rpc_client.tables import duration, table

MIB = 1 << 20
_CLEAR = "\x1b[H\x1b[J"
_LATENCY_OPS = ("read", "write", "unmap")

Sample = tuple[dict[str, Any], dict[str, Any]]


def sample(client: Client) -> Sample:
    """Counters of all bdevs and all pollers."""
    return client.call("bdev_get_iostat"), client.call("virtiod_get_pollers")


def view(before: Sample, now: Sample) -> str:
    """What happened between two samples."""
    return f"{_bdevs(before[0], now[0])}\n\n{_pollers(before[1], now[1])}"


def top(client: Client, interval_s: float, count: int | None, out: TextIO | None = None) -> None:
    """Shows a view each interval, `count` times (None: for ever); on a terminal each in the place of the last."""
    out = out or sys.stdout
    live = out.isatty()
    before = sample(client)
    for number in itertools.count(1):
        time.sleep(interval_s)
        now = sample(client)
        title = f"virtiod at {client.address}, each {interval_s:g} s"
        print(f"{_CLEAR if live else ''}{title}\n\n{view(before, now)}", end="\n" if live else "\n\n", file=out)
        out.flush()
        if number == count:
            return
        before = now


def _bdevs(before: dict[str, Any], now: dict[str, Any]) -> str:
    seconds = max(now["ticks"] - before["ticks"], 1) / now["tick_rate"]
    earlier = {bdev["name"]: bdev for bdev in before["bdevs"]}
    rows = []
    for bdev in now["bdevs"]:
        rates = _Rates(earlier.get(bdev["name"], {}), bdev)
        latency = rates.of(*(f"{op}_latency_ticks" for op in _LATENCY_OPS)) * 1e9 / now["tick_rate"]
        ops = rates.of(*(f"num_{op}_ops" for op in _LATENCY_OPS))
        rows.append(
            (
                bdev["name"],
                f"{rates.of('num_read_ops') / seconds:.0f}",
                f"{rates.of('num_write_ops') / seconds:.0f}",
                f"{rates.of('bytes_read') / seconds / MIB:.1f}",
                f"{rates.of('bytes_written') / seconds / MIB:.1f}",
                duration(latency / max(1, ops)),
                bdev.get("queue_depth", "-"),
                duration(bdev.get("driver_specific", {}).get("oldest_io_ticks", 0) * 1e9 / now["tick_rate"]),
            )
        )
    return table(("BDEV", "READS/S", "WRITES/S", "READ MIB/S", "WRITE MIB/S", "LATENCY", "DEPTH", "OLDEST"), rows)


def _pollers(before: dict[str, Any], now: dict[str, Any]) -> str:
    earlier = {poller["id"]: poller for poller in before["pollers"]}
    rows = []
    for poller in now["pollers"]:
        rates = _Rates(earlier.get(poller["id"], {}), poller)
        total = max(1, rates.of("busy", "idle", "sleep"))
        shares = (f"{100 * rates.of(kind) / total:.1f}" for kind in ("busy", "idle", "sleep"))
        rows.append((poller["name"], poller["cpu"], poller["mode"], *shares, poller["in_flight"]))
    return table(("POLLER", "CORE", "MODE", "BUSY %", "IDLE %", "SLEEP %", "IN FLIGHT"), rows)


class _Rates:
    """Differences of members. A counter that went back was reset: it counts from 0."""

    def __init__(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        self._before = before
        self._now = now

    def of(self, *names: str) -> float:
        total = 0.0
        for name in names:
            now, before = self._now.get(name, 0), self._before.get(name, 0)
            total += now - before if now >= before else now
        return total
