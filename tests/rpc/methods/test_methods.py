"""What each method answers, and with which code and message it refuses."""

from __future__ import annotations

import asyncio
import base64
import os
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.daemon import FakeDaemon, running
from tests.support.rpc_peer import Peer, connected
from virtiod.bdev.histogram import BUCKETS, bucket_of
from virtiod.bdev.spdk_histograms import rebucket
from virtiod.rpc.methods import METHODS

Conversation = Callable[[Peer, FakeDaemon], Awaitable[None]]


def talk(run_dir: Path, conversation: Conversation, **options: Any) -> None:
    async def run() -> None:
        async with running(run_dir, **options) as daemon, connected(run_dir) as peer:
            await conversation(peer, daemon)

    asyncio.run(run())


async def attach(peer: Peer, name: str = "B0", **more: Any) -> str:
    await peer.result(
        "bdev_virtio_attach_controller", name=name, trtype="user", traddr="/x.sock", dev_type="blk", **more
    )
    return name


ATTACH = {"name": "B0", "trtype": "user", "traddr": "/x.sock", "dev_type": "blk"}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in ATTACH.items() if key != name}


# ---- virtio: codes as SPDK's clients know them, and the cause in the message


@pytest.mark.parametrize(
    ("params", "code", "message"),
    [
        (without("name"), -32603, "bdev_virtio_attach_controller: missing parameter 'name'"),
        (without("trtype"), -32603, "missing parameter 'trtype'"),
        (without("traddr"), -32603, "missing parameter 'traddr'"),
        (without("dev_type"), -32603, "missing parameter 'dev_type'"),
        (ATTACH | {"speed": 1}, -32603, "unknown parameter 'speed'"),
        (ATTACH | {"name": 1}, -32603, "'name' must be a string, not an integer"),
        (ATTACH | {"name": "a\0b"}, -32603, "'name' must not hold a NUL"),
        (ATTACH | {"vq_count": "4"}, -32603, "'vq_count' must be an integer, not a string ('4')"),
        (ATTACH | {"vq_count": True}, -32603, "'vq_count' must be an integer, not a boolean"),
        (ATTACH | {"vq_count": 1.5}, -32603, "'vq_count' must be an integer, not a number"),
        (ATTACH | {"vq_count": None}, -32603, "'vq_count' must be an integer, not null"),
        (ATTACH | {"vq_count": -1}, -32603, "'vq_count' must be from 0 to 4294967295, not -1"),
        (ATTACH | {"vq_size": 2**32}, -32603, "'vq_size' must be from 0"),
        (ATTACH | {"trtype": "tcp"}, -32603, "'trtype' must be one of pci, user, not 'tcp'"),
        (ATTACH | {"trtype": "vfio-user"}, -32603, "'trtype' must be one of pci, user, not 'vfio-user'"),
        (ATTACH | {"dev_type": "nvme"}, -32603, "'dev_type' must be one of blk, scsi, not 'nvme'"),
        (ATTACH | {"trtype": "pci", "vq_count": 1}, -22, "vq_count or vq_size is not allowed for PCI"),
        (ATTACH | {"trtype": "pci", "vq_size": 64}, -22, "vq_count or vq_size is not allowed for PCI"),
        (ATTACH | {"trtype": "pci", "traddr": "0000:00"}, -22, "Invalid PCI address '0000:00'"),
        (ATTACH | {"traddr": "/refused"}, -32602, "connect to /refused: Connection refused"),
    ],
)
def test_a_bad_attach_is_refused(run_dir: Path, params: dict[str, object], code: int, message: str) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        found, text = await peer.error("bdev_virtio_attach_controller", **params)
        assert (found, message in text) == (code, True), text
        assert await peer.result("bdev_get_bdevs") == []

    talk(run_dir, ask)


@pytest.mark.parametrize("address", ["0000:00:05.0", "00:05.0", "0000:af:1f.7", "10000:00:00.0"])
def test_pci_addresses_are_recognised(run_dir: Path, address: str) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        assert await peer.result("bdev_virtio_attach_controller", **ATTACH | {"trtype": "pci", "traddr": address})

    talk(run_dir, ask)


