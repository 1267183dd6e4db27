"""The transport and its client, against a device made of Python."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.waiting import until
from tests.transports.pci.fake import DOORBELLS, USUAL_FEATURES, Device, FakeContext
from virtiod.core.errors import (
    DeadlineError,
    DeviceError,
    InvalidArgument,
    LostError,
    NotSupported,
    ProtocolError,
    RemovedError,
    VirtiodError,
)
from virtiod.transports.interface import QueueLayout
from virtiod.transports.pci import client, transport
from virtiod.transports.pci.transport import PciTransport
from virtiod.transports.pci.wire import Common
from virtiod.virtio.features import Feature
from virtiod.virtio.status import Status

LAYOUT = QueueLayout(128, 0x100001000, 0x100002000, 0x100003000)
NO_OWN = 1 << Feature.VERSION_1 | 1 << 6


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **named: Any) -> None:
        asyncio.run(test(*args, **named))

    return run


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RESET_DEADLINE_S", 0.05)
    monkeypatch.setattr(transport, "LOOK_S", 0.01)


@asynccontextmanager
async def connected(context: FakeContext) -> AsyncIterator[PciTransport]:
    found = PciTransport("00:05.0", context, "blk")
    try:
        await found.connect(5)
        yield found
    finally:
        await found.close()
        await found.release()
        assert context.accesses[-1].closed
        assert context.given_back == context.taken == 1


@in_loop
async def test_a_device_is_reset_before_it_reaches_memory_and_after_it_was_used() -> None:
    device = Device()
    device.status = Status.DRIVER_OK  # left running by an owner that was killed
    async with connected(FakeContext(device)) as found:
        assert device.log == ["no dma", "reset", "status 1", "status 3", "dma"]
        device.log.clear()
        await found.acknowledge_features(1 << Feature.VERSION_1)
        await found.share_memory()
        await found.setup_queue(0, LAYOUT)
        await found.start_queue(0)
        await found.driver_ok()
        assert device.log == ["status 11", "share memory", "status 15"]
        device.log.clear()
    assert device.log == ["reset", "no dma"]


@in_loop
async def test_a_reset_is_waited_for() -> None:
    device = Device()
    device.reset_takes = 5
    async with connected(FakeContext(device)):
        assert device.reset_takes == 0


@in_loop
async def test_a_device_that_does_not_reset_is_reset_from_outside() -> None:
    device = Device()
    device.status, device.resets = Status.DRIVER_OK, False
    async with connected(FakeContext(device, can_reset=True)):
        assert device.log[:5] == ["no dma", "reset", "function reset", "no dma", "reset"]


@in_loop
async def test_a_device_that_can_not_be_reset_never_reaches_memory() -> None:
    device = Device()
    device.status, device.resets = Status.DRIVER_OK, False
    with pytest.raises(DeadlineError, match=r"0000:00:05\.0: no reset within 0\.05 s \(status 0x4\)"):
        async with connected(FakeContext(device)):
            pass
    assert "dma" not in device.log
    assert device.log[-1] == "no dma"


@pytest.mark.parametrize(
    ("features", "translates", "error", "message"),
    [
        (1 << Feature.ACCESS_PLATFORM, True, ProtocolError, "offers no VERSION_1"),
        (NO_OWN, True, NotSupported, r"no ACCESS_PLATFORM.*iommu_platform=on"),
    ],
)
@in_loop
async def test_a_device_that_lacks_what_is_needed_is_refused(
    features: int, translates: bool, error: type[VirtiodError], message: str
) -> None:
    with pytest.raises(error, match=message):
        async with connected(FakeContext(Device(features), translates)):
            pass


@in_loop
async def test_a_device_without_queues_is_refused() -> None:
    with pytest.raises(ProtocolError, match="has no queues"):
        async with connected(FakeContext(Device(queues=()))):
            pass


@in_loop
async def test_what_can_not_be_taken_leaves_nothing_behind() -> None:
    context = FakeContext(Device(), absent=True)
    found = PciTransport("0000:00:05.0", context, "blk")
    with pytest.raises(InvalidArgument, match="virtio-net"):
        await found.connect(5)
    await found.release()
    assert (context.taken, context.given_back, context.accesses) == (0, 0, [])


@in_loop
async def test_features_of_the_transport_are_accepted_beside_those_asked_for() -> None:
    device = Device()
    async with connected(FakeContext(device)) as found:
        assert found.device_features() == USUAL_FEATURES
        await found.acknowledge_features(1 << Feature.VERSION_1)
        assert device.accepted == USUAL_FEATURES & ~(1 << 6)
        with pytest.raises(InvalidArgument, match="EVENT_IDX"):
            await found.acknowledge_features(1 << Feature.EVENT_IDX)


@in_loop
async def test_features_may_be_refused() -> None:
    device = Device()
    device.refuses = True
    async with connected(FakeContext(device)) as found:
        with pytest.raises(ProtocolError, match="refused FEATURES_OK"):
            await found.acknowledge_features(1 << Feature.VERSION_1)


@in_loop
async def test_the_configuration_is_read_up_to_its_end() -> None:
    config = bytes(range(60))
    device = Device(config=config)
    async with connected(FakeContext(device)) as found:
        assert await found.read_config(0, 60) == config
        assert await found.read_config(8, 12) == config[8:20]
        assert await found.read_config(0, 23) == config[:23]
        assert await found.read_config(0x1001, 4) == b""


@in_loop
async def test_a_configuration_that_never_holds_still_is_an_error() -> None:
    device = Device()
    async with connected(FakeContext(device)) as found:
        device.restless = True
        with pytest.raises(ProtocolError, match="the configuration changed during each of"):
            await found.read_config(0, 60)
        device.restless = False


@in_loop
async def test_a_queue_is_told_the_devices_addresses() -> None:
    device = Device(queues=(256, 128))
    async with connected(FakeContext(device)) as found:
        assert found.max_queues() == 2
        assert found.max_queue_size() == 128
        bell = await found.setup_queue(1, LAYOUT)
        assert bell.kick_address == DOORBELLS + 4  # notify_off 1, multiplier 4
        assert bell.kick_fd == -1
        queue = device.queues[1]
        assert queue.get(Common.QUEUE_SIZE) == 128
        assert queue.get(Common.QUEUE_ENABLE) == 0
        registers = (Common.QUEUE_DESC, Common.QUEUE_DRIVER, Common.QUEUE_DEVICE)
        assert [queue.address(register) for register in registers] == [0x100000000, 0x100001000, 0x100002000]
        await found.start_queue(1)
        assert queue.get(Common.QUEUE_ENABLE) == 1
        with pytest.raises(ProtocolError, match="enabled already"):
            await found.setup_queue(1, LAYOUT)


@in_loop
async def test_a_queue_that_does_not_fit_is_refused() -> None:
    async with connected(FakeContext(Device(queues=(64,)))) as found:
        with pytest.raises(ProtocolError, match="takes 64 entries, fewer than the 128"):
            await found.setup_queue(0, LAYOUT)
        with pytest.raises(InvalidArgument, match="queue 1 is not among the device's 1"):
            await found.setup_queue(1, LAYOUT)


@pytest.mark.parametrize(
    ("offered", "usable", "heard"),
    [(3, 8, [True, True]), (2, 8, [True, False]), (3, 2, [True, False]), (0, 8, [False, False])],
)
@in_loop
async def test_a_queue_without_a_vector_can_not_interrupt(offered: int, usable: int, heard: list[bool]) -> None:
    device = Device()
    device.vectors = usable
    context = FakeContext(device, vectors=offered)
    async with connected(context) as found:
        bells = [await found.setup_queue(index, LAYOUT) for index in range(2)]
        assert [bell.call_fd >= 0 for bell in bells] == heard
        assert [bell.call_fd for bell in bells if bell.call_fd >= 0] == context.access.fds[1 : 1 + sum(heard)]


@pytest.mark.parametrize("features", [USUAL_FEATURES, USUAL_FEATURES & ~(1 << Feature.RING_RESET)])
@in_loop
async def test_a_queue_is_stopped_by_itself_where_that_is_possible(features: int) -> None:
    device = Device(features)
    async with connected(FakeContext(device)) as found:
        await found.acknowledge_features(1 << Feature.VERSION_1)
        await found.setup_queue(0, LAYOUT)
        await found.start_queue(0)
        assert await found.stop_queue(0) == 0
        assert ("reset queue" in device.log) == bool(features >> Feature.RING_RESET & 1)


class Ears:
    """What a transport tells."""

    def __init__(self, found: PciTransport) -> None:
        self.changes = 0
        self.losses: list[DeviceError] = []
        found.on_config_change = self.change
        found.on_lost = self.losses.append

    def change(self) -> None:
        self.changes += 1


@in_loop
async def test_an_interrupt_tells_of_a_configuration_change() -> None:
    context = FakeContext(Device())
    async with connected(context) as found:
        ears = Ears(found)
        await found.acknowledge_features(1 << Feature.VERSION_1)
        context.device.generation += 1
        await asyncio.sleep(0.03)
        assert ears.changes == 0  # it would have interrupted
        context.access.interrupt(0)
        await until(lambda: ears.changes == 1)


@pytest.mark.parametrize("how", ["generation", "isr"])
@in_loop
async def test_without_interrupts_a_configuration_change_is_looked_for(how: str) -> None:
    device = Device()
    async with connected(FakeContext(device, vectors=0)) as found:
        ears = Ears(found)
        await found.acknowledge_features(1 << Feature.VERSION_1)
        setattr(device, how, 2)
        await until(lambda: ears.changes)
        await asyncio.sleep(0.03)
        assert ears.changes == 1


@pytest.mark.parametrize("vectors", [0, 8])
@in_loop
async def test_a_device_that_needs_a_reset_is_lost_once(vectors: int) -> None:
    context = FakeContext(Device(), vectors=vectors)
    async with connected(context) as found:
        ears = Ears(found)
        await found.acknowledge_features(1 << Feature.VERSION_1)
        context.device.status |= Status.NEEDS_RESET
        if vectors:
            context.access.interrupt(0)
        await until(lambda: ears.losses)
        await asyncio.sleep(0.03)
        assert [str(loss) for loss in ears.losses] == ["0000:00:05.0: the device needs a reset"]
        assert not isinstance(ears.losses[0], RemovedError)
        await found.close()
        await found.connect(5)  # which resets it
        assert context.device.status == Status.ACKNOWLEDGE | Status.DRIVER


@in_loop
async def test_a_device_that_is_pulled_out_is_lost_for_good() -> None:
    context = FakeContext(Device())
    async with connected(context) as found:
        ears = Ears(found)
        context.device.gone = True
        await until(lambda: ears.losses)
        assert isinstance(ears.losses[0], RemovedError)
        with pytest.raises(RemovedError):
            await found.read_config(0, 60)


@in_loop
async def test_a_device_can_be_kept_from_memory_without_waiting_for_it() -> None:
    context = FakeContext(Device())
    async with connected(context) as found:
        device = context.accesses[-1].device
        assert [entry for entry in device.log if "dma" in str(entry)][-1] == "dma"
        found.cut_off()
        assert [entry for entry in device.log if "dma" in str(entry)][-1] == "no dma"
    found.cut_off()  # there is nothing to keep


@in_loop
async def test_who_has_no_device_says_so() -> None:
    found = PciTransport("00:05.0", FakeContext(Device()), "blk")
    for call in (found.read_config(0, 1), found.share_memory(), found.start_queue(0), found.driver_ok()):
        with pytest.raises(LostError, match="not connected"):
            await call
    await found.close()
    assert found.info() == {"type": "pci-modern", "pci_address": "0000:00:05.0"}
