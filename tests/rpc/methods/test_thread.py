"""Pollers as SPDK's threads and reactors: spdk_top takes these members and no others."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.daemon import FakeDaemon
from tests.support.rpc_peer import Peer, attach, talk

REACTOR_MEMBERS = ("lcore", "numa_id", "tid", "busy", "idle", "in_interrupt", "irq", "sys", "usr", "lw_threads")


def test_thread_and_reactor_objects_have_exactly_the_members_that_spdk_top_takes(run_dir: Path) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        await attach(peer)
        stats = await peer.result("thread_get_stats")
        assert set(stats) == {"tick_rate", "threads"}
        assert stats["threads"][1] == {
            "name": "poller_1",
            "id": 2,
            "cpumask": "2",
            "busy": 30,
            "idle": 70,
            "active_pollers_count": 1,
            "timed_pollers_count": 0,
            "paused_pollers_count": 0,
        }
        pollers = await peer.result("thread_get_pollers")
        assert set(pollers) == {"tick_rate", "threads"}
        assert pollers["threads"][0] == {
            "name": "poller_0",
            "id": 1,
            "active_pollers": [
                {"name": "poller_0_queue", "id": 1, "state": "waiting", "run_count": 10, "busy_count": 4}
            ],
            "timed_pollers": [],
            "paused_pollers": [],
        }
        reactors = await peer.result("framework_get_reactors")
        assert set(reactors) == {"tick_rate", "pid", "reactors"}
        assert reactors["pid"] == os.getpid()
        reactor = reactors["reactors"][0]
        assert set(reactor) == set(REACTOR_MEMBERS)
        assert (reactor["busy"], reactor["idle"]) == (30, 70)
        assert set(reactor["lw_threads"][0]) == {"name", "id", "cpumask", "elapsed"}
        channels = await peer.result("thread_get_io_channels")
        assert channels["threads"][0] == {"name": "poller_0", "io_channels": [{"name": "bdev_B0", "ref": 1}]}
        (first, _) = (await peer.result("virtiod_get_pollers"))["pollers"]
        assert (first["mode"], first["sleep"], first["in_flight"]) == ("adaptive", 50, 3)

    talk(run_dir, ask)
