"""The Transport of a virtio controller on PCI (virtio 1.2 §4.1)."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial

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
from virtiod.core.memory import Translation
from virtiod.pci.devices import parse_address
from virtiod.pci.ownership import Owned
from virtiod.transports.epoch import Epoch
from virtiod.transports.interface import Doorbell, QueueLayout, Transport
from virtiod.transports.pci import wire
from virtiod.transports.pci.access import Access
from virtiod.transports.pci.client import Client, QueueInfo
from virtiod.transports.pci.context import PciContext
from virtiod.virtio.features import Feature, feature_names
from virtiod.virtio.status import Status

log = logging.getLogger(__name__)

# Features that concern the transport alone: they are accepted when offered, whatever the controller wants.
OWN_FEATURES = 1 << Feature.ACCESS_PLATFORM | 1 << Feature.RING_RESET
MAX_RING = 256  # entries; such a ring, with all that belongs to it, is in one page of 2 MiB
MAX_VECTORS = 65
LOOK_S = 1.0  # between reads of a device's state, for changes without an interrupt


class PciTransport(Transport):
    """dev_type: what the device at the address must be, "blk" or "scsi"."""

    def __init__(self, address: str, context: PciContext, dev_type: str) -> None:
        self._address = parse_address(address)
        self._context = context
        self._dev_type = dev_type
        self._owned: Owned | None = None
        self._access: Access | None = None
        self._client: Client | None = None
        self._offered = 0
        self._accepted = 0
        self._queues: list[QueueInfo] = []
        self._vectors: list[int] = []  # eventfds: of the configuration, then of queues 0, 1, ...
        self._hears_changes = False
        self._generation = 0
        self._up = False  # from connect() to the loss, or close()
        self._looking: asyncio.TimerHandle | None = None

    # ---- connecting

    async def connect(self, timeout: float) -> None:
        await self.close()
        try:
            async with asyncio.timeout(timeout):
                await self._connect()
        except TimeoutError:
            await self.close()
            raise DeadlineError(f"{self._address}: not ready within {timeout:g} s") from None
        except BaseException:
            await self.close()
            raise
        self._up = True
        self._look_again()

    async def _connect(self) -> None:
        if self._owned is None:
            self._owned = await self._context.take(self._address, self._dev_type)
        access = self._access = await self._context.open(self._owned)
        self.epoch = Epoch(self._address)
        access.on_lost = self._report
        access.enable(dma=False)  # an owner that was killed may have left it running
        client = self._client = self._make_client(access)
        await self._reset(client, access)
        client.add_status(Status.ACKNOWLEDGE)
        client.add_status(Status.DRIVER)
        self._offered = client.features()
        self._check_features(access)
        self._queues = client.queues()
        if not self._queues:
            raise ProtocolError(f"{self._address}: the device has no queues")
        self._connect_interrupts(access)
        self._generation = client.generation()
        access.enable(dma=True)

    def _make_client(self, access: Access) -> Client:
        try:
            return Client(access, self._address, self._dev_type)
        except (ProtocolError, NotSupported) as error:
            raise type(error)(f"{self._address}: {error}") from None

    def _check_features(self, access: Access) -> None:
        if not self._offered >> Feature.VERSION_1 & 1:
            raise ProtocolError(
                f"{self._address}: the device offers no VERSION_1 (features {feature_names(self._offered)})"
            )
        if access.translates and not self._offered >> Feature.ACCESS_PLATFORM & 1:
            raise NotSupported(
                f"{self._address}: the device offers no ACCESS_PLATFORM: it bypasses the IOMMU, so that VFIO can't "
                "keep it within virtiod's memory (QEMU: start it with iommu_platform=on)"
            )

    async def _reset(self, client: Client, access: Access) -> None:
        try:
            await client.reset()
        except DeadlineError as error:
            log.warning("%s; resetting the whole function", error)
            if not await access.function_reset():
                raise
            access.enable(dma=False)
            await client.reset()

    def _connect_interrupts(self, access: Access) -> None:
        count = min(access.interrupts(), 1 + len(self._queues), MAX_VECTORS)
        for _ in range(count):
            self._vectors.append(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        access.connect_interrupts(self._vectors)
        if self._vectors:
            asyncio.get_running_loop().add_reader(self._vectors[0], self._interrupted)

    def _peer(self) -> Client:
        if self._client is None:
            raise LostError(f"{self._address}: not connected")
        return self._client

    # ---- what the device tells

    def _report(self, error: DeviceError) -> None:
        """Calls on_lost once a connection. While connecting it does not: connect() itself raises the error."""
        if self._up and self.on_lost is not None:
            self._up = False
            self.on_lost(error)

    def _interrupted(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._vectors[0])
        self._look(True)

    def _look(self, changed: bool) -> None:
        """Reads the device's state; reports its loss, or a configuration change."""
        client = self._peer()
        if client.gone():
            self._report(RemovedError(f"{self._address}: the device is gone"))
            return
        if client.status() & Status.NEEDS_RESET:
            self._report(DeviceError(f"{self._address}: the device needs a reset"))
            return
        if not self._hears_changes:
            generation, isr = client.generation(), client.take_interrupts()
            changed = changed or generation != self._generation or bool(isr & wire.ISR_CONFIG)
            self._generation = generation
        if changed and self.on_config_change is not None:
            self.on_config_change()

    def _look_again(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(LOOK_S, self._look_now)

    def _look_now(self) -> None:
        self._look_again()  # whatever this look ends in
        self._look(False)

    # ---- features and configuration

    def device_features(self) -> int:
        return self._offered

    async def acknowledge_features(self, features: int) -> None:
        excess = features & ~self._offered
        if excess:
            raise InvalidArgument(f"{self._address}: features {feature_names(excess)} are not offered")
        client = self._peer()
        self._accepted = features | self._offered & OWN_FEATURES
        client.accept(self._accepted)
        vector = 0 if self._vectors else wire.NO_VECTOR
        self._hears_changes = client.set_config_vector(vector) == 0 if self._vectors else False

    async def read_config(self, offset: int, size: int) -> bytes:
        return self._peer().read_config(offset, size)

    def max_queues(self) -> int:
        return len(self._queues)

    def max_queue_size(self) -> int:
        smallest = min((queue.size for queue in self._queues), default=MAX_RING)
        return min(MAX_RING, 1 << smallest.bit_length() - 1)

    # ---- memory

    @property
    def memory_hot_add(self) -> bool:
        return True

    async def share_memory(self) -> None:
        if self._access is None:
            raise LostError(f"{self._address}: not connected")
        await self._access.share_memory()

    def translation(self) -> Translation:
        if self._access is None:
            raise LostError(f"{self._address}: not connected")
        return self._access.translation()

    # ---- queues

    async def setup_queue(self, index: int, layout: QueueLayout) -> Doorbell:
        client = self._peer()
        if not 0 <= index < len(self._queues):
            raise InvalidArgument(f"{self._address}: queue {index} is not among the device's {len(self._queues)}")
        info = self._queues[index]
        if layout.size > info.size:
            raise ProtocolError(
                f"{self._address}: queue {index} takes {info.size} entries, fewer than the {layout.size} of its ring"
            )
        delta = self.translation().delta_at(layout.desc)
        addresses = (layout.desc + delta, layout.avail + delta, layout.used + delta)
        vector = index + 1 if index + 1 < len(self._vectors) else wire.NO_VECTOR
        heard = client.setup_queue(index, layout.size, addresses, vector) == vector != wire.NO_VECTOR
        return Doorbell(kick_address=client.doorbell(info), call_fd=self._vectors[vector] if heard else -1)

    async def start_queue(self, index: int) -> None:
        self._peer().enable_queue(index)

    async def driver_ok(self) -> None:
        self._peer().add_status(Status.DRIVER_OK)

    async def stop_queue(self, index: int) -> int:
        # Without RING_RESET only the whole device can be stopped, which close() does.
        if self._accepted >> Feature.RING_RESET & 1:
            await self._peer().reset_queue(index)
        return 0

    # ---- the end

    async def close(self) -> None:
        self._up = False
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        client, self._client = self._client, None
        access, self._access = self._access, None
        if access is None:
            return
        epoch = self.epoch
        assert epoch is not None
        try:
            if client is not None:
                await self._reset(client, access)
                epoch.quiesce("it was reset")
        except RemovedError:
            epoch.die("it was removed")
        except VirtiodError as error:
            log.warning("%s", error)
        finally:
            if self._let_go(access):
                epoch.quiesce("it was kept from memory")
            await access.close()
            if access.translates:
                epoch.quiesce("the IOMMU keeps it from memory")
            epoch.doubt("it was neither reset nor kept from memory")

    def _let_go(self, access: Access) -> bool:
        """Take memory and interrupts from the device; whether it is kept from memory now."""
        kept_off = self._attempt(partial(access.enable, dma=False))
        self._attempt(partial(access.connect_interrupts, ()))
        if self._vectors:
            asyncio.get_running_loop().remove_reader(self._vectors[0])
        for fd in self._vectors:
            os.close(fd)
        self._vectors.clear()
        return kept_off

    @staticmethod
    def _attempt(step: Callable[[], None]) -> bool:
        try:
            step()
        except VirtiodError as error:
            log.info("%s", error)  # it may have been removed
            return False
        return True

    async def release(self) -> None:
        owned, self._owned = self._owned, None
        if owned is not None:
            await owned.give_back()

    def cut_off(self) -> None:
        if self._access is not None:
            try:
                self._access.enable(dma=False)
            except VirtiodError as error:
                log.warning("%s", error)

    def info(self) -> dict[str, str]:
        return {"type": "pci-modern", "pci_address": self._address}