def test_attach_and_detach(run_dir: Path) -> None:
    async def ask(peer: Peer, daemon: FakeDaemon) -> None:
        assert await peer.result("bdev_virtio_attach_controller", **ATTACH, vq_count=2, vq_size=128) == ["B0"]
        assert (await peer.error("bdev_virtio_attach_controller", **ATTACH))[0] == -32602
        (controller,) = await peer.result("virtiod_get_controllers")
        assert controller["state"] == "up"
        assert controller["virtio"] == {"vq_count": 2, "vq_size": 128, "type": "user", "socket": "/x.sock"}
        assert controller["queues"][0]["kicks"] == 5
        assert (await peer.error("virtiod_get_controllers", name="B9")) == (-19, "controller 'B9' does not exist")
        assert (await peer.error("bdev_virtio_detach_controller", name="B9"))[0] == -19
        assert (await peer.error("bdev_virtio_detach_controller"))[0] == -32603
        daemon.fakes.fake_controllers.list()[0].state = "detaching"
        code, message = await peer.error("bdev_virtio_detach_controller", name="B0")
        assert (code, message.startswith("Device or resource busy")) == (-32602, True)
        daemon.fakes.fake_controllers.list()[0].state = "up"
        assert await peer.result("bdev_virtio_detach_controller", name="B0") is True
        assert await peer.result("bdev_get_bdevs") == []

    talk(run_dir, ask)


def test_scsi_controllers_are_listed_apart(run_dir: Path) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        await attach(peer)
        await peer.result("bdev_virtio_attach_controller", **ATTACH | {"name": "S0", "dev_type": "scsi"})
        assert await peer.result("bdev_virtio_scsi_get_devices") == [
            {"name": "S0", "virtio": {"vq_count": 1, "vq_size": 256, "type": "user", "socket": "/x.sock"}}
        ]

    talk(run_dir, ask)


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


def test_a_pci_controller_is_saved_by_its_full_address_and_without_queues(run_dir: Path) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        await peer.result("bdev_virtio_attach_controller", **ATTACH | {"trtype": "pci", "traddr": "00:5.0"})
        saved = (await peer.result("framework_get_config", name="bdev"))[1]
        params = {"name": "B0", "dev_type": "blk", "trtype": "pci", "traddr": "0000:00:05.0"}
        assert saved == {"method": "bdev_virtio_attach_controller", "params": params}

    talk(run_dir, ask)


def test_hotplug_has_a_period_within_reason(run_dir: Path) -> None:
    async def ask(peer: Peer, daemon: FakeDaemon) -> None:
        assert await peer.result("bdev_virtio_blk_set_hotplug", enable=True, period_us=200_000) is True
        assert (await peer.error("bdev_virtio_blk_set_hotplug", enable=True, period_us=1))[0] == -22
        saved = await peer.result("framework_get_config", name="bdev")
        assert saved[1]["params"] == {"enable": True, "period_us": 200_000}
        assert daemon.fakes.fake_hotplug.now == (True, 200_000)

    talk(run_dir, ask)


# ---- bdevs


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


# ---- histograms


def decode(answer: dict[str, Any]) -> list[tuple[int, int, int]]:
    """(from, below, count) of each bucket that counts something, by SPDK's definition of the layout."""
    raw = base64.b64decode(answer["histogram"])
    counts = struct.unpack(f"<{len(raw) // 8}Q", raw)
    per_range = 1 << answer["granularity"]
    assert len(counts) == per_range * (answer["max_range"] - answer["min_range"] + 1)
    found = []
    for place, count in enumerate(counts):
        span, sub = divmod(place, per_range)
        span += answer["min_range"]
        start = sub if span == 0 else (per_range + sub) << (span - 1)
        if count:
            found.append((start, start + (1 << max(span - 1, 0)), count))
    return found


def test_a_histogram_counts_from_when_it_was_enabled(run_dir: Path) -> None:
    async def ask(peer: Peer, daemon: FakeDaemon) -> None:
        await attach(peer)
        bdev = daemon.bdev("B0")
        assert (await peer.error("bdev_get_histogram", name="B0"))[0] == -32603
        bdev.count("read", 100_000)
        await peer.result("bdev_enable_histogram", name="B0", enable=True)
        bdev.count("read", 70_000)
        bdev.count("write", 70_001, channel=1)
        bdev.count("write", 5_000_000)
        answer = await peer.result("bdev_get_histogram", name="B0")
        assert answer["tsc_rate"] == 1_000_000_000
        low, high = decode(answer)
        assert low[0] <= 70_000 < low[1]
        assert low[2] == 2
        assert high[0] <= 5_000_000 < high[1]
        borders = await peer.result("bdev_get_histogram_borders", name="B0", borders=[10, 71, 5000, 6000])
        assert borders == {"borders_count": [0, 2, 3, 3, 3]}
        await peer.result("bdev_enable_histogram", name="B0", enable=True, opc="write", granularity=2)
        bdev.count("read", 70_000)
        bdev.count("write", 500)
        bdev.count("write", 10**11 * 2)
        answer = await peer.result("bdev_get_histogram", name="B0")
        assert [count for _, _, count in decode(answer)] == [1, 1]
        await peer.result("bdev_enable_histogram", name="B0", enable=False)
        assert (await peer.error("bdev_get_histogram", name="B0"))[0] == -32603

    talk(run_dir, ask)


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("bdev_enable_histogram", {"name": "B9", "enable": True}, -19),
        ("bdev_enable_histogram", {"name": "B0"}, -32602),
        ("bdev_enable_histogram", {"name": "B0", "enable": True, "opc": "compare"}, -22),
        ("bdev_enable_histogram", {"name": "B0", "enable": True, "granularity": 6}, -32602),
        ("bdev_enable_histogram", {"name": "B0", "enable": True, "min_nsec": 9, "max_nsec": 9}, -22),
        ("bdev_get_histogram_borders", {"name": "B0", "borders": []}, -22),
        ("bdev_get_histogram_borders", {"name": "B0", "borders": [2, 1]}, -22),
        ("bdev_get_histogram_borders", {"name": "B0", "borders": [-1]}, -32602),
    ],
)
def test_histograms_refuse(run_dir: Path, method: str, params: dict[str, object], code: int) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        await attach(peer)
        assert (await peer.error(method, **params))[0] == code

    talk(run_dir, ask)


