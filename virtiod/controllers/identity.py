"""Whether a disk that is back is the one that was there: by what can be compared of the two."""

from __future__ import annotations

from dataclasses import dataclass, field

from virtiod.core.errors import DeviceError, ProtocolError
from virtiod.scsi.parse import Designator
from virtiod.scsi.spec import DesignatorType
from virtiod.virtio.blk import TARGET_SERIAL

# Serials that programs give to every disk: they tell nothing.
CONSTANT_SERIALS = frozenset(
    {
        "vhost_user_blk",  # qemu-storage-daemon
        "vdpa_blk_sim",  # the kernel's simulator
        TARGET_SERIAL,
    }
)


@dataclass(frozen=True)
class Identity:
    """What tells a disk from others. size in bytes. serial, designators: empty where the disk tells none."""

    serial: str
    block_size: int
    size: int
    designators: list[Designator] = field(default_factory=list)


def difference(before: Identity, now: Identity) -> str:
    """Why it can't be the disk that it was; "" if it can. What is told only once, before or now, is not compared."""
    constant = {before.serial, now.serial} <= CONSTANT_SERIALS
    if before.serial and now.serial and now.serial != before.serial and not constant:
        return f"its serial is {now.serial!r}, it was {before.serial!r}"
    if before.designators and now.designators and not _common(before.designators, now.designators):
        return "its designators are others"
    if now.block_size != before.block_size:
        return f"its block size is {now.block_size}, it was {before.block_size}"
    if now.size < before.size:
        return f"it has {now.size} bytes, it had {before.size}"
    return ""


def _common(before: list[Designator], now: list[Designator]) -> bool:
    """Whether one that no other disk has is among both; of those that have none, all must be the same."""
    unique = [{d for d in some if d.type != DesignatorType.T10_VENDOR_ID} for some in (before, now)]
    return bool(unique[0] & unique[1]) if all(unique) else before == now


def silence(before: Identity, now: Identity) -> str:
    """Which of its names it does not tell now, though it did before; "" if it tells them all."""
    if before.serial and not now.serial and before.serial not in CONSTANT_SERIALS:
        return "it does not tell its serial"
    if before.designators and not now.designators:
        return "it does not tell its designators"
    return ""


def refusal(where: str, why: str) -> ProtocolError:
    """The error of a device that is back with another disk: says what the operator has to do."""
    return ProtocolError(
        f"{where}: the device came back as another disk: {why}. I/O waits for the old one; "
        "to use this one, detach the controller and attach it again"
    )


def uncertainty(where: str, why: str) -> DeviceError:
    """The error of a device that is back, perhaps with another disk: the next attempt may tell."""
    return DeviceError(f"{where}: does not tell whether it is still the same disk ({why}); it is asked again")
