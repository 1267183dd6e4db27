"""SPDK's unmodified client on every method that it has a command for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import FakeDaemon, running
from tests.support.spdk_client import Outcome, spdk_rpc

pytestmark = pytest.mark.programs

pytest.importorskip("spdk", reason="SPDK's client is not installed (pip install spdk)")

Rpc = Callable[..., Awaitable[Outcome]]


def with_client(run_dir: Path, script: Callable[[Rpc, FakeDaemon], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        async with running(run_dir, **options) as daemon:

            async def rpc(*words: str, stdin: str = "") -> Outcome:
                return await spdk_rpc(run_dir, *words, stdin=stdin)

            await script(rpc, daemon)

    asyncio.run(run())


ATTACH = ("bdev_virtio_attach_controller", "B0", "-t", "user", "-a", "/x.sock", "-d", "blk")

# Command -> what its output must hold.
COMMANDS: list[tuple[tuple[str, ...], str]] = [
    (("rpc_get_methods", "-c", "-i"), "virtiod_get_version"),
    (("spdk_get_version",), "virtiod v"),
    (("framework_wait_init",), ""),
    (("framework_get_subsystems",), '"depends_on"'),
    (("framework_get_config", "bdev"), "bdev_wait_for_examine"),
    (("framework_get_config", "bdev", "--with-batches"), "bdev_wait_for_examine"),
    (("framework_get_reactors",), '"lw_threads"'),
    (("thread_get_stats",), '"poller_1"'),
    (("thread_get_pollers",), '"run_count": 10'),
    (("thread_get_io_channels",), '"bdev_B0"'),
    (("bdev_get_bdevs",), '"VirtioBlk Disk"'),
    (("bdev_get_bdevs", "-b", "B0", "-t", "100"), '"name": "B0"'),
    (("bdev_get_iostat",), '"num_read_ops": 0'),
    (("bdev_get_iostat", "--names", "B0", "--reset-mode", "all"), '"queue_depth": 0'),
    (("bdev_get_iostat", "--names", "B0", "-c"), '"thread_id": 2'),
    (("bdev_reset_iostat", "-b", "B0", "-m", "maxmin"), ""),
    (("bdev_set_qd_sampling_period", "B0", "100"), ""),
    (("bdev_enable_histogram", "B0", "--histogram"), ""),
    (("bdev_get_histogram", "B0"), '"granularity": 5'),
    (("bdev_get_histogram_borders", "B0", "--borders", "10,100"), '"borders_count"'),
    (("bdev_wait_for_examine",), ""),
    (("bdev_virtio_blk_set_hotplug", "--hotplug", "-r", "100000"), ""),
    (("bdev_virtio_scsi_get_devices",), "[]"),
    (("bdev_null_create", "N0", "16", "512"), "N0"),
    (("bdev_null_delete", "N0"), ""),
    (("notify_get_types",), '"bdev_resize"'),
    (("notify_get_notifications", "-i", "0", "-n", "10"), '"bdev_register"'),
    (("log_get_flags",), '"rpc": true'),
    (("log_get_level",), '"INFO"'),
    (("log_get_print_level",), '"INFO"'),
    (("log_set_level", "INFO"), ""),
    (("log_set_print_level", "INFO"), ""),
    (("log_set_flag", "rpc"), ""),
    (("log_clear_flag", "bdev"), ""),
    (("bdev_virtio_detach_controller", "B0"), ""),
]


def test_every_command_works(run_dir: Path) -> None:
    async def script(rpc: Rpc, daemon: FakeDaemon) -> None:
        attached = await rpc(*ATTACH, "--vq-count", "2", "--vq-size", "128")
        assert (attached.status, attached.out) == (0, "B0\n")
        daemon.logs.set_flag("rpc", True)
        # As one script on one connection: the client is slow to start.
        lines = "\n".join(" ".join(words) for words, _ in COMMANDS)
        outcome = await rpc(stdin=lines)
        assert outcome.status == 0, outcome
        for words, expected in COMMANDS:
            assert expected in outcome.out, words
        assert daemon.system.bdevs.list() == []

    with_client(run_dir, script)


def test_framework_start_init_comes_first_if_asked(run_dir: Path) -> None:
    async def script(rpc: Rpc, _: FakeDaemon) -> None:
        assert (await rpc("bdev_get_bdevs")).error[0] == -1
        assert (await rpc("bdev_set_options", "-p", "1024", "--no-auto-examine")).status == 0
        assert (await rpc("framework_start_init")).status == 0
        assert (await rpc("bdev_get_bdevs")).json == []

    with_client(run_dir, script, wait_for_rpc=True)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ("-t", "pci", "-a", "0000:00:05.0", "-d", "blk", "--vq-count", "2"),
            -22,
            "vq_count or vq_size is not allowed",
        ),
        (("-t", "pci", "-a", "0000:00:05.0", "-d", "blk", "--vq-size", "2"), -22, "vq_count or vq_size is not allowed"),
        (("-t", "vfio-user", "-a", "/x", "-d", "blk"), -32603, "must be one of pci, user, not 'vfio-user'"),
        (("-t", "pci", "-a", "nonsense", "-d", "blk"), -22, "Invalid PCI address 'nonsense'"),
        (("-t", "user", "-a", "/refused", "-d", "blk"), -32602, "connect to /refused: Connection refused"),
        (("-t", "user", "-a", "/x", "-d", "blk", "--vq-count", "-1"), -32603, "'vq_count' must be from 0"),
    ],
)
def test_a_bad_attach_gets_the_code_and_the_cause(
    run_dir: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    async def script(rpc: Rpc, _: FakeDaemon) -> None:
        found, text = (await rpc("bdev_virtio_attach_controller", "B0", *words)).error
        assert (found, message in text) == (code, True), text

    with_client(run_dir, script)


def test_detach_of_what_is_not_there(run_dir: Path) -> None:
    async def script(rpc: Rpc, _: FakeDaemon) -> None:
        assert (await rpc("bdev_virtio_detach_controller", "B9")).error[0] == -19
        assert (await rpc("bdev_get_bdevs", "-b", "B9")).error[0] == -19

    with_client(run_dir, script)


def test_a_batch(run_dir: Path) -> None:
    async def script(rpc: Rpc, _: FakeDaemon) -> None:
        outcome = await rpc("-b", stdin="spdk_get_version\nbdev_get_bdevs -b nope\nlog_get_level\n")
        assert outcome.status == 1
        assert '"INFO"' in outcome.out
        assert '"code": -19' in outcome.err

    with_client(run_dir, script)


def test_a_saved_configuration_brings_the_state_back(run_dir: Path) -> None:
    saved: dict[str, Any] = {}
    file = run_dir / "saved.json"

    async def build(rpc: Rpc, daemon: FakeDaemon) -> None:
        assert (await rpc("bdev_set_options", "-p", "1024")).status == 0
        assert (await rpc("framework_start_init")).status == 0
        await rpc(*ATTACH, "--vq-count", "2", "--vq-size", "128")
        await rpc("bdev_set_qd_sampling_period", "B0", "0")
        await daemon.rpc.call("nbd_create_export", {"bdev_name": "B0", "name": "disk", "read_only": True})
        outcome = await rpc("save_config")
        saved.update(outcome.json)
        file.write_text(outcome.out)

    async def compare(rpc: Rpc, daemon: FakeDaemon) -> None:
        assert (await rpc("save_config")).json == saved
        assert [export.name for export in daemon.system.exports.list()] == ["disk"]

    async def load(rpc: Rpc, daemon: FakeDaemon) -> None:
        outcome = await rpc("load_config", "-j", str(file))
        assert (outcome.status, outcome.out) == (0, ""), outcome
        await compare(rpc, daemon)

    with_client(run_dir, build, wait_for_rpc=True)
    assert [subsystem["subsystem"] for subsystem in saved["subsystems"]] == ["bdev", "nbd"]
    assert [call["method"] for call in saved["subsystems"][0]["config"]] == [
        "bdev_set_options",
        "bdev_virtio_attach_controller",
        "bdev_set_qd_sampling_period",
        "bdev_wait_for_examine",
    ]
    with_client(run_dir, compare, config=str(file))
    with_client(run_dir, load, wait_for_rpc=True)


def test_one_subsystem_can_be_saved_and_loaded(run_dir: Path) -> None:
    async def script(rpc: Rpc, daemon: FakeDaemon) -> None:
        await rpc(*ATTACH)
        saved = await rpc("save_subsystem_config", "-n", "bdev")
        await daemon.fakes.fake_controllers.detach("B0")
        loaded = await rpc("load_subsystem_config", stdin=json.dumps(saved.json))
        assert (loaded.status, [bdev.name for bdev in daemon.system.bdevs.list()]) == (0, ["B0"])
        assert (await rpc("save_subsystem_config", "-n", "nvmf")).error == (-32602, "Subsystem 'nvmf' not found")

    with_client(run_dir, script)