@given(st.lists(st.integers(0, 2**38 - 1), max_size=20), st.integers(0, 5))
def test_coarser_buckets_hold_exactly_the_values_that_belong_there(values: list[int], granularity: int) -> None:
    counts = [0] * BUCKETS
    for value in values:
        counts[bucket_of(value)] += 1
    expected = [0] * ((1 << granularity) * 39)
    for value in values:
        span = max(0, value.bit_length() - granularity)
        expected[(span << granularity) + ((value >> max(span - 1, 0)) & ((1 << granularity) - 1))] += 1
    assert rebucket(counts, granularity, 0, 38) == expected


# ---- threads: spdk_top takes these members and no others


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


# ---- notifications


def test_notifications_tell_what_happened_to_bdevs(run_dir: Path) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        assert await peer.result("notify_get_types") == ["bdev_register", "bdev_unregister", "bdev_resize"]
        assert await peer.result("notify_get_notifications") == []
        await attach(peer)
        await peer.result("bdev_virtio_detach_controller", name="B0")
        both = await peer.result("notify_get_notifications")
        assert both == [
            {"type": "bdev_register", "ctx": "B0", "id": 0},
            {"type": "bdev_unregister", "ctx": "B0", "id": 1},
        ]
        assert await peer.result("notify_get_notifications", id=1) == both[1:]
        assert await peer.result("notify_get_notifications", max=1) == both[:1]
        assert await peer.result("notify_get_notifications", id=2) == []

    talk(run_dir, ask)


def test_the_last_1024_notifications_are_kept(run_dir: Path) -> None:
    async def ask(peer: Peer, daemon: FakeDaemon) -> None:
        for number in range(1500):
            daemon.system.notifications.add("bdev_resize", f"B{number}")
        kept = await peer.result("notify_get_notifications")
        assert [kept[0]["id"], kept[-1]["id"], len(kept)] == [476, 1499, 1024]
        assert (await peer.result("notify_get_notifications", id=1400, max=2))[0]["ctx"] == "B1400"

    talk(run_dir, ask)


# ---- log


def test_log_levels_and_flags(run_dir: Path) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        await peer.result("log_set_level", level="DEBUG")
        assert await peer.result("log_get_level") == "DEBUG"
        await peer.result("log_set_print_level", level="WARNING")
        assert await peer.result("log_get_print_level") == "WARNING"
        assert not any((await peer.result("log_get_flags")).values())
        await peer.result("log_set_flag", flag="rpc")
        flags = await peer.result("log_get_flags")
        assert [name for name, on in flags.items() if on] == ["rpc"]
        await peer.result("log_set_flag", flag="all")
        assert all((await peer.result("log_get_flags")).values())
        await peer.result("log_clear_flag", flag="all")
        code, message = await peer.error("log_set_flag", flag="nvme")
        assert (code, "there is no log flag 'nvme'" in message) == (-32602, True)

    talk(run_dir, ask)


