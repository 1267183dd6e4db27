"""A block device's configuration space (virtio 1.2 §5.2.4); what its requests are made of is in blk.pxd."""

from __future__ import annotations

import struct

SECTOR = 512  # bytes, whatever the size of a block
TARGET_SERIAL = "virtiod-target"  # of the embedded target's disks that were given no other one
# struct virtio_blk_config: capacity, size_max, seg_max, geometry (3), blk_size, topology (4), writeback, num_queues,
# discard (3), write zeroes (3)
CONFIG = struct.Struct("<QIIHBBIBBHIBxHIIIIIB3x")
# Sizes that it may have: with the fields up to write zeroes, topology, and block size. Some vhost-user back-ends refuse
# to tell more than they have, or another size.
CONFIG_SIZES = (60, 36, 24)
