"""The load generator by RPC."""

from __future__ import annotations

from pathlib import Path

from tests.support.daemon import FakeDaemon
from tests.support.rpc_peer import Peer, talk


def test_perform_tests_hands_over_what_was_asked(run_dir: Path) -> None:
    async def ask(peer: Peer, daemon: FakeDaemon) -> None:
        asked = {"rw": "randrw", "time_s": 0.5, "rw_mix_read": 70}
        assert (await peer.result("perform_tests", **asked, bdevs=["B0"], cpumask="1"))["results"] == []
        ((bdevs, workload, cpus, force),) = daemon.fakes.fake_load.asked
        assert (bdevs, cpus, force) == (["B0"], (0,), False)
        assert asked.items() <= vars(workload).items()
        assert (await peer.error("perform_tests", bdevs=["B0"], rw="trim"))[0] == -32602
        assert (await peer.error("perform_tests", bdevs=["B0"], cpumask="zz"))[0] == -22

    talk(run_dir, ask)
