"""SCSI logical units of the embedded target: what they are, what is wrong with them, and what they have to tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cython import NULL, address, cast
from cython.cimports.libc.stdint import uint16_t, uint32_t
from cython.cimports.virtiod.core import atomics
from cython.cimports.virtiod.scsi.spec import Asc
from cython.cimports.virtiod.target.disk import TargetDisk
from cython.cimports.virtiod.target.scsi.lun import (
    ANY_OPCODE,
    MAX_PAGES,
    Attention,
    Fault,
    LunFaultPtr,
    ScsiLun,
    ScsiLunPtr,
    ScsiTargetPtr,
)

if TYPE_CHECKING:
    from virtiod.target.scsi.pages import Identity

FAULTS = {
    "": Fault.NONE,
    "sense": Fault.SENSE,
    "status": Fault.STATUS,
    "response": Fault.RESPONSE,
    "silence": Fault.SILENCE,
    "death": Fault.DEATH,
    "used-id": Fault.USED_ID,
    "used-index": Fault.USED_INDEX,
    "no-response": Fault.NO_RESPONSE,
}
ATTENTIONS = {
    "power-on": Attention.POWER_ON,
    "reset": Attention.RESET,
    "capacity": Attention.CAPACITY,
    "luns": Attention.LUNS,
}


def target_lun(t: ScsiTargetPtr, number: uint32_t) -> ScsiLunPtr:
    """The LUN of that number, NULL if there is none."""
    i: uint32_t
    lun: ScsiLunPtr
    for i in range(atomics.load_u32(address(t.n))):
        lun = cast(ScsiLunPtr, atomics.load_ptr(address(t.luns[i])))
        if lun != NULL and lun.number == number:
            return lun
    return NULL


def lun_attention(lun: ScsiLunPtr) -> uint16_t:
    """The unit attention to tell now, NO_ADDITIONAL_SENSE if there is none; it is told once."""
    waiting: uint32_t = atomics.load_u32(address(lun.attention))
    bit: uint32_t = waiting & (0 - waiting)
    if bit == 0 or not atomics.fetch_and_u32(address(lun.attention), ~bit) & bit:
        return Asc.NO_ADDITIONAL_SENSE
    if bit == Attention.POWER_ON:
        return Asc.POWER_ON_OR_RESET
    if bit == Attention.RESET:
        return Asc.DEVICE_RESET
    return Asc.CAPACITY_CHANGED if bit == Attention.CAPACITY else Asc.REPORTED_LUNS_CHANGED


class TargetLun:
    """A logical unit over a disk. pages: (opcode, evpd, code, answer)."""

    lun: ScsiLun
    disk: TargetDisk
    keep: object

    def __init__(
        self,
        number: int,
        disk: TargetDisk,
        unit: Identity,
        pages: Sequence[tuple[int, int, int, bytes]],
        stopped: bool,
    ) -> None:
        answer: bytes
        if len(pages) > MAX_PAGES:
            raise ValueError(f"{len(pages)} pages, at most {MAX_PAGES} work")
        self.disk = disk
        self.keep = pages
        self.lun.disk = address(disk.disk)
        self.lun.number = number
        self.lun.shift = unit.block_size.bit_length() - 1
        self.lun.stopped = stopped
        self.lun.max_transfer = unit.limits.max_transfer
        self.lun.max_unmap = unit.limits.max_unmap
        self.lun.max_descriptors = unit.limits.max_descriptors
        self.lun.max_same = unit.limits.max_same
        self.lun.attention = Attention.POWER_ON
        self.lun.n_pages = len(pages)
        for i, (opcode, evpd, code, answer) in enumerate(pages):
            self.lun.pages[i].opcode = opcode
            self.lun.pages[i].evpd = evpd
            self.lun.pages[i].code = code
            self.lun.pages[i].length = len(answer)
            self.lun.pages[i].data = answer

    def attention(self, what: str) -> None:
        """Have the next command end with a unit attention: one of ATTENTIONS."""
        atomics.fetch_or_u32(address(self.lun.attention), ATTENTIONS[what])

    def resize(self, size: int) -> None:
        """Change the size in bytes; memory or file must be there."""
        atomics.store_u64(address(self.lun.disk.size), size)

    def fault(
        self,
        kind: str,
        after: int = 0,
        every: int = 0,
        times: int = 0,
        delay_us: int = 0,
        opcode: int | None = None,
        key: int = 0,
        asc: int = 0,
        ascq: int = 0,
        value: int = 0,
        descriptor: bool = False,
        deferred: bool = False,
        sense_length: int = 18,
    ) -> None:
        """Spoil commands (of one opcode, or any) from now on, after so many good ones: all, or each so many."""
        f: LunFaultPtr = address(self.lun.fault)
        atomics.store_u32(address(f.kind), Fault.NONE)
        f.seen = f.spoiled = 0
        f.after, f.every, f.times, f.delay_ns = after, every, times, delay_us * 1000
        f.opcode = ANY_OPCODE if opcode is None else opcode
        f.key, f.asc, f.value = key, asc << 8 | ascq, value
        f.descriptor, f.deferred, f.sense_length = descriptor, deferred, sense_length
        atomics.store_u32(address(f.kind), FAULTS[kind])

    def spoiled(self) -> int:
        """Commands that the fault hit since it was set."""
        return atomics.load_u64(address(self.lun.fault.spoiled))
