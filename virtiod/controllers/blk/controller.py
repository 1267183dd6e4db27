"""The virtio-blk controller: one disk (virtio 1.2 §5.2)."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import uuid

from virtiod.bdev import Bdev
from virtiod.bdev.channel import BdevChannels
from virtiod.bdev.limits import RequestLimits
from virtiod.controllers.blk import config as blk_config
from virtiod.controllers.blk.config import BlkConfig
from virtiod.controllers.blk.queue import BlkQueue
from virtiod.controllers.controller import Controller
from virtiod.controllers.description import BlkUnit
from virtiod.controllers.identity import CONSTANT_SERIALS, Identity, difference, refusal, silence, uncertainty
from virtiod.controllers.scsi import config as scsi_config
from virtiod.core.errors import DeviceError, ProtocolError
from virtiod.core.tasks import cancel, spawn
from virtiod.virtio.blk import CONFIG_SIZES
from virtiod.virtio.features import BlkFeature, Feature
from virtiod.virtqueue.handle import RequestQueue
from virtiod.virtqueue.routes import Routes

log = logging.getLogger(__name__)

ID_DEADLINE_S = 2.0  # for GET_ID; after that, the disk is used without a serial
ASK_AGAIN_S = (0.05, 0.2, 1.0, 5.0, 30.0, 60.0)  # when the device failed GET_ID


class BlkController(Controller[BlkConfig]):
    """A virtio-blk controller; its bdev has its name."""

    dev_type = "blk"
    wanted = (
        BlkFeature.SIZE_MAX,
        BlkFeature.SEG_MAX,
        BlkFeature.RO,
        BlkFeature.BLK_SIZE,
        BlkFeature.FLUSH,
        BlkFeature.TOPOLOGY,
        BlkFeature.MQ,
        BlkFeature.DISCARD,
        BlkFeature.WRITE_ZEROES,
        Feature.INDIRECT_DESC,
        Feature.EVENT_IDX,
        Feature.VERSION_1,
    )
    config_sizes = CONFIG_SIZES
    _split_by: BlkConfig  # its limits are those that I/O is split by
    _asking: asyncio.Task[str] | None = None
    _unknown = False  # the device has not told its serial, nor that it has none: there is nothing to compare

    def _check_return(self, config: BlkConfig) -> None:
        for bdev in self.bdevs:
            self._check_same(bdev, bdev.info.serial, config)
        self._check_limits(config)

    def _check_limits(self, config: BlkConfig) -> None:
        """Raises ProtocolError if a limit is lower than those that I/O was split by."""
        for limit in ("max_segments", "max_segment", "max_transfer", "max_discard", "max_write_zeroes"):
            before, now = getattr(self._split_by, limit), getattr(config, limit)
            if now < before:
                raise ProtocolError(f"{self.traddr}: the device came back with {limit} {now}, it was {before}")

    async def _read_config(self, features: int) -> BlkConfig:
        data = await self.transport.read_config(0, blk_config.CONFIG_SIZE)
        if (hint := self._other_kind()) and scsi_config.is_valid(data):  # which might even seem to work
            raise ProtocolError(f"{self.traddr}: {hint}")
        try:
            return blk_config.parse(data, features, self.ring_size())
        except ProtocolError as error:
            raise ProtocolError(f"{self.traddr}: {error}") from None

    def _make_queues(self) -> list[RequestQueue]:
        pollers = self.context.pollers
        return [
            BlkQueue(
                self.context.memory,
                pollers[index % len(pollers)],
                self._ring(index, f"q{index}", self._config.max_segments),
            )
            for index in range(self._queue_count(self._config))
        ]

    async def _find_bdevs(self) -> None:
        self.context.bdevs.check_free(self.name)
        serial = await self._serial()
        self._unknown = serial is None
        channels = self._make_channels()
        Routes(channels, self.request_queues)
        self._limit(channels)
        bdev = Bdev(
            name=self.name,
            info=self._config.bdev_info(serial or ""),
            channels=channels,
            driver_specific=self._driver_specific,
            uuid=self.context.bdevs.free_uuid(self._uuids(serial or "")),
        )
        self._register(bdev)

    def _uuids(self, serial: str) -> list[str]:
        """UUIDs for its bdev, the best first. No serial is unique, so they are from the disk's place."""
        place = f"virtio-blk:{self.traddr}:{serial}"
        return [str(uuid.uuid5(uuid.NAMESPACE_URL, text)) for text in (place, f"{place}:{self.name}")]

    async def _check_identity(self) -> None:
        """Compares the serial, if the device had one. _check_return has compared the sizes."""
        for bdev in self.bdevs:
            if bdev.info.serial:
                self._check_same(bdev, await self._serial() or "", self._config)
            elif self._unknown and (serial := await self._serial()) is not None:
                if serial not in CONSTANT_SERIALS and serial and self.keeping.holds_io(bdev):
                    raise refusal(self.traddr, f"its serial is {serial!r}, the old one's could not be read")
                self._learn(serial)

    def _check_same(self, bdev: Bdev, serial: str, config: BlkConfig) -> None:
        before = Identity(bdev.info.serial, bdev.block_size, bdev.size)
        now = Identity(serial, config.block_size, config.bdev_info(serial).num_blocks * config.block_size)
        if why := difference(before, now):
            raise refusal(self.traddr, why)
        if why := silence(before, now):
            raise uncertainty(self.traddr, why)

    async def _find_caches(self) -> None:
        for bdev in self.bdevs:
            doubts = bdev.channels.cache_doubts()
            config = await self._read_config(self._features)
            info = dataclasses.replace(bdev.info, write_cache=config.write_cache)
            self.context.bdevs.update(bdev, info, doubts)

    def _limit(self, channels: BdevChannels) -> None:
        c = self._split_by = self._config
        limits = RequestLimits(
            max_segments=c.max_segments,
            max_segment=c.max_segment,
            max_transfer=c.max_transfer,
            max_unmap=c.max_discard,
            max_write_zeroes=c.max_write_zeroes,
        )
        channels.limit(c.native(), limits)

    async def _serial(self) -> str | None:
        """The serial, by GET_ID; "" for a device that does not know the command. None if the device does not answer, or
        fails it: it is asked on, and what it tells in this session is learned."""
        await cancel(self._asking)
        self._asking = asking = spawn(self._ask(), f"serial of {self.name}")
        await asyncio.wait({asking}, timeout=ID_DEADLINE_S)
        if asking.done():
            return asking.result()
        log.warning("controller %s: no serial from GET_ID within %g s", self.name, ID_DEADLINE_S)
        asking.add_done_callback(self._told_late)
        return None

    async def _ask(self) -> str:
        """The serial, asked for until it is told."""
        queue, *others = self.request_queues
        assert isinstance(queue, BlkQueue)
        pauses = iter(ASK_AGAIN_S)
        while True:
            try:
                serial = await queue.get_id()
                break
            except DeviceError as error:
                log.debug("controller %s: %s", self.name, error)
                await asyncio.sleep(next(pauses, ASK_AGAIN_S[-1]))
        if queue.counts_status_only:
            log.info("controller %s: the device does not count what it writes: short reads go unnoticed", self.name)
        for other in others:
            assert isinstance(other, BlkQueue)
            other.expect_status_only(queue.counts_status_only)
        return serial

    def _told_late(self, asking: asyncio.Task[str]) -> None:
        if not asking.cancelled() and asking.exception() is None:
            self._learn(asking.result())

    def _learn(self, serial: str) -> None:
        """The device told its serial after its disk had become a bdev without one."""
        if self._unknown:
            self._unknown = False
            for bdev in self.bdevs:
                bdev.info = dataclasses.replace(bdev.info, serial=serial)

    async def _cut_off(self) -> None:
        await cancel(self._asking)
        await super()._cut_off()
        for queue in self.request_queues:  # the lost device's GET_ID must not be answered by its successor
            await queue.fail_commands(DeviceError.errno)

    def _driver_specific(self) -> dict[str, object]:
        return {"virtio": self.description(), "blk": BlkUnit(serial=self.bdevs[0].info.serial)}

    async def _config_changed(self) -> None:
        doubts = [bdev.channels.cache_doubts() for bdev in self.bdevs]
        config = await self._read_config(self._features)
        if config.block_size != self._config.block_size:
            raise ProtocolError(f"{self.traddr}: the device changed its block size to {config.block_size}")
        self._config = config
        for bdev, before in zip(self.bdevs, doubts, strict=True):
            self.context.bdevs.update(bdev, self._config.bdev_info(bdev.info.serial), before)
