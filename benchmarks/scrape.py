#!/usr/bin/env python3
"""Measures how long a scrape of many bdevs takes, and how much I/O it costs.

    python benchmarks/scrape.py [--bdevs 1000] [--scrapes 15] [--pairs 4] [--json FILE]

All bdevs are null bdevs that have read and written, so that their histograms have something in them. Then one is
loaded with 4 KiB random reads at queue depth 32, its poller on a core of its own, in pairs of seconds: one without
scrapes, one with a scrape in it. The ratio is the median of those of the pairs; a scrape's time is from sending the
request to having the whole page.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import statistics
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rpc_under_load import Client, start

PAIR_S = 1.0


def scrape(port: int) -> tuple[float, int]:
    """Seconds, and the bytes of the page."""
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    page = connection.getresponse().read()
    connection.close()
    return time.perf_counter() - started, len(page)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def iops(control: Client, port: int | None) -> float:
    """Of about a second, with a scrape in it if there is a port."""
    before = control.call("bdev_get_iostat", names=["B0"])
    worker = threading.Thread(target=scrape, args=(port,)) if port else None
    if worker:
        worker.start()
    time.sleep(PAIR_S)
    if worker:
        worker.join()
    after = control.call("bdev_get_iostat", names=["B0"])
    reads = after["bdevs"][0]["num_read_ops"] - before["bdevs"][0]["num_read_ops"]
    return float(reads * after["tick_rate"] / (after["ticks"] - before["ticks"]))


def measure(bdevs: int, scrapes: int, pairs: int) -> dict[str, Any]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="v-", dir="/tmp")))
        rpc, port = folder / "rpc", free_port()
        core = min(os.sched_getaffinity(0))
        options = ["-r", str(rpc), "-m", f"[{core}]", "--http", f"127.0.0.1:{port}", "--log-level", "ERROR"]
        start(stack, ["run", *options], rpc)
        control, load = Client(rpc), Client(rpc)
        control.call("framework_wait_init")
        names = [f"B{number}" for number in range(bdevs)]
        for name in names:
            control.call("bdev_null_create", name=name, num_blocks=1 << 21, block_size=512)
        for at in range(0, bdevs, 100):
            some = names[at : at + 100]
            control.call("perform_tests", bdevs=some, rw="randrw", total_bytes=1 << 20, queue_depth=2)
        times = [scrape(port) for _ in range(scrapes)]
        load.send("perform_tests", bdevs=names[:1], rw="randread", queue_depth=32, time_s=pairs * 2 * PAIR_S + 60)
        while not control.call("bdev_get_iostat", names=["B0"])["bdevs"][0]["queue_depth"]:
            time.sleep(0.01)
        loaded = [scrape(port)[0] for _ in range(scrapes)]
        ratios = []
        for _ in range(pairs):
            without = iops(control, None)
            ratios.append(iops(control, port) / without)
        load.sock.close()
        load.lines.close()
    return {
        "bytes": times[0][1],
        "idle_s": sorted(seconds for seconds, _ in times),
        "loaded_s": sorted(loaded),
        "ratio": statistics.median(ratios),
        "iops": without,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bdevs", type=int, default=1000, help="default: %(default)s")
    parser.add_argument(
        "--scrapes", type=int, default=15, help="scrapes to measure, idle and under load (default: %(default)s)"
    )
    parser.add_argument(
        "--pairs", type=int, default=4, help="pairs of seconds, without and with a scrape (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file")
    args = parser.parse_args()
    figures = measure(args.bdevs, args.scrapes, args.pairs)
    print(f"bdevs: {args.bdevs}; one scrape: {figures['bytes'] / 1e6:.1f} MB; scrapes measured: {args.scrapes} each")
    for name, times in (("idle", figures["idle_s"]), ("loaded", figures["loaded_s"])):
        median, slowest = statistics.median(times), times[-1]
        print(f"{name:8} median {median * 1e3:5.0f} ms, slowest {slowest * 1e3:5.0f} ms")
    print(
        f"IOPS while scraped, as a ratio to IOPS without: {figures['ratio']:.3f} ({figures['iops']:.3g} IOPS without)"
    )
    if args.json:
        args.json.write_text(json.dumps({**vars(args), **figures}, default=str, indent=2) + "\n")


if __name__ == "__main__":
    main()
