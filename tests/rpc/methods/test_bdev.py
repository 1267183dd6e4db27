"""What the bdev methods answer, and with which code and message they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.daemon import FakeDaemon
from tests.support.rpc_peer import ATTACH, Peer, attach, talk


def test_a_bdev_is_reset_if_it_can_be(run_dir: Path) -> None:
    async def ask(peer: Peer, daemon: FakeDaemon) -> None:
        await attach(peer)
        assert await peer.error("bdev_reset", name="B0") == (-95, "bdev B0 (VirtioBlk Disk) can't be reset")
        assert (await peer.error("bdev_reset", name="B9"))[0] == -19
        resets = []

        async def reset() -> None:
            resets.append(1)

        daemon.bdev("B0").reset = reset
        assert await peer.result("bdev_reset", name="B0") is True
        assert resets == [1]

    talk(run_dir, ask)


def test_a_bdev_is_described(run_dir: Path) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        await attach(peer)
        (bdev,) = await peer.result("bdev_get_bdevs", name="B0")
        assert bdev["product_name"] == "VirtioBlk Disk"
        assert (bdev["block_size"], bdev["num_blocks"]) == (512, 2097152)
        supported = {name for name, yes in bdev["supported_io_types"].items() if yes}
        assert supported == {"read", "write", "flush", "unmap", "write_zeroes"}
        assert bdev["driver_specific"]["virtio"]["socket"] == "/x.sock"
        assert await peer.result("bdev_get_bdevs", name=bdev["uuid"]) == [bdev]

    talk(run_dir, ask)


def test_a_bdev_can_be_waited_for(run_dir: Path) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        assert await peer.error("bdev_get_bdevs", name="B0") == (-19, "bdev 'B0' does not exist")
        assert (await peer.error("bdev_get_bdevs", name="B0", timeout=20))[0] == -110
        await peer.send({"method": "bdev_get_bdevs", "params": {"name": "B0", "timeout": 10_000}, "id": "waits"})
        await peer.send({"method": "bdev_virtio_attach_controller", "params": ATTACH, "id": "attach"})
        answers = {response["id"]: response for response in [await peer.receive(), await peer.receive()]}
        assert answers["waits"]["result"][0]["name"] == "B0"

    talk(run_dir, ask)


IOSTAT_MEMBERS = {"name"} | {
    f"{prefix}{op}_latency_ticks" for prefix in ("", "max_", "min_") for op in ("read", "write", "unmap", "copy")
}
IOSTAT_MEMBERS |= {"bytes_read", "bytes_written", "bytes_unmapped", "bytes_copied", "driver_specific"}
IOSTAT_MEMBERS |= {f"num_{op}_ops" for op in ("read", "write", "unmap", "copy")}


QD_MEMBERS = {"queue_depth_polling_period", "queue_depth", "io_time", "weighted_io_time"}


def test_iostat(run_dir: Path) -> None:
    async def ask(peer: Peer, daemon: FakeDaemon) -> None:
        await attach(peer)
        bdev = daemon.bdev("B0")
        bdev.count("read", 1000)
        bdev.count("read", 3000, channel=1)
        bdev.count("write", 500, size=512)
        bdev.per_channel[0].in_flight = 4
        bdev.per_channel[0].busy_ns = 7_000_000
        bdev.count("flush", 8_995_500, channel=1)
        answer = await peer.result("bdev_get_iostat", names=["B0"])
        assert answer["tick_rate"] == 1_000_000_000
        (stat,) = answer["bdevs"]
        assert set(stat) == IOSTAT_MEMBERS | QD_MEMBERS
        assert (stat["num_read_ops"], stat["bytes_read"], stat["read_latency_ticks"]) == (2, 8192, 4000)
        assert (stat["min_read_latency_ticks"], stat["max_read_latency_ticks"]) == (1000, 3000)
        assert (stat["num_write_ops"], stat["bytes_written"], stat["num_copy_ops"]) == (1, 512, 0)
        assert (stat["queue_depth"], stat["io_time"], stat["weighted_io_time"]) == (4, 7000, 9000)
        assert (await peer.result("bdev_get_iostat", name="B0"))["bdevs"] == [stat]
        assert (await peer.result("bdev_get_iostat"))["bdevs"] == [stat]

        by_channel = await peer.result("bdev_get_iostat", names=["B0"], per_channel=True)
        assert by_channel["name"] == "B0"
        assert [(c["thread_id"], c["num_read_ops"]) for c in by_channel["channels"]] == [(1, 1), (2, 1)]

        assert await peer.result("bdev_set_qd_sampling_period", name="B0", period=0) is True
        (stat,) = (await peer.result("bdev_get_iostat"))["bdevs"]
        assert set(stat) == IOSTAT_MEMBERS

    talk(run_dir, ask)


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"names": ["nope"]}, -19),
        ({"per_channel": True}, -22),
        ({"names": ["B0", "B1"], "per_channel": True}, -22),
        ({"names": ["B0"], "name": "B0"}, -22),
        ({"names": "B0"}, -32602),
        ({"names": [1]}, -32602),
        ({"reset_mode": "some"}, -32602),
    ],
)
def test_iostat_refuses(run_dir: Path, params: dict[str, object], code: int) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        await attach(peer)
        await attach(peer, "B1")
        assert (await peer.error("bdev_get_iostat", **params))[0] == code

    talk(run_dir, ask)


def test_a_mean_latency_is_that_of_the_ios_that_are_counted(run_dir: Path) -> None:
    async def ask(peer: Peer, daemon: FakeDaemon) -> None:
        await attach(peer)
        bdev = daemon.bdev("B0")
        bdev.count("read", 1000)
        bdev.count("read", 3000)
        bdev.count("read", 30_000_000_000, status="timeout")
        bdev.count("read", 1, status="invalid")
        (stat,) = (await peer.result("bdev_get_iostat"))["bdevs"]
        assert (stat["num_read_ops"], stat["read_latency_ticks"]) == (2, 4000)
        assert (stat["min_read_latency_ticks"], stat["max_read_latency_ticks"]) == (1000, 3000)
        assert stat["io_error"] == {"timeout": 1, "invalid": 1}
        await peer.result("bdev_reset_iostat")
        bdev.count("read", 7, status="io")
        (stat,) = (await peer.result("bdev_get_iostat"))["bdevs"]
        assert (stat["num_read_ops"], stat["read_latency_ticks"]) == (0, 0)

    talk(run_dir, ask)


def test_a_reset_shows_only_what_comes_after_it_and_leaves_the_counters_alone(run_dir: Path) -> None:
    async def ask(peer: Peer, daemon: FakeDaemon) -> None:
        await attach(peer)
        bdev = daemon.bdev("B0")
        bdev.count("read", 1000)
        bdev.count("read", 1000, status="io")
        bdev.count("write", 1000, status="io")
        (stat,) = (await peer.result("bdev_get_iostat", reset_mode="all"))["bdevs"]
        assert (stat["num_read_ops"], stat["io_error"]) == (1, {"io": 2})
        bdev.count("read", 1000)
        for _ in range(3):
            bdev.count("read", 1000, status="io")
        (stat,) = (await peer.result("bdev_get_iostat"))["bdevs"]
        assert (stat["num_read_ops"], stat["io_error"]) == (1, {"io": 3})
        assert bdev.stats().ops["read"].completed == 2
        assert bdev.extremes_reset == 1
        channels = (await peer.result("bdev_get_iostat", name="B0", per_channel=True))["channels"]
        assert [c["num_read_ops"] for c in channels] == [1, 0]

        assert await peer.result("bdev_reset_iostat", name="B0", mode="error") is True
        (stat,) = (await peer.result("bdev_get_iostat"))["bdevs"]
        assert "io_error" not in stat
        assert stat["num_read_ops"] == 1
        await peer.result("bdev_reset_iostat", mode="maxmin")
        assert bdev.extremes_reset == 2
        await peer.result("bdev_reset_iostat")
        assert (await peer.result("bdev_get_iostat"))["bdevs"][0]["num_read_ops"] == 0
        assert (await peer.error("bdev_reset_iostat", name="nope"))[0] == -19

    talk(run_dir, ask)
