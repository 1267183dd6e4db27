"""A logical unit as its answers describe it, and the bdev that it becomes."""

from __future__ import annotations

import dataclasses
import uuid
from dataclasses import dataclass, field

from virtiod.bdev import BdevInfo
from virtiod.bdev.limits import RequestLimits
from virtiod.controllers.identity import Identity, difference
from virtiod.controllers.limits import NO_LIMIT
from virtiod.controllers.scsi.config import ScsiConfig
from virtiod.controllers.scsi.queue import MAX_UNMAP_RANGES
from virtiod.scsi.parse import BlockLimits, Capacity, Designator, Inquiry, Mode, Provisioning, unit_uuid
from virtiod.scsi.spec import DesignatorType, RangeLimit

PRODUCT_NAME = "Virtio SCSI Disk"
NAME_FORMS = ("naa.", "eui.", "uuid.", "iqn.")  # of a SCSI name string: SPC-4 §7.8.6.11


@dataclass(frozen=True)
class Unit:
    """A disk that is ready."""

    target: int
    lun: int
    inquiry: Inquiry
    capacity: Capacity
    mode: Mode
    serial: str = ""
    designators: list[Designator] = field(default_factory=list)
    limits: BlockLimits = field(default_factory=BlockLimits)
    provisioning: Provisioning = field(default_factory=Provisioning)

    @property
    def place(self) -> tuple[int, int]:
        return self.target, self.lun

    @property
    def write_cache(self) -> bool:
        """Whether the unit has a volatile cache; true when it does not tell."""
        return self.mode.write_cache is not False

    def bdev_name(self, controller: str) -> str:
        return f"{controller}t{self.target}" + (f"l{self.lun}" if self.lun else "")

    def uuids(self, traddr: str, bdev_name: str) -> list[str]:
        """UUIDs for its bdev, the best first: from the unit's own name, from its place, from its bdev's name there."""
        own = unit_uuid(self.designators)
        place = f"virtio-scsi:{traddr}:{self.target}:{self.lun}:{self.serial}"
        placed = [str(uuid.uuid5(uuid.NAMESPACE_URL, text)) for text in (place, f"{place}:{bdev_name}")]
        return [own, *placed] if own else placed

    def aliases(self) -> list[str]:
        """Its unique names. A text of no known form is none of them: it could be the name of any other bdev."""
        return list(dict.fromkeys(d.name for d in self._unique() if d.name.startswith(NAME_FORMS)))

    @property
    def world_wide(self) -> str:
        """The same wherever the unit is seen, and for no other unit; "" if it has no such name."""
        return unit_uuid(self._unique()) or ""

    def _unique(self) -> list[Designator]:
        return [d for d in self.designators if d.type != DesignatorType.T10_VENDOR_ID]

    @property
    def identity(self) -> Identity:
        c = self.capacity
        return Identity(self.serial, c.block_size, c.blocks * c.block_size, self.designators)

    def is_same_disk(self, other: Unit) -> bool:
        return (
            self.serial == other.serial
            and bool(self.designators) == bool(other.designators)
            and not difference(self.identity, dataclasses.replace(other.identity, size=self.identity.size))
        )

    def is_same(self, other: Unit) -> bool:
        """Whether it is the same disk, with the properties that users of the bdev rely on."""
        return self.is_same_disk(other) and self.mode.write_protected == other.mode.write_protected

    def after(self, before: Unit) -> Unit:
        """The unit, found again: what it does not tell of its mode, and of its names, is as before."""
        mode = self.mode.after(before.mode)
        missing = self.is_same_disk(before) and set(self.designators) < set(before.designators)
        return dataclasses.replace(self, mode=mode, designators=before.designators if missing else self.designators)

    def native(self) -> set[str]:
        """The operations that the unit has a command for."""
        return {
            "read",
            "write",
            "flush",  # sent while there is a cache, or may be
            *(["unmap"] if self._max_unmap() else []),
            *(["write_zeroes"] if self.provisioning.write_same_unmap or self.limits.max_write_same else []),
        }

    def _max_unmap(self) -> int:
        """The most bytes of one UNMAP; 0: the unit has none."""
        if not self.provisioning.unmap or not self.limits.max_unmap_descriptors:
            return 0
        blocks = min(self.limits.max_unmap, RangeLimit.MAX_RANGE_BLOCKS)
        if blocks == RangeLimit.MAX_RANGE_BLOCKS:  # of all descriptors: no limit
            blocks *= min(self.limits.max_unmap_descriptors, MAX_UNMAP_RANGES)
        return blocks * self.capacity.block_size

    def request_limits(self, config: ScsiConfig, ring_size: int) -> RequestLimits:
        """The limits of one request to the unit."""
        block = self.capacity.block_size
        segments = min(config.max_segments, ring_size - 2)
        transfer = min(config.max_transfer, segments * NO_LIMIT)
        if self.limits.max_transfer:
            transfer = min(transfer, self.limits.max_transfer * block)
        write_same = min(self.limits.max_write_same or RangeLimit.MAX_RANGE_BLOCKS, RangeLimit.MAX_RANGE_BLOCKS)
        return RequestLimits(
            max_segments=segments,
            max_segment=NO_LIMIT,
            max_transfer=max(block, transfer // block * block),
            max_unmap=self._max_unmap(),
            max_write_zeroes=write_same * block,
        )

    def bdev_info(self, config: ScsiConfig, ring_size: int) -> BdevInfo:
        """The description of the bdev."""
        limits = self.request_limits(config, ring_size)
        types = {"read", "flush", "reset"}
        if not self.mode.write_protected:
            types |= {"write", "write_zeroes", *(["unmap"] if limits.max_unmap else [])}
        c = self.capacity
        return BdevInfo(
            block_size=c.block_size,
            num_blocks=c.blocks,
            read_only=self.mode.write_protected,
            write_cache=self.write_cache,
            io_types=frozenset(types),
            product_name=PRODUCT_NAME,
            serial=self.serial,
            physical_block_size=c.block_size << c.physical_exponent,
            optimal_io_size=self.limits.optimal_transfer * c.block_size,
            max_transfer=limits.max_transfer,
            max_segments=limits.max_segments,
            max_unmap=limits.max_unmap,
            max_write_zeroes=limits.max_write_zeroes if "write_zeroes" in self.native() else 0,
        )
