"""Parses and checks a SCSI host's configuration space (virtio 1.2 §5.6.4)."""

from __future__ import annotations

from dataclasses import dataclass

from virtiod.controllers.limits import MAX_SEGMENTS
from virtiod.core.counted import counted
from virtiod.core.errors import ProtocolError
from virtiod.scsi.address import MAX_LUN, MAX_TARGET
from virtiod.scsi.spec import FIXED_SENSE, MIN_CDB
from virtiod.virtio.blk import SECTOR
from virtiod.virtio.scsi import CDB_ROOM, SENSE_ROOM
from virtiod.virtio.scsi_config import CDB_SIZE, CONFIG, CONFIG_SIZE, EVENT_SIZE, SENSE_SIZE


@dataclass(frozen=True)
class ScsiConfig:
    """num_queues: request queues; max_transfer in bytes. The defaults are for a device without a configuration."""

    num_queues: int = 256
    max_segments: int = 126
    max_transfer: int = 0xFFFF * SECTOR
    cmd_per_lun: int = 128
    sense_size: int = SENSE_SIZE
    cdb_size: int = CDB_SIZE
    max_target: int = MAX_TARGET
    max_lun: int = MAX_LUN


def parse(data: bytes) -> ScsiConfig:
    """The configuration; 0 means no limit where 0 is not valid. ProtocolError for values that are not valid."""
    if len(data) < CONFIG_SIZE:
        raise ProtocolError(f"configuration of {counted(len(data), 'byte')}, {CONFIG_SIZE} are needed")
    (
        queues, seg_max, max_sectors, cmd_per_lun, event_size, sense_size, cdb_size, _channel, max_target, max_lun,
    ) = CONFIG.unpack_from(data)  # fmt: skip
    default = ScsiConfig()
    if queues == 0:
        raise ProtocolError("the device says it has 0 request queues (num_queues)")
    if not MIN_CDB <= cdb_size <= CDB_ROOM or not FIXED_SENSE <= sense_size <= SENSE_ROOM:
        raise ProtocolError(
            f"the device's cdb_size {cdb_size} or sense_size {sense_size} is not valid: "
            f"{MIN_CDB} to {CDB_ROOM} and {FIXED_SENSE} to {SENSE_ROOM} bytes are supported"
        )
    if event_size not in {0, EVENT_SIZE}:
        raise ProtocolError(f"the device's events are of {event_size} bytes (event_info_size), not of {EVENT_SIZE}")
    return ScsiConfig(
        num_queues=queues,
        max_segments=min(seg_max or default.max_segments, MAX_SEGMENTS),
        max_transfer=min(max_sectors or 0xFFFF, 0xFFFF) * SECTOR,
        cmd_per_lun=cmd_per_lun or default.cmd_per_lun,
        sense_size=sense_size,
        cdb_size=cdb_size,
        max_target=min(max_target, MAX_TARGET),
        max_lun=min(max_lun, MAX_LUN),
    )


def is_valid(data: bytes) -> bool:
    """Whether this can be the configuration of a SCSI host. None of a disk with blocks of 512 bytes or more can."""
    try:
        parse(data)
    except ProtocolError:
        return False
    return True
