"""What a start fails with, `virtiod check-config` finds before, as far as the file alone shows it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.live import attach, export, live, null
from virtiod.cli import main
from virtiod.core.errors import VirtiodError

UUID = "6d2a5c7e-3f10-4b8e-9a44-0c5f1be2d901"
A, B = Path("/run/a.sock"), Path("/run/b.sock")


def call(method: str, **params: Any) -> dict[str, Any]:
    return {"method": method, "params": params}


def wrong(entry: dict[str, Any], **params: Any) -> dict[str, Any]:
    return {**entry, "params": {**entry["params"], **params}}


def file_of(path: Path, *calls: dict[str, Any]) -> Path:
    """In this order, whatever subsystem each is of."""
    path.write_text(json.dumps({"subsystems": [{"subsystem": "bdev", "config": [one]} for one in calls]}))
    return path


BAD: dict[str, tuple[list[dict[str, Any]], str]] = {
    "block size": ([wrong(null("N0"), block_size=513)], "block size 513 is not a power of two"),
    "capacity": ([wrong(null("N0"), num_blocks=1 << 62)], "blocks of 512 bytes is too large"),
    "no UUID": ([wrong(null("N0"), uuid="x")], "params.uuid (bdev_null_create): uuid 'x': not a UUID"),
    "UUID of two": ([wrong(null("N0"), uuid=UUID), wrong(null("N1"), uuid=UUID.upper())], "is taken by FILE:1:"),
    "UUID as a name": ([wrong(null("N0"), uuid=UUID), null(UUID.upper())], "params.name (bdev_null_create): "),
    "name of two kinds": ([null("V0"), attach("V0", A)], "'V0' is taken by FILE:1:"),
    "device of two": ([attach("V0", A), attach("V1", Path("/run/../run/a.sock"))], "'/run/../run/a.sock' is taken by"),
    "PCI device of two": (
        [attach("V0", Path("0:5.0"), trtype="pci"), attach("V1", Path("0000:00:05.0"), trtype="pci")],
        "'0000:00:05.0' is taken by",
    ),
    "queues of a PCI device": ([attach("V0", Path("0:5.0"), trtype="pci", vq_count=2)], "vq_count is not allowed"),
    "long path": ([attach("V0", Path("/" + "x" * 107))], "the path of a socket has 1 to 107 bytes"),
    "no path": ([wrong(attach("V0", A), traddr="")], "the path of a socket has 1 to 107 bytes"),
    "period of hotplug": ([call("bdev_virtio_blk_set_hotplug", enable=True, period_us=1)], "period_us must be from"),
    "export of nothing": ([null("N0"), export("N1")], "params.bdev_name (nbd_create_export): no call before makes"),
    "export too early": ([export("N0"), null("N0")], "no call before makes a bdev 'N0'"),
    "export of another unit": ([attach("S0", A, dev_type="scsi"), export("S0")], "no call before makes a bdev 'S0'"),
    "export by UUID of nothing": ([null("N0"), export(UUID)], f"no call before makes a bdev '{UUID}'"),
    "description": ([null("N0"), export("N0", description="a\nb")], "description 'a\\nb': holds U+000A"),
    "setting of nothing": ([call("bdev_set_qd_sampling_period", name="N9", period=1)], "no call before makes"),
    "histogram of nothing": ([call("bdev_enable_histogram", name="N9", enable=True)], "no call before makes"),
    "start in a start": ([call("framework_start_init")], "it is for RPC, and can't be in a file"),
    "wait in a start": ([call("framework_wait_init")], "it is for RPC"),
    "reload in a start": ([call("virtiod_reload_config")], "it is for RPC"),
    "end in a start": ([call("spdk_kill_instance", sig_name="SIGTERM")], "it is for RPC"),
}
GOOD: dict[str, list[dict[str, Any]]] = {
    "export by UUID": [wrong(null("N0"), uuid=UUID), export(UUID.upper())],
    "nil UUIDs": [wrong(null(name), uuid="00000000-0000-0000-0000-000000000000") for name in ("N0", "N1")],
    "units": [
        attach("S0", A, dev_type="scsi"),
        export("S0t0"),
        export("S0t12l300", name="x"),
        export("naa.5000c500a1"),
    ],
    "disk by UUID": [attach("V0", A), attach("V1", B), export(UUID)],
    "hotplug": [call("bdev_virtio_blk_set_hotplug", enable=False), null("N0"), export("N0"), export("N0", name="two")],
    "longest path": [attach("V0", Path("/run/" + "x" * 102))],
    "settings": [
        null("N0"),
        call("bdev_set_qd_sampling_period", name="N0", period=1),
        call("log_get_level"),
    ],
}


@pytest.mark.parametrize("case", BAD)
def test_what_can_not_start_is_found_by_the_check(run_dir: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    calls, message = BAD[case]
    file = file_of(run_dir / "c.json", *calls)
    assert main(["check-config", str(file)]) == 1
    assert message.replace("FILE", str(file)) in capsys.readouterr().err

    async def run() -> None:
        with pytest.raises(VirtiodError) as caught:
            async with live(run_dir, file, http=None):
                pass
        assert message.replace("FILE", str(file)) in str(caught.value)

    asyncio.run(run())


@pytest.mark.parametrize("case", GOOD)
def test_what_passes_the_check_starts(run_dir: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    file = file_of(run_dir / "c.json", *GOOD[case])
    assert main(["check-config", str(file)]) == 0, capsys.readouterr().err

    async def run() -> None:
        async with live(run_dir, file, http=None) as daemon:
            assert daemon.configuration.failed == []

    asyncio.run(run())


def test_a_reload_may_be_about_what_rpc_made(run_dir: Path) -> None:
    file = file_of(run_dir / "c.json")

    async def run() -> None:
        async with live(run_dir, file, http=None) as daemon:
            await daemon.rpc.call("bdev_null_create", {"name": "N0", "num_blocks": 8})
            file_of(file, export("N0"))
            assert (await daemon.rpc.call("virtiod_reload_config", {}))["created"] == ["N0"]

    asyncio.run(run())
