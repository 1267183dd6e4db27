"""spdk_top on a daemon under load: it is a C program of SPDK's source, so its calls are replayed here, without
parameters and on one connection as it makes them, and what it decodes is decoded as strictly."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from tests.support.process import Daemon, daemon, target
from tests.support.waiting import LOAD_S, PATIENCE_S

Json = Any
Members = dict[str, str]

# Of each object: the members that it must have, and with which type. It takes no others unless it is said to.
THREAD: Members = {
    "name": "string",
    "id": "uint64",
    "cpumask": "string",
    "busy": "uint64",
    "idle": "uint64",
    "active_pollers_count": "uint64",
    "timed_pollers_count": "uint64",
    "paused_pollers_count": "uint64",
}
POLLER: Members = {
    "name": "string",
    "state": "string",
    "id": "uint64",
    "run_count": "uint64",
    "busy_count": "uint64",
}
CORE: Members = {
    "lcore": "uint32",
    "busy": "uint64",
    "idle": "uint64",
    "irq": "uint64",
    "sys": "uint64",
    "usr": "uint64",
    "in_interrupt": "bool",
    "lw_threads": "array",
    "tid": "uint64",
    "numa_id": "int32",
}
CORE_THREAD: Members = {"name": "string", "id": "uint64", "cpumask": "string", "elapsed": "uint64"}
SCHEDULER: Members = {"scheduler_name": "string", "scheduler_period": "uint64"}
RANGES = {"uint32": (0, 2**32 - 1), "uint64": (0, 2**64 - 1), "int32": (-(2**31), 2**31 - 1)}
OPTIONAL: dict[str, str] = {"period_ticks": "uint64", "core_freq": "uint32", "governor_name": "string"}


def is_of(value: Json, kind: str) -> bool:
    if kind in RANGES:
        low, high = RANGES[kind]
        return type(value) is int and low <= value <= high
    return isinstance(value, {"string": str, "bool": bool, "array": list}[kind])


def decode(value: Json, members: Members, relaxed: bool = False) -> Json:
    """The object, if spdk_top takes it."""
    for name, kind in members.items():
        assert is_of(value[name], kind), (name, value)
    for name in value.keys() - members.keys():
        assert relaxed or is_of(value[name], OPTIONAL[name]), (name, value)
    return value


class Top:
    """Its connection, and what it shows."""

    def __init__(self, virtiod: Daemon) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE_S)
        self._socket.connect(str(virtiod.socket))
        self._lines = self._socket.makefile()

    def __enter__(self) -> Top:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def ask(self, method: str) -> Json:
        self._socket.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method}).encode())
        answer = json.loads(self._lines.readline())
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def start(self) -> int:
        """Ticks in a second."""
        self.ask("framework_wait_init")
        reactors = self.ask("framework_get_reactors")
        assert is_of(reactors["tick_rate"], "uint64")
        return int(reactors["tick_rate"])

    def threads(self) -> dict[int, Json]:
        return {one["id"]: decode(one, THREAD) for one in self.ask("thread_get_stats")["threads"]}

    def pollers(self) -> dict[tuple[int, int], Json]:
        found: dict[tuple[int, int], Json] = {}
        for thread in self.ask("thread_get_pollers")["threads"]:
            decode(thread, {"name": "string", "id": "uint64"}, relaxed=True)
            for kind in ("active_pollers", "timed_pollers", "paused_pollers"):
                found |= {(thread["id"], one["id"]): decode(one, POLLER) for one in thread[kind]}
        return found

    def cores(self) -> list[Json]:
        cores = [decode(one, CORE) for one in self.ask("framework_get_reactors")["reactors"]]
        for core in cores:
            for thread in core["lw_threads"]:
                decode(thread, CORE_THREAD)
        return cores

    def scheduler(self) -> Json:
        return decode(self.ask("framework_get_scheduler"), SCHEDULER, relaxed=True)


def test_all_of_its_tabs_are_filled(run_dir: Path) -> None:
    with target(run_dir, "--memory", "16M") as disk, daemon(run_dir) as virtiod:
        virtiod.attach(disk.socket)
        load = virtiod.send("perform_tests", bdevs=["V0"], rw="verify", queue_depth=8, time_s=LOAD_S)
        virtiod.wait_busy()
        with Top(virtiod) as top:
            assert top.start() > 0
            threads, pollers, cores = top.threads(), top.pollers(), top.cores()
            assert top.scheduler()["scheduler_name"] == "static"
            virtiod.wait_busy()
            later, later_pollers = top.threads(), top.pollers()
        # Each thread is on a core, and has as many pollers as it says.
        assert [thread["id"] for core in cores for thread in core["lw_threads"]] == list(threads) == [1]
        assert sum(one["active_pollers_count"] for one in threads.values()) == len(pollers)
        # What it shows is the difference between two answers.
        assert later[1]["busy"] > threads[1]["busy"]
        (queue,) = (key for key, one in pollers.items() if one["name"] == "V0_q0")
        assert later_pollers[queue]["busy_count"] > pollers[queue]["busy_count"]
        assert virtiod.call("bdev_virtio_detach_controller", name="V0") is True
        assert load.result()["results"][0]["io_failed"] == 0


def test_it_is_answered_once_the_daemon_runs(run_dir: Path) -> None:
    with daemon(run_dir, "--wait-for-rpc") as virtiod, Top(virtiod) as top:
        assert top.scheduler()["scheduler_period"] == 0
        starting = virtiod.send("framework_start_init")
        assert top.start() > 0
        assert starting.result() is True
        assert top.ask("framework_get_governor") == {}
