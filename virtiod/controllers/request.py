"""What an operator asks for when attaching a controller."""

from __future__ import annotations

from dataclasses import dataclass

from virtiod.bdev.keeping import OnLoss


@dataclass(frozen=True)
class AttachRequest:
    """trtype is one of TRANSPORTS; dev_type "blk" or "scsi"; vq_count and vq_size None for the default.

    wait_for_device: a device that is not there yet is no failure; it is attached when it appears. on_loss: what becomes
    of writes that were acknowledged and not flushed when the device is lost.
    """

    name: str
    trtype: str
    traddr: str
    dev_type: str
    vq_count: int | None = None
    vq_size: int | None = None
    wait_for_device: bool = False
    on_loss: OnLoss = OnLoss.KEEP
