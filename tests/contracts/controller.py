"""What a virtio-blk controller does whatever transport it is reached by.

Each transport's tests subclass ControllerContract and say in a fixture `way` how to reach a disk of 8 MiB: over
vhost-user in tests/e2e/test_contract.py, over PCI in tests/guest/test_contract.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.nbd_client import READ, WRITE, NbdClient
from tests.support.process import Daemon, RpcFailure, allowed_cpus, daemon
from tests.support.waiting import LOAD_S, until, wait_until
from virtiod.controllers import AttachRequest
from virtiod.load.workload import Workload
from virtiod.system import System

MIB = 1 << 20
SIZE = 8 * MIB
BLOCK = 4096
ENOSPC = 28


@dataclass
class Way:
    """trtype and traddr as RPC takes them. resize() sets the disk's size, read() is what the disk's file holds."""

    trtype: str
    traddr: str
    queues: int
    resize: Callable[[int], None]
    read: Callable[[int, int], bytes]

    def daemon(self, run_dir: Path) -> Any:
        return daemon(run_dir, "-s", "32", "--allow-unbind")

    def attach(self, virtiod: Daemon, name: str = "V0", **more: Any) -> None:
        params = {"name": name, "trtype": self.trtype, "traddr": self.traddr, "dev_type": "blk", **more}
        assert virtiod.call("bdev_virtio_attach_controller", **params) == [name]


def load(virtiod: Daemon, **params: Any) -> dict[str, Any]:
    (result,) = virtiod.call("perform_tests", bdevs=["V0"], **params)["results"]
    return dict(result)


def check_verifies(virtiod: Daemon) -> None:
    result = load(virtiod, rw="verify", queue_depth=8, total_bytes=MIB // 4)
    assert (result["status"], result["io_failed"], result["io_mismatched"]) == ("finished", 0, 0)


def check_counters(engine: System, pollers: int, queues: int, ios: int, size: int) -> None:
    """Everything that was submitted was completed, on every channel and queue; every poller and queue had a part.

    size: bytes that were written and read back.
    """
    bdev = engine.bdevs.get("V0")
    channels = bdev.channel_stats([])
    assert [poller.name for poller, _ in channels] == [f"poller_{n}" for n in range(pollers)]
    for stats in (bdev.stats([]), *(stats for _, stats in channels)):
        assert (stats.in_flight, stats.oldest_ns) == (0, 0)
        for op in stats.ops.values():
            assert op.submitted == op.completed + op.failed == op.below[-1]
        assert stats.ops["write"].completed == stats.ops["read"].completed > 0
    total = bdev.stats().ops
    assert total["write"].completed + total["read"].completed == ios
    assert total["write"].bytes == total["read"].bytes >= size
    found = engine.controllers.get("V0").queues
    assert len(found) == queues
    for queue in found:
        assert queue.submitted == queue.completed > 0
        assert queue.in_flight == 0
    assert sum(queue.completed for queue in found) >= ios
    assert all(poller.stats().in_flight == 0 for poller in engine.pollers)


async def check_load(engine: System, request: AttachRequest, pollers: int, queues: int, size: int) -> None:
    """Attach, write and read back `size` bytes from every poller: nothing is lost, and the books balance."""
    await engine.controllers.attach(request)
    workload = Workload("verify", block_size=8192, queue_depth=24, total_bytes=size, seed=1)
    report = await engine.load.run(["V0"], workload)
    assert [r.status for r in report.results] == ["finished"] * pollers
    assert report.totals.io_mismatched == 0
    await until(
        lambda: not any(queue.in_flight for queue in engine.controllers.get("V0").queues), "virtiod's own flush"
    )
    check_counters(engine, pollers, queues, report.totals.ios, size)


class ControllerContract:
    """The behaviours."""

    @pytest.mark.parametrize("pollers", [1, 2])
    def test_what_is_written_from_any_poller_comes_back_and_the_counters_balance(self, way: Way, pollers: int) -> None:
        async def main() -> None:
            engine = System(allowed_cpus(pollers), memory_mib=32, allow_unbind=True)
            engine.start()
            try:
                request = AttachRequest("V0", way.trtype, way.traddr, "blk")
                await check_load(engine, request, pollers, min(pollers, way.queues), MIB)
            finally:
                await engine.stop()

        asyncio.run(main())

    def test_everybody_learns_of_a_new_size_under_load(self, way: Way, run_dir: Path) -> None:
        with way.daemon(run_dir) as virtiod:
            way.attach(virtiod)
            virtiod.export()
            running = virtiod.send("perform_tests", bdevs=["V0"], rw="randread", queue_depth=4, time_s=LOAD_S)
            virtiod.wait_busy()

            def resize(size: int) -> None:
                way.resize(size)
                wait_until(lambda: virtiod.bdev()["num_blocks"] * 512 == size, "the new size")

            with NbdClient(virtiod.nbd_socket, "V0") as old:
                assert old.size == SIZE
                for size in (SIZE + 4 * MIB, SIZE - 4 * MIB):
                    resize(size)
                    with NbdClient(virtiod.nbd_socket, "V0") as client:
                        assert client.size == size
                        assert client.ask(WRITE, size - BLOCK, data=b"e" * BLOCK)[0] == 0
                        assert client.ask(WRITE, size, data=b"x" * BLOCK)[0] == ENOSPC
                assert old.ask(READ, size - BLOCK, BLOCK) == (0, b"e" * BLOCK)
            wait_until(lambda: virtiod.iostat()["io_error"].get("nospace", 0) > 1, "the load to meet the new end")
            assert virtiod.controller()["state"] == "up"
            running.cancel()
            events = [event["type"] for event in virtiod.call("notify_get_notifications") if event["ctx"] == "V0"]
            assert events == ["bdev_register", "bdev_resize", "bdev_resize"]
            assert way.read(size - BLOCK, BLOCK) == b"e" * BLOCK

    def test_a_detach_under_load_ends_it_and_the_device_can_be_attached_again(self, way: Way, run_dir: Path) -> None:
        with way.daemon(run_dir) as virtiod:
            for _ in range(2):
                way.attach(virtiod)
                running = virtiod.send("perform_tests", bdevs=["V0"], rw="verify", queue_depth=8, time_s=LOAD_S)
                virtiod.wait_busy()
                assert virtiod.call("bdev_virtio_detach_controller", name="V0") is True
                (result,) = running.result()["results"]
                assert (result["status"], result["io_mismatched"]) == ("terminated", 0)
                assert virtiod.call("bdev_get_bdevs") == []

    def test_an_end_under_load_leaves_the_device_to_the_next_daemon(self, way: Way, run_dir: Path) -> None:
        with way.daemon(run_dir) as virtiod:
            way.attach(virtiod)
            running = virtiod.send("perform_tests", bdevs=["V0"], rw="verify", queue_depth=8, time_s=LOAD_S)
            virtiod.wait_busy()
            virtiod.terminate()
            virtiod.ends()
            running.cancel()
        with way.daemon(run_dir) as virtiod:
            way.attach(virtiod)
            check_verifies(virtiod)

    def test_a_name_that_is_taken_is_refused_and_its_controller_goes_on(self, way: Way, run_dir: Path) -> None:
        with way.daemon(run_dir) as virtiod:
            way.attach(virtiod)
            way.attach(virtiod)  # the same once more
            for more, code in (({"on_loss": "report"}, -32602), ({"name": "V1"}, -17)):
                with pytest.raises(RpcFailure) as refused:
                    way.attach(virtiod, **more)
                assert refused.value.code == code
            check_verifies(virtiod)
            assert virtiod.controller()["on_loss"] == "keep"
            assert [event["type"] for event in virtiod.call("notify_get_notifications")] == ["bdev_register"]