def test_a_flag_prints_what_the_level_would_not(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def ask(peer: Peer, daemon: FakeDaemon) -> None:
        for level in ("log_set_level", "log_set_print_level"):
            await peer.result(level, level="ERROR")
        await peer.error("bdev_get_bdevs", name="first")
        await peer.result("log_set_flag", flag="rpc")
        await peer.error("bdev_get_bdevs", name="second")

    talk(run_dir, ask)
    printed = capsys.readouterr().err
    assert "'second' does not exist" in printed
    assert "'first' does not exist" not in printed


# ---- NBD, load


def test_nbd_exports(run_dir: Path) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        await attach(peer)
        export = await peer.result("nbd_create_export", bdev_name="B0", name="disk", read_only=True)
        assert (export["name"], export["bdev_name"], export["size"]) == ("disk", "B0", 1 << 30)
        assert await peer.result("nbd_get_exports") == [export]
        assert await peer.result("nbd_get_exports", name="disk") == [export]
        assert (await peer.error("nbd_get_exports", name="x"))[0] == -19
        assert (await peer.error("nbd_create_export", bdev_name="B0", name="disk"))[0] == -17
        assert (await peer.error("nbd_create_export", bdev_name="B9"))[0] == -19
        assert await peer.result("nbd_delete_export", name="disk") is True
        assert (await peer.error("nbd_delete_export", name="disk"))[0] == -19

    talk(run_dir, ask)


def test_perform_tests_hands_over_what_was_asked(run_dir: Path) -> None:
    async def ask(peer: Peer, daemon: FakeDaemon) -> None:
        asked = {"rw": "randrw", "time_s": 0.5, "rw_mix_read": 70}
        assert (await peer.result("perform_tests", **asked, bdevs=["B0"], cpumask="1"))["results"] == []
        ((bdevs, workload, cpus),) = daemon.fakes.fake_load.asked
        assert (bdevs, cpus) == (["B0"], (0,))
        assert asked.items() <= vars(workload).items()
        assert (await peer.error("perform_tests", bdevs=["B0"], rw="trim"))[0] == -32602
        assert (await peer.error("perform_tests", bdevs=["B0"], cpumask="zz"))[0] == -22

    talk(run_dir, ask)


# ---- states, allowed methods, names


def test_before_initialisation_only_some_methods_can_be_called(run_dir: Path) -> None:
    async def ask(peer: Peer, daemon: FakeDaemon) -> None:
        code, message = await peer.error("bdev_get_bdevs")
        assert (code, message) == (-1, "Method may only be called after framework_start_init: bdev_get_bdevs")
        current = await peer.result("rpc_get_methods", current=True)
        assert "framework_start_init" in current
        assert "bdev_get_bdevs" not in current
        assert await peer.result("bdev_set_options", bdev_io_pool_size=65535) is True
        await peer.send({"method": "framework_wait_init", "id": "wait"})
        await peer.send({"method": "framework_start_init", "id": "start"})
        answers = [await peer.receive(), await peer.receive()]
        assert {answer["id"]: answer["result"] for answer in answers} == {"wait": True, "start": True}
        assert (await peer.error("framework_start_init"))[0] == -1
        assert (await peer.error("bdev_set_options"))[0] == -1
        assert "framework_start_init" not in await peer.result("rpc_get_methods", current=True)
        assert await peer.result("framework_wait_init") is True

    talk(run_dir, ask, wait_for_rpc=True)


def test_only_allowed_methods_exist(run_dir: Path) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        assert await peer.result("rpc_get_methods") == ["bdev_get_bdevs", "rpc_get_methods"]
        assert await peer.error("log_get_level") == (-32601, "Method not found")

    talk(run_dir, ask, rpcs_allowed=frozenset({"rpc_get_methods", "bdev_get_bdevs"}))


def test_aliases_are_methods_that_are_listed_on_demand(run_dir: Path) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        names = await peer.result("rpc_get_methods")
        assert names == sorted(METHODS)
        more = await peer.result("rpc_get_methods", include_aliases=True)
        assert set(more) - set(names) == {"virtiod_get_version"}
        assert await peer.result("virtiod_get_version") == await peer.result("spdk_get_version")

    talk(run_dir, ask)


def test_a_method_that_breaks_is_an_internal_error_and_nothing_else_stops(run_dir: Path) -> None:
    async def ask(peer: Peer, daemon: FakeDaemon) -> None:
        del daemon.fakes.load
        code, message = await peer.error("perform_tests", bdevs=["B0"])
        assert (code, "perform_tests: AttributeError" in message) == (-32603, True)
        assert await peer.result("log_get_level") == "INFO"

    talk(run_dir, ask)


def test_the_registry_tells_observers_how_calls_went(run_dir: Path) -> None:
    async def ask(peer: Peer, daemon: FakeDaemon) -> None:
        seen: list[tuple[str, int]] = []
        daemon.rpc.observers.append(lambda name, seconds, code: seen.append((name, code)))
        await peer.result("log_get_level")
        await peer.error("bdev_get_bdevs", name="x")
        await peer.error("no_such_method")
        assert seen == [("log_get_level", 0), ("bdev_get_bdevs", -19)]

    talk(run_dir, ask)
