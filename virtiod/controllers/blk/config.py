"""Parses and checks a block device's configuration space (virtio 1.2 §5.2.4)."""

from __future__ import annotations

from dataclasses import dataclass

from virtiod.bdev import BdevInfo
from virtiod.controllers.limits import MAX_SEGMENTS, NO_LIMIT
from virtiod.core.counted import counted
from virtiod.core.errors import InvalidArgument, ProtocolError
from virtiod.virtio.blk import CONFIG, SECTOR
from virtiod.virtio.features import BlkFeature

CONFIG_SIZE = CONFIG.size
MAX_TRANSFER = 32 << 20  # bytes of one request: larger I/O is split, and so runs side by side


@dataclass(frozen=True)
class BlkConfig:
    """The configuration, with defaults for what the device left out. Sizes in bytes; num_queues is at least 1."""

    capacity: int
    block_size: int
    read_only: bool
    write_cache: bool
    has_flush: bool
    max_segment: int
    max_segments: int
    max_transfer: int
    max_discard: int
    max_write_zeroes: int
    num_queues: int
    physical_block_size: int
    optimal_io_size: int

    def native(self) -> set[str]:
        """The operations that the device has a request for."""
        return {
            "read",
            "write",
            *(["flush"] if self.has_flush else []),
            *(["unmap"] if self.max_discard else []),
            *(["write_zeroes"] if self.max_write_zeroes else []),
        }

    def bdev_info(self, serial: str) -> BdevInfo:
        """The description of the bdev."""
        types = {"read", "flush"} if self.read_only else {"read", "write", "flush", "write_zeroes"}
        if self.max_discard and not self.read_only:
            types.add("unmap")
        return BdevInfo(
            block_size=self.block_size,
            num_blocks=self.capacity // self.block_size if self.block_size else 0,
            read_only=self.read_only,
            write_cache=self.write_cache,
            io_types=frozenset(types),
            product_name="VirtioBlk Disk",
            serial=serial,
            physical_block_size=self.physical_block_size,
            optimal_io_size=self.optimal_io_size,
            max_transfer=self.max_transfer,
            max_segments=self.max_segments,
            max_unmap=self.max_discard,
            max_write_zeroes=self.max_write_zeroes,
        )


def parse(data: bytes, features: int, ring_size: int) -> BlkConfig:
    """The configuration under the features agreed (§5.2.4). Raises ProtocolError for values that are not valid."""

    def has(feature: BlkFeature) -> bool:
        return bool(features >> feature & 1)

    if len(data) < 24:
        raise ProtocolError(f"configuration of {counted(len(data), 'byte')}, at least 24 are needed")
    (
        sectors, size_max, seg_max, _, _, _, blk_size, physical_exp, _, _, opt_io, _, num_queues,
        discard_sectors, discard_segs, _, zeroes_sectors, zeroes_segs, _,
    ) = CONFIG.unpack(data[:CONFIG_SIZE].ljust(CONFIG_SIZE, b"\0"))  # fmt: skip
    block_size = blk_size if has(BlkFeature.BLK_SIZE) else SECTOR
    segments = max(1, seg_max) if has(BlkFeature.SEG_MAX) else 1
    segments = min(segments, ring_size - 2, MAX_SEGMENTS)
    segment = size_max if has(BlkFeature.SIZE_MAX) and size_max else NO_LIMIT
    segment = min(segment, NO_LIMIT)
    has_flush = has(BlkFeature.FLUSH)
    topology = has(BlkFeature.TOPOLOGY)
    if topology and physical_exp > 16:
        raise ProtocolError(f"physical block exponent {physical_exp} is out of range")
    if has(BlkFeature.MQ) and num_queues == 0:
        raise ProtocolError("the device says it has 0 queues (num_queues)")
    config = BlkConfig(
        capacity=sectors * SECTOR,
        block_size=block_size,
        read_only=has(BlkFeature.RO),
        # §5.2.5.2: a device that offers FLUSH may have a volatile cache. What it says of writeback is not taken for an
        # answer: qemu-storage-daemon says 0, and has one.
        write_cache=has_flush,
        has_flush=has_flush,
        max_segment=segment,
        max_segments=segments,
        max_transfer=_whole_blocks(min(segment * segments, MAX_TRANSFER), block_size),
        max_discard=_range_limit(has(BlkFeature.DISCARD), discard_sectors, discard_segs, block_size),
        max_write_zeroes=_range_limit(has(BlkFeature.WRITE_ZEROES), zeroes_sectors, zeroes_segs, block_size),
        num_queues=num_queues if has(BlkFeature.MQ) else 1,
        physical_block_size=block_size << physical_exp if topology else block_size,
        optimal_io_size=opt_io * block_size if topology else 0,
    )
    _check(config, sectors, size_max)
    return config


def _whole_blocks(size: int, block_size: int) -> int:
    return size // block_size * block_size if block_size else 0


def _range_limit(agreed: bool, sectors: int, segments: int, block_size: int) -> int:
    """Bytes of one DISCARD or WRITE_ZEROES range; 0 when the device takes none."""
    return _whole_blocks(sectors * SECTOR, block_size) if agreed and segments else 0


def _check(config: BlkConfig, sectors: int, size_max: int) -> None:
    try:
        config.bdev_info("").check()
    except InvalidArgument as error:
        raise ProtocolError(f"the device's configuration is unusable: {error} (capacity {sectors} sectors)") from None
    if config.max_transfer < config.block_size:
        raise ProtocolError(
            f"the device's limits don't allow one block: size_max {size_max}, "
            f"{counted(config.max_segments, 'segment')}, block size {config.block_size}"
        )
