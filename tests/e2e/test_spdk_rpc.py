"""SPDK's unmodified client on a daemon whose controller works under load; configurations saved and loaded."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.peers import run
from tests.support.process import Daemon, daemon, target
from tests.support.spdk_client import Outcome
from tests.support.waiting import LOAD_S, PATIENCE_S

Rpc = Callable[..., Outcome]

# Command -> what its output must hold, on a daemon that runs and has the bdev V0.
COMMANDS: list[tuple[tuple[str, ...], str]] = [
    (("rpc_get_methods",), '"bdev_virtio_attach_controller"'),
    (("rpc_get_methods", "-c"), '"perform_tests"'),
    (("spdk_get_version",), "virtiod v"),
    (("framework_wait_init",), ""),
    (("framework_get_subsystems",), '"depends_on"'),
    (("framework_get_config", "bdev"), '"bdev_wait_for_examine"'),
    (("framework_get_config", "nbd"), "[]"),
    (("framework_get_reactors",), '"lcore"'),
    (("thread_get_stats",), '"poller_0"'),
    (("thread_get_pollers",), '"V0_q0"'),
    (("thread_get_io_channels",), '"bdev_V0"'),
    (("bdev_get_bdevs",), '"VirtioBlk Disk"'),
    (("bdev_get_bdevs", "-b", "V0", "-t", "1000"), '"name": "V0"'),
    (("bdev_get_iostat",), '"num_read_ops"'),
    (("bdev_get_iostat", "--names", "V0", "-c"), '"thread_id": 1'),
    (("bdev_get_iostat", "--names", "V0", "--reset-mode", "maxmin"), '"queue_depth"'),
    (("bdev_reset_iostat", "-b", "V0"), ""),
    (("bdev_set_qd_sampling_period", "V0", "100"), ""),
    (("bdev_enable_histogram", "V0", "--histogram"), ""),
    (("bdev_get_histogram", "V0"), '"histogram"'),
    (("bdev_wait_for_examine",), ""),
    (("bdev_virtio_blk_set_hotplug", "--hotplug"), ""),
    (("bdev_virtio_scsi_get_devices",), "[]"),
    (("notify_get_types",), '"bdev_register"'),
    (("notify_get_notifications",), '"V0"'),
    (("log_set_level", "DEBUG"), ""),
    (("log_get_level",), '"DEBUG"'),
    (("log_set_print_level", "WARNING"), ""),
    (("log_get_print_level",), '"WARNING"'),
    (("log_get_flags",), "{"),
    (("bdev_virtio_detach_controller", "V0"), ""),
]


def test_every_method_works_under_load(run_dir: Path, rpc: Rpc) -> None:
    with target(run_dir, "--memory", "16M") as disk, daemon(run_dir) as virtiod:
        attached = rpc("bdev_virtio_attach_controller", "V0", "-t", "user", "-a", disk.socket, "-d", "blk")
        assert (attached.status, attached.out) == (0, "V0\n"), attached
        load = virtiod.send("perform_tests", bdevs=["V0"], rw="verify", queue_depth=8, time_s=LOAD_S)
        virtiod.wait_busy()
        outcome = rpc(stdin="\n".join(" ".join(words) for words, _ in COMMANDS))
        assert outcome.status == 0, outcome
        for words, expected in COMMANDS:
            assert expected in outcome.out, words
        (result,) = load.result()["results"]
        assert (result["status"], result["io_failed"], result["io_mismatched"]) == ("terminated", 0, 0)
        assert rpc("bdev_get_bdevs", "-b", "V0").error[0] == -19
        assert rpc("spdk_kill_instance", "SIGTERM").status == 0
        virtiod.ends()


def test_initialisation_waits_for_the_client_if_asked(run_dir: Path, rpc: Rpc) -> None:
    with daemon(run_dir, "--wait-for-rpc") as virtiod:
        waiting = virtiod.send("framework_wait_init")
        assert rpc("bdev_get_bdevs").error[0] == -1
        assert rpc("bdev_set_options", "-p", "1024").status == 0
        assert rpc("framework_start_init").status == 0
        assert waiting.result() is True
        assert rpc("bdev_get_bdevs").json == []


def state(virtiod: Daemon, disk: str = "V1") -> list[Any]:
    """What a configuration must bring back."""
    return [
        virtiod.call("bdev_get_bdevs"),
        virtiod.call("nbd_get_exports"),
        [(c["name"], c["traddr"], c["virtio"]) for c in virtiod.call("virtiod_get_controllers")],
        virtiod.iostat(disk)["queue_depth_polling_period"],
    ]


def test_a_saved_configuration_brings_everything_back(run_dir: Path, rpc: Rpc) -> None:
    file = run_dir / "saved.json"
    with target(run_dir, "--memory", "16M", "--queues", "2", count=2) as disks:
        with daemon(run_dir) as virtiod:
            virtiod.attach(disks.socket, "V0", vq_count=2, vq_size=128)
            virtiod.attach(run_dir / "t1.sock", "V1")
            virtiod.call("nbd_create_export", bdev_name="V0", name="first", read_only=True, description="one")
            virtiod.call("nbd_create_export", bdev_name="V1")
            assert rpc("bdev_set_qd_sampling_period", "V1", "123").status == 0
            assert rpc("bdev_virtio_blk_set_hotplug", "--hotplug", "-r", "200000").status == 0
            file.write_text(rpc("save_config").out)
            before = state(virtiod)
        saved = json.loads(file.read_text())
        assert [call["method"] for call in saved["subsystems"][0]["config"]] == [
            "bdev_set_options",
            "bdev_virtio_attach_controller",
            "bdev_virtio_attach_controller",
            "bdev_virtio_blk_set_hotplug",
            "bdev_set_qd_sampling_period",
            "bdev_wait_for_examine",
        ]
        with daemon(run_dir, "-c", file) as virtiod:
            assert state(virtiod) == before
            assert rpc("save_config").json == saved
            run("nbdinfo", "--size", virtiod.call("nbd_get_exports", name="first")[0]["uris"][0])
        with daemon(run_dir, "--wait-for-rpc") as virtiod:
            loaded = rpc("load_config", "-j", file)
            assert (loaded.status, loaded.out) == (0, ""), loaded
            assert state(virtiod) == before


def test_a_configuration_of_spdk_itself_is_taken(run_dir: Path, rpc: Rpc) -> None:
    with target(run_dir, "--memory", "16M") as disk:
        params = {
            "name": "VirtioBlk0",
            "dev_type": "blk",
            "trtype": "user",
            "traddr": str(disk.socket),
            "vq_count": 1,
            "vq_size": 512,
        }
        options = {"bdev_io_pool_size": 65535, "bdev_io_cache_size": 256, "bdev_auto_examine": True}
        config = [
            {"method": "bdev_set_options", "params": options},
            {"method": "bdev_virtio_attach_controller", "params": params},
            {"method": "bdev_virtio_blk_set_hotplug", "params": {"enable": False, "period_us": 100000}},
            {"method": "bdev_wait_for_examine"},
        ]
        (run_dir / "spdk.json").write_text(json.dumps({"subsystems": [{"subsystem": "bdev", "config": config}]}))
        with daemon(run_dir, "-c", run_dir / "spdk.json"):
            assert [bdev["name"] for bdev in rpc("bdev_get_bdevs").json] == ["VirtioBlk0"]


def saved_by_spdk(run_dir: Path) -> Path:
    """The example of the documentation, with the disk of a test."""
    file = run_dir / "spdk.json"
    example = Path(__file__).parents[2] / "docs" / "examples" / "saved-by-spdk.json"
    file.write_text(example.read_text().replace("/run/disk.sock", str(run_dir / "t.sock")))
    return file


def virtiod_rpc(virtiod: Daemon, *words: str | Path) -> Outcome:
    command = [sys.executable, "-m", "rpc_client.cli", "-s", virtiod.socket, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("start", ["-c", "--wait-for-rpc", "running"])
def test_what_spdk_saved_is_loaded_in_all_ways_and_again(run_dir: Path, rpc: Rpc, start: str) -> None:
    file = saved_by_spdk(run_dir)
    options: tuple[str | Path, ...] = ("--state", run_dir / "state.json")
    if start != "running":
        options = (*options, start, *([file] if start == "-c" else []))
    with target(run_dir, "--memory", "16M"):
        with daemon(run_dir, *options) as virtiod:
            first = rpc("load_config", "-j", file)
            assert first.status == 0, first
            assert [bdev["name"] for bdev in virtiod.call("bdev_get_bdevs")] == ["Null0", "VirtioBlk0"]
            before, saved = state(virtiod, "VirtioBlk0"), rpc("save_config").json
            for _ in range(2):
                again = rpc("load_config", "-j", file)
                assert again.status == 0, again
                loaded = virtiod_rpc(virtiod, "load_config", "-f", file)
                assert (loaded.status, loaded.err) == (0, ""), loaded
                assert "sock: left out, virtiod does not have this: sock_set_default_impl" in loaded.out
            subsystem = next(one for one in saved["subsystems"] if one["subsystem"] == "bdev")
            config = [call for call in subsystem["config"] if call["method"] != "bdev_set_options"]
            part = rpc("load_subsystem_config", stdin=json.dumps({**subsystem, "config": config}))
            assert (part.status, part.out) == (0, ""), part
            assert (state(virtiod, "VirtioBlk0"), rpc("save_config").json) == (before, saved)
        # The file, and a state that holds the same.
        with daemon(run_dir, *options[:2], "-c", file) as virtiod:
            assert (state(virtiod, "VirtioBlk0"), rpc("save_config").json) == (before, saved)
            assert rpc("load_config", "-j", file).status == 0
            assert rpc("save_config").json == saved


def test_what_differs_from_a_configuration_that_is_loaded_is_named(run_dir: Path, rpc: Rpc) -> None:
    file = saved_by_spdk(run_dir)
    with target(run_dir, "--memory", "16M"), daemon(run_dir, "-c", file) as virtiod:
        before = rpc("save_config").json
        differs = run_dir / "differs.json"
        differs.write_text(file.read_text().replace('"num_blocks": 32768', '"num_blocks": 32769'))
        assert rpc("load_config", "-j", differs).error == (
            -17,
            "bdev 'Null0' already exists, with num_blocks 32768, not 32769",
        )
        loaded = virtiod_rpc(virtiod, "load_config", "-f", differs)
        assert (loaded.status, loaded.out) == (1, "")
        assert "bdev_null_create: bdev 'Null0' already exists, with num_blocks 32768, not 32769" in loaded.err
        differs.write_text(file.read_text().replace('"vq_size": 512', '"vq_size": 64'))
        code, message = rpc("load_config", "-j", differs).error
        assert (code, message) == (-32602, "controller 'VirtioBlk0' already exists, with vq_size 512, not 64")
        assert rpc("save_config").json == before


@pytest.fixture(scope="module")
def one_disk() -> Iterator[Daemon]:
    """A daemon that has the disk V0, for all that is refused; beside it are paths to nothing of use."""
    with (
        tempfile.TemporaryDirectory(prefix="v-", dir="/tmp") as folder,
        target(Path(folder), "--memory", "1M") as disk,
        target(Path(folder), "--memory", "1M", name="dead") as dead,
        daemon(Path(folder)) as virtiod,
    ):
        (Path(folder) / "file").touch()
        dead.kill()
        dead.socket.rename(Path(folder) / "dead")
        virtiod.attach(disk.socket)
        yield virtiod


ATTACH = ("bdev_virtio_attach_controller", "V1", "-d", "blk")
DISK = ("-d", "blk", "-t", "user", "-a", "{dir}/t.sock")
AGAIN = ("bdev_virtio_attach_controller", "V1", *DISK)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((*ATTACH, "-t", "user", "-a", "{dir}/none"), -32602, "connect to {dir}/none: No such file"),
        ((*ATTACH, "-t", "user", "-a", "{dir}/dead"), -32602, "connect to {dir}/dead: Connection refused"),
        ((*ATTACH, "-t", "user", "-a", "{dir}/file"), -32602, "connect to {dir}/file: Connection refused"),
        (
            ("bdev_virtio_attach_controller", "V0", *DISK, "--vq-size", "64"),
            -32602,
            "controller 'V0' already exists, with vq_size 512, not 64",
        ),
        (
            (*AGAIN, "--vq-size", "100"),
            -32602,
            "vq_size 100: must be",
        ),
        ((*AGAIN, "--vq-size", "65536"), -32602, "vq_size 65536"),
        ((*AGAIN, "--vq-count", "0"), -32602, "vq_count 0: must be"),
        ((*AGAIN, "--vq-count", "-1"), -32603, "'vq_count' must be"),
        (
            (*ATTACH, "-t", "pci", "-a", "0000:00:05.0", "--vq-count", "2"),
            -22,
            "vq_count or vq_size is not",
        ),
        ((*ATTACH, "-t", "pci", "-a", "0000:00:05.0", "--vq-size", "8"), -22, "vq_count or vq_size is not"),
        ((*ATTACH, "-t", "pci", "-a", "nonsense"), -22, "Invalid PCI address 'nonsense'"),
        (("bdev_virtio_detach_controller", "V9"), -19, "controller 'V9' does not exist"),
        (("bdev_get_bdevs", "-b", "V9"), -19, "bdev 'V9' does not exist"),
        (("bdev_get_bdevs", "-b", "V9", "-t", "50"), -110, "bdev 'V9' did not appear within 0.05 s"),
        (("bdev_get_iostat", "--names", "V9"), -19, "bdev 'V9' does not exist"),
    ],
)
def test_bad_input_gets_its_code_and_its_cause(
    one_disk: Daemon, rpc: Rpc, words: tuple[str, ...], code: int, message: str
) -> None:
    folder = one_disk.run_dir
    found, text = rpc("-s", one_disk.socket, *(word.format(dir=folder) for word in words)).error
    assert (found, message.format(dir=folder) in text) == (code, True), text
    assert [bdev["name"] for bdev in one_disk.call("bdev_get_bdevs")] == ["V0"]


@pytest.mark.parametrize(
    "params",
    [
        {"name": "V1", "trtype": "user", "traddr": "/x"},
        {"name": "V1", "trtype": "user", "traddr": "/x", "dev_type": "floppy"},
        {"name": "V1", "trtype": "usb", "traddr": "/x", "dev_type": "blk"},
        {"name": "V1", "trtype": "user", "traddr": "/x", "dev_type": "blk", "colour": "red"},
        {"name": 7, "trtype": "user", "traddr": "/x", "dev_type": "blk"},
    ],
)
def test_bad_input_that_only_a_library_sends_is_an_internal_error_as_with_spdk(
    one_disk: Daemon, rpc: Rpc, params: dict[str, Any]
) -> None:
    """SPDK's `client` library can send what its command line can't."""
    from spdk.rpc.client import JSONRPCClient, JSONRPCException

    client = JSONRPCClient(str(one_disk.socket))
    try:
        with pytest.raises(JSONRPCException, match=r"bdev_virtio_attach_controller: .*'\w+'") as failure:
            client.call("bdev_virtio_attach_controller", params)
    finally:
        client.close()
    assert '"code": -32603' in failure.value.message
