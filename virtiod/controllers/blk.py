"""The virtio-blk controller: one disk (virtio 1.2 §5.2)."""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import Any

from virtiod.bdev import Bdev
from virtiod.controllers import blk_config
from virtiod.controllers.blk_config import BlkConfig
from virtiod.controllers.controller import Controller
from virtiod.dataplane.blk import BlkQueue
from virtiod.dataplane.channel import BdevChannels
from virtiod.dataplane.ioqueue import RequestQueue, Routes
from virtiod.errors import ProtocolError
from virtiod.transports.features import BlkFeature, Feature, feature_names
from virtiod.transports.vhost_user.transport import BLK_CONFIG_SIZES

log = logging.getLogger(__name__)

DEFAULT_VQ_SIZE = 512
ID_DEADLINE_S = 2.0
WANTED = (
    BlkFeature.SIZE_MAX,
    BlkFeature.SEG_MAX,
    BlkFeature.RO,
    BlkFeature.BLK_SIZE,
    BlkFeature.FLUSH,
    BlkFeature.TOPOLOGY,
    BlkFeature.CONFIG_WCE,
    BlkFeature.MQ,
    BlkFeature.DISCARD,
    BlkFeature.WRITE_ZEROES,
    Feature.INDIRECT_DESC,
    Feature.EVENT_IDX,
    Feature.VERSION_1,
)


class BlkController(Controller):
    """A virtio-blk controller; its bdev has its name."""

    dev_type = "blk"
    config_sizes = BLK_CONFIG_SIZES
    _features = 0
    _config: BlkConfig

    async def _negotiate(self) -> None:
        offered = self.transport.device_features()
        features = offered & sum(1 << bit for bit in WANTED)
        missing = self._features & ~features
        if missing:
            names = feature_names(missing, "blk")
            raise ProtocolError(f"{self.traddr}: the device came back without {names}")
        features = self._features or features
        await self.transport.acknowledge_features(features)
        config = await self._read_config(features)
        if self._features and config.block_size != self._config.block_size:
            raise ProtocolError(f"{self.traddr}: the device came back with block size {config.block_size}")
        if self._features:
            self._check_limits(config)
        if self.request_queues and self._queue_count(config) < len(self.request_queues):
            raise ProtocolError(f"{self.traddr}: the device came back with {self._queue_count(config)} queues")
        self._features = features
        self._config = config

    def _check_limits(self, config: BlkConfig) -> None:
        """I/O was split by the limits that the device had at first: it must still take such requests."""
        for limit in ("max_segments", "max_segment", "max_transfer", "max_discard", "max_write_zeroes"):
            before, now = getattr(self._config, limit), getattr(config, limit)
            if now < before:
                raise ProtocolError(f"{self.traddr}: the device came back with {limit} {now}, it was {before}")

    async def _read_config(self, features: int) -> BlkConfig:
        data = await self.transport.read_config(0, blk_config.CONFIG_SIZE)
        try:
            return blk_config.parse(data, features, self._ring_size())
        except ProtocolError as error:
            raise ProtocolError(f"{self.traddr}: {error}") from None

    def _ring_size(self) -> int:
        return self.request.vq_size or DEFAULT_VQ_SIZE

    def _queue_count(self, config: BlkConfig) -> int:
        """As many queues as were asked for, else one for each poller; never more than the device has."""
        asked = self.request.vq_count or len(self.context.pollers)
        return min(asked, config.num_queues, self.transport.max_queues())

    def _make_queues(self) -> list[RequestQueue]:
        pollers = self.context.pollers
        return [
            BlkQueue(
                self.context.memory,
                pollers[index % len(pollers)],
                index,
                self._ring_size(),
                self._config.max_segments,
                bool(self._features >> Feature.INDIRECT_DESC & 1),
                bool(self._features >> Feature.EVENT_IDX & 1),
                f"{self.name}_q{index}",
            )
            for index in range(self._queue_count(self._config))
        ]

    async def _make_bdevs(self) -> list[Bdev]:
        serial = await self._serial()
        channels = BdevChannels(list(self.context.pollers))
        Routes(channels, self.request_queues)
        self._limit(channels)
        bdev = Bdev(
            name=self.name,
            info=self._config.bdev_info(serial),
            channels=channels,
            driver_specific=self._driver_specific,
            uuid=str(uuid.uuid5(uuid.NAMESPACE_URL, f"virtio-blk:{self.traddr}:{serial}")),
        )
        return [bdev]

    def _limit(self, channels: BdevChannels) -> None:
        c = self._config
        channels.limit(c.native(), c.max_segments, c.max_segment, c.max_transfer, c.max_discard, c.max_write_zeroes)

    async def _serial(self) -> str:
        """By GET_ID; a device that does not know it, or does not answer, has none."""
        queue = self.request_queues[0]
        assert isinstance(queue, BlkQueue)
        try:
            async with asyncio.timeout(ID_DEADLINE_S):
                return await queue.get_id()
        except TimeoutError:
            log.warning("controller %s: no answer to GET_ID within %g s", self.name, ID_DEADLINE_S)
            return ""

    def _driver_specific(self) -> dict[str, Any]:
        return {"virtio": self.virtio_info()}

    async def _config_changed(self) -> None:
        config = await self._read_config(self._features)
        if config.block_size != self._config.block_size:
            raise ProtocolError(f"{self.traddr}: the device changed its block size to {config.block_size}")
        self._config = config
        for bdev in self.bdevs:
            self.context.bdevs.update(bdev, self._config.bdev_info(bdev.info.serial))
