"""Devices that arrive are attached, those that were there or may not be taken are left alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.fake_pci_host import FakeHost
from tests.support.rig import in_loop
from tests.support.waiting import until
from virtiod.controllers import hotplug
from virtiod.controllers.hotplug import Hotplug
from virtiod.controllers.request import AttachRequest
from virtiod.core.errors import Busy
from virtiod.pci import uevents
from virtiod.pci.uevents import Uevent

NEW = "0000:00:06.0"
PERIOD_US = 20_000


class Controllers:
    """Attaches everything, unless there is an error to raise."""

    def __init__(self) -> None:
        self.attached: list[AttachRequest] = []
        self.errors: list[Exception] = []
        self.tried = 0
        self.slow = asyncio.Event()
        self.slow.set()

    async def attach(self, request: AttachRequest) -> list[str]:
        self.tried += 1
        await self.slow.wait()
        if self.errors:
            raise self.errors.pop(0)
        self.attached.append(request)
        return [request.name]

    @property
    def addresses(self) -> list[str]:
        return [one.traddr for one in self.attached]

    def list(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=one.name, traddr=one.traddr) for one in self.attached]


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hotplug, "SETTLE_S", 0.05)
    monkeypatch.setattr(hotplug, "RETRY_S", 0.02)
    monkeypatch.setattr(uevents, "_open_socket", lambda: None)  # arrivals here are no business of the kernel's


class Watching(Hotplug):
    """Counts how often it looked."""

    looks = 0

    def _look(self, event: Uevent | None) -> None:
        super()._look(event)
        self.looks += 1

    async def look_again(self) -> None:
        """Until it has looked a few times more: all that there is to notice has been noticed."""
        enough = self.looks + 5
        await until(lambda: self.looks >= enough)


@asynccontextmanager
async def watching(host: FakeHost, allow_unbind: bool = False) -> AsyncIterator[tuple[Watching, Controllers]]:
    controllers = Controllers()
    plug = Watching(controllers, allow_unbind, host)  # type: ignore[arg-type]
    plug.set(True, PERIOD_US)
    try:
        yield plug, controllers
    finally:
        await plug.stop()


@pytest.mark.parametrize(
    ("driver", "allow_unbind", "attached"),
    [
        ("vfio-pci", False, True),
        ("uio_pci_generic", False, True),
        (None, False, True),
        ("virtio-pci", True, True),
        ("virtio-pci", False, False),
    ],
)
@in_loop
async def test_an_arrival_is_attached_if_it_may_be(
    host: FakeHost, driver: str | None, allow_unbind: bool, attached: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with watching(host, allow_unbind) as (plug, controllers):
        host.add(NEW, driver=driver)
        if attached:
            await until(lambda: controllers.attached)
            assert controllers.attached == [AttachRequest("VirtioBlk0", "pci", NEW, "blk")]
        else:
            await until(lambda: "not attached without --allow-unbind" in caplog.text)
        await plug.look_again()
        assert controllers.tried == int(attached)
        assert caplog.text.count("not attached") == int(not attached)


@in_loop
async def test_a_device_without_a_driver_may_be_about_to_get_one(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hotplug, "SETTLE_S", 60)
    async with watching(host) as (plug, controllers):
        host.add(NEW, driver=None)
        await plug.look_again()
        assert controllers.tried == 0


@in_loop
async def test_what_was_there_is_not_attached(host: FakeHost) -> None:
    host.add(driver="vfio-pci")
    async with watching(host) as (plug, controllers):
        plug.set(True, PERIOD_US)
        host.add(NEW, driver="vfio-pci")
        await until(lambda: controllers.attached)
        assert controllers.addresses == [NEW]


@pytest.mark.parametrize("device", [0x1041, 0x1048])
@in_loop
async def test_only_virtio_blk_is_attached(host: FakeHost, device: int) -> None:
    async with watching(host) as (plug, controllers):
        host.add("0000:00:07.0", driver="vfio-pci", device=device)
        host.add(NEW, driver="vfio-pci")
        await until(lambda: controllers.attached)
        await plug.look_again()
        assert controllers.addresses == [NEW]


@in_loop
async def test_names_count_up_and_skip_those_that_are_taken(host: FakeHost) -> None:
    async with watching(host) as (_, controllers):
        controllers.attached.append(AttachRequest("VirtioBlk1", "user", "/x", "blk"))
        for number in range(3):
            host.add(f"0000:00:1{number}.0", driver="vfio-pci")
        await until(lambda: len(controllers.attached) == 4)
        assert sorted(one.name for one in controllers.attached) == [f"VirtioBlk{n}" for n in range(4)]


@in_loop
async def test_a_device_that_could_not_be_attached_is_tried_again_and_logged_once(
    host: FakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    async with watching(host, allow_unbind=True) as (_, controllers):
        controllers.errors = [Busy("its disk is in use") for _ in range(3)]
        host.add(NEW)
        await until(lambda: controllers.attached)
        assert controllers.tried == 4
    assert caplog.text.count("can't be attached: its disk is in use") == 1


@in_loop
async def test_a_device_bound_later_is_attached_then(host: FakeHost) -> None:
    async with watching(host) as (plug, controllers):
        host.add(NEW)
        await plug.look_again()
        assert controllers.tried == 0
        host._unbind(NEW)
        host._bind(NEW, "vfio-pci")
        await until(lambda: controllers.attached)


@in_loop
async def test_a_device_that_was_detached_is_not_attached_again_unless_it_comes_anew(host: FakeHost) -> None:
    async with watching(host) as (plug, controllers):
        host.add(NEW, driver="vfio-pci")
        await until(lambda: controllers.attached)
        controllers.attached.clear()
        await plug.look_again()
        assert not controllers.attached
        host.vanish(NEW)
        await plug.look_again()
        (host.sys / "bus/pci/devices" / NEW).symlink_to(host.path(NEW))
        await until(lambda: controllers.attached)
        assert controllers.attached[0].name == "VirtioBlk1"


@in_loop
async def test_a_device_attached_by_hand_is_left_alone(host: FakeHost) -> None:
    async with watching(host) as (plug, controllers):
        controllers.attached.append(AttachRequest("Mine", "pci", NEW, "blk"))
        host.add(NEW, driver="vfio-pci")
        await plug.look_again()
        assert controllers.tried == 0


@in_loop
async def test_a_slow_attach_holds_up_no_other(host: FakeHost) -> None:
    async with watching(host) as (_, controllers):
        controllers.slow.clear()
        host.add(NEW, driver="vfio-pci")
        host.add("0000:00:07.0", driver="vfio-pci")
        await until(lambda: controllers.tried == 2)


@in_loop
async def test_nothing_is_attached_when_it_is_off(host: FakeHost) -> None:
    async with watching(host) as (plug, controllers):
        plug.set(False, PERIOD_US)
        host.add(NEW, driver="vfio-pci")
        looks = plug.looks
        await asyncio.sleep(5 * PERIOD_US / 1e6)
        assert plug.looks == looks
        plug.set(True, PERIOD_US)  # what came meanwhile was there before
        await plug.look_again()
        assert controllers.tried == 0
