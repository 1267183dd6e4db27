"""Attaching what is there in another way than was asked for: the error says what would be right."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.live import attach, disks, live, states
from tests.support.peers import storage_daemon
from tests.support.vhost_user import ScriptedBackend
from virtiod.api.errors import RpcError
from virtiod.daemon.daemon import Daemon
from virtiod.target.scsi.device import HostSpec
from virtiod.target.scsi.luns import LunSpec
from virtiod.target.target import Target
from virtiod.transports.vhost_user import wire
from virtiod.transports.vhost_user.wire import ProtocolFeature
from virtiod.virtio.features import BlkFeature, Feature, ScsiFeature, likely_kind

BASE = 1 << Feature.VERSION_1 | 1 << Feature.EVENT_IDX
HOT = 1 << ScsiFeature.HOTPLUG | 1 << ScsiFeature.CHANGE


async def refused(daemon: Daemon, entry: dict[str, Any]) -> str:
    with pytest.raises(RpcError) as caught:
        await daemon.rpc.call(entry["method"], entry["params"])
    assert states(daemon) == {}
    return str(caught.value)


def test_the_embedded_targets_are_told_apart(run_dir: Path) -> None:
    async def run() -> None:
        scsi = Target({str(run_dir / "s.sock"): HostSpec({0: {0: LunSpec(1 << 20)}})})
        await scsi.start()
        try:
            async with disks(run_dir / "d.sock"), live(run_dir, http=None) as daemon:
                message = await refused(daemon, attach("S0", run_dir / "d.sock", dev_type="scsi"))
                assert message.endswith("the device looks like a virtio-blk one: try dev_type blk")
                message = await refused(daemon, attach("V0", run_dir / "s.sock"))
                assert message.endswith("the device looks like a virtio-scsi one: try dev_type scsi")
        finally:
            await scsi.stop()

    asyncio.run(run())


@pytest.mark.programs
def test_a_disk_of_qemus_is_known_as_one(run_dir: Path) -> None:
    async def run(path: Path) -> None:
        async with live(run_dir, http=None) as daemon:
            message = await refused(daemon, attach("S0", path, dev_type="scsi"))
            assert message.endswith("the device looks like a virtio-blk one: try dev_type blk")

    with storage_daemon(run_dir, "driver=null-co,size=1048576,read-zeroes=on") as peer:
        asyncio.run(run(peer.socket))


def test_a_scsi_host_without_a_configuration_is_known_as_one(run_dir: Path) -> None:
    """SPDK's have none: GET_CONFIG is refused, or not offered at all."""
    offers = [1 << ProtocolFeature.MQ | 1 << ProtocolFeature.REPLY_ACK]
    offers.append(offers[0] | 1 << ProtocolFeature.CONFIG)

    async def run() -> None:
        for protocol in offers:
            backend = ScriptedBackend(features=BASE | HOT | wire.F_PROTOCOL_FEATURES, protocol=protocol, config=b"")
            async with backend.at(str(run_dir / "s.sock")), live(run_dir, http=None) as daemon:
                message = await refused(daemon, attach("V0", run_dir / "s.sock"))
                assert message.endswith("the device looks like a virtio-scsi one: try dev_type scsi")
            (run_dir / "s.sock").unlink()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("bits", "kind"),
    [
        ((), None),
        ((BlkFeature.SIZE_MAX, BlkFeature.SEG_MAX, BlkFeature.BLK_SIZE), "blk"),
        ((BlkFeature.MQ,), "blk"),
        ((ScsiFeature.HOTPLUG,), "scsi"),
        ((ScsiFeature.INOUT, ScsiFeature.CHANGE), "scsi"),
    ],
)
def test_only_what_features_tell_is_taken_from_them(bits: tuple[int, ...], kind: str | None) -> None:
    assert likely_kind(BASE | sum(1 << bit for bit in bits)) == kind


def test_a_socket_that_is_attached_already_is_refused_at_once(run_dir: Path) -> None:
    disk, other = run_dir / "d.sock", run_dir / "other.sock"
    other.symlink_to(disk)

    async def run() -> None:
        async with disks(disk), live(run_dir, http=None) as daemon:
            first = attach("V0", disk)
            await daemon.rpc.call(first["method"], first["params"])
            for path in (disk, other, run_dir / "." / "d.sock", f"{run_dir}/../{run_dir.name}/d.sock"):
                again = attach("V1", Path(path))
                with pytest.raises(RpcError, match="is attached already, as controller 'V0', which is up") as caught:
                    async with asyncio.timeout(2):  # a second connection would wait for 5 s
                        await daemon.rpc.call(again["method"], again["params"])
                assert caught.value.code == -17
            assert states(daemon) == {"V0": "up"}
            assert await daemon.rpc.call(first["method"], first["params"]) == ["V0"]
            await daemon.rpc.call("bdev_virtio_detach_controller", {"name": "V0"})
            assert await daemon.rpc.call(again["method"], again["params"]) == ["V1"]

    asyncio.run(run())


def test_one_that_waits_for_its_device_has_the_address_too(run_dir: Path) -> None:
    async def run() -> None:
        async with live(run_dir, http=None) as daemon:
            first = attach("V0", run_dir / "d.sock", wait_for_device=True)
            assert await daemon.rpc.call(first["method"], first["params"]) == []
            with pytest.raises(RpcError, match="as controller 'V0', which is attaching"):
                await daemon.rpc.call(first["method"], {**first["params"], "name": "V1"})

    asyncio.run(run())
