"""The layout of a SCSI host's configuration space (virtio 1.2 §5.6.4)."""

from __future__ import annotations

import struct

# struct virtio_scsi_config: num_queues, seg_max, max_sectors, cmd_per_lun, event_info_size, sense_size, cdb_size,
# max_channel, max_target, max_lun
CONFIG = struct.Struct("<IIIIIIIHHI")
CONFIG_SIZE = CONFIG.size
SENSE_SIZE_AT, CDB_SIZE_AT = 20, 24  # offsets of what a driver may change
SENSE_SIZE, CDB_SIZE = 96, 32  # bytes, until it does
EVENT_SIZE = 16  # bytes of struct virtio_scsi_event
