"""What the virtio methods answer: codes as SPDK's clients know them, and the cause in the message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import FakeDaemon
from tests.support.rpc_peer import ATTACH, Peer, attach, talk
from virtiod.controllers.controller import State


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in ATTACH.items() if key != name}


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
        fake = daemon.fakes.fake_controllers.list()[0]
        fake.state = fake.shown_state = State.DETACHING
        assert "why" not in controller
        fake.last_error = "another disk"
        (controller,) = await peer.result("virtiod_get_controllers")
        assert (controller["state"], controller["why"]) == ("detaching", "another disk")
        code, message = await peer.error("bdev_virtio_detach_controller", name="B0")
        assert (code, message.startswith("Device or resource busy")) == (-32602, True)
        fake.state = State.UP
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
        assert daemon.fakes.fake_hotplug.now == {"enable": True, "period_us": 200_000}

    talk(run_dir, ask)
