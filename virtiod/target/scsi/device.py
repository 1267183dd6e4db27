"""The embedded target's SCSI host: virtio-scsi (virtio 1.2 §5.6) with any targets and logical units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from virtiod.core.errors import Busy, InvalidArgument, NotFound
from virtiod.poller.poller import Poller
from virtiod.scsi.address import MAX_LUN, MAX_TARGET, pack_listed
from virtiod.scsi.spec import Asc
from virtiod.target.interface import MappedRegion, QueueSetup, TargetDevice
from virtiod.target.ring import DeviceRing, TargetMemory
from virtiod.target.scsi.control import MODES, ControlRing, EventRing
from virtiod.target.scsi.host import TargetHost
from virtiod.target.scsi.lun import TargetLun
from virtiod.target.scsi.luns import LunFault, LunSpec
from virtiod.target.scsi.pages import Identity, Limits, pages
from virtiod.target.scsi.requests import ScsiRing
from virtiod.target.store import Store
from virtiod.virtio.features import ScsiFeature
from virtiod.virtio.scsi import EventType, ResetReason
from virtiod.virtio.scsi_config import CDB_SIZE, CDB_SIZE_AT, CONFIG, EVENT_SIZE, SENSE_SIZE, SENSE_SIZE_AT

CONTROL_QUEUE, EVENT_QUEUE, FIRST_REQUEST_QUEUE = range(3)
MAX_REQUEST_QUEUES = 64
CAPACITY_CHANGED = Asc.CAPACITY_CHANGED >> 8 | (Asc.CAPACITY_CHANGED & 0xFF) << 8  # asc, ascq


@dataclass(frozen=True)
class HostSpec:
    """A SCSI host to make: targets as {target: {lun: spec}}, an empty one answers for no LUN.

    silent: targets that never answer. control: how task management functions are met, one of MODES.
    config: whether the front-end can read the configuration (SPDK's target has none).
    """

    targets: Mapping[int, Mapping[int, LunSpec]] = field(default_factory=dict)
    queues: int = 1
    seg_max: int = 126
    max_sectors: int = 0xFFFF
    cmd_per_lun: int = 128
    max_target: int = MAX_TARGET
    silent: frozenset[int] = frozenset()
    control: str = ""
    config: bool = True

    def check(self) -> None:
        """Raise InvalidArgument for what can't be."""
        if not 1 <= self.queues <= MAX_REQUEST_QUEUES:
            raise InvalidArgument(f"{self.queues} request queues: must be from 1 to {MAX_REQUEST_QUEUES}")
        if not 0 <= self.max_target <= MAX_TARGET:
            raise InvalidArgument(f"max_target {self.max_target}: must be from 0 to {MAX_TARGET}")
        if self.control not in MODES:
            raise InvalidArgument(f"control {self.control!r}: must be one of {sorted(MODES)}")
        for target in {*self.targets, *self.silent}:
            if not 0 <= target <= self.max_target:
                raise InvalidArgument(f"target {target}: must be from 0 to {self.max_target}")


class ScsiDevice(TargetDevice):
    """Targets and LUNs behind a control, an event and request queues, which are spread over the pollers."""

    features = 1 << ScsiFeature.HOTPLUG | 1 << ScsiFeature.CHANGE
    max_queue_size = 1024

    def __init__(self, spec: HostSpec, pollers: Sequence[Poller]) -> None:
        spec.check()
        self.spec = spec
        self.num_queues = FIRST_REQUEST_QUEUE + spec.queues
        self.luns: dict[tuple[int, int], TargetLun] = {}
        self._specs: dict[tuple[int, int], LunSpec] = {}
        self._stores: dict[tuple[int, int], Store] = {}
        self._gone: list[Store] = []
        self._pollers = pollers
        self._host = TargetHost()
        self._table = TargetMemory()
        self._queues: dict[int, DeviceRing] = {}
        self._control = spec.control
        self._sense_size, self._cdb_size = SENSE_SIZE, CDB_SIZE
        self._host.sizes(self._cdb_size, self._sense_size)
        try:
            for target in sorted({*spec.targets, *spec.silent}):
                self._host.add_target(target, target in spec.silent)
                for lun, one in spec.targets.get(target, {}).items():
                    self._add(target, lun, one)
        except BaseException:
            self.close()
            raise

    # ---- what it holds

    def _add(self, target: int, number: int, spec: LunSpec) -> None:
        if not 0 <= target <= self.spec.max_target or not 0 <= number <= MAX_LUN:
            raise InvalidArgument(f"LUN {target}:{number}: at most {self.spec.max_target}:{MAX_LUN}")
        if (target, number) in self.luns:
            raise Busy(f"LUN {target}:{number}: exists already")
        spec.check()
        store = Store(spec.size, spec.path, spec.memory, spec.block_size, spec.read_only, spec.cache)
        serial = spec.serial or f"virtiod-{target}-{number}"
        limits = Limits(
            max_transfer=self.spec.max_sectors * 512 // spec.block_size or 1,
            max_unmap=spec.max_unmap,
            max_descriptors=spec.max_descriptors,
            max_same=spec.max_same,
        )
        identity = Identity(serial, spec.block_size, spec.read_only, spec.write_cache, limits)
        lun = TargetLun(number, store.disk, identity, pages(identity), spec.stopped)
        _spoil(lun, spec.fault)
        self._host.add_target(target, target in self.spec.silent)
        try:
            self._host.add_lun(target, lun)
        except ValueError as error:
            store.close()
            raise InvalidArgument(str(error)) from error
        self.luns[target, number] = lun
        self._specs[target, number] = spec
        self._stores[target, number] = store

    def lun(self, target: int, number: int) -> TargetLun:
        """The LUN at that address. Raises NotFound."""
        if (target, number) not in self.luns:
            raise NotFound(f"LUN {target}:{number}: there is none")
        return self.luns[target, number]

    def size(self, target: int, number: int) -> int:
        """Bytes."""
        self.lun(target, number)
        return self._stores[target, number].size

    async def hot_add(self, target: int, number: int, spec: LunSpec) -> bool:
        """Serve a new LUN, and report it. False if the front-end had no buffer for the event."""
        self._add(target, number, spec)
        self._luns_changed(target)
        return await self.tell(EventType.TRANSPORT_RESET, target, number, ResetReason.RESCAN)

    async def hot_remove(self, target: int, number: int) -> bool:
        """Serve a LUN no more: what is held for it is aborted, and its removal reported."""
        self.lun(target, number)
        del self.luns[target, number], self._specs[target, number]
        self._gone.append(self._stores.pop((target, number)))  # a poller may still be at it
        self._host.remove_lun(target, number)
        self._luns_changed(target)
        return await self.tell(EventType.TRANSPORT_RESET, target, number, ResetReason.REMOVED)

    async def resize(self, target: int, number: int, size: int | None = None) -> bool:
        """Change a LUN's size (bytes; None: to the file's), and report it by event and unit attention."""
        lun = self.lun(target, number)
        self._stores[target, number].resize(size)
        lun.resize(self._stores[target, number].size)
        lun.attention("capacity")
        return await self.tell(EventType.PARAM_CHANGE, target, number, CAPACITY_CHANGED)

    async def resize_files(self) -> None:
        """Take the sizes that the files of LUNs have now, where they changed."""
        for (target, number), spec in list(self._specs.items()):
            if spec.path and self._stores[target, number].file_size() != self.size(target, number):
                await self.resize(target, number)

    async def tell(self, event: int, target: int, number: int, reason: int) -> bool:
        """Report an event. False if nobody listens, or had no buffer: it is told later that some were missed."""
        queue = self._queues.get(EVENT_QUEUE)
        if not isinstance(queue, EventRing):
            return False
        told: bool = await queue.tell(event, pack_listed(target, number), reason)
        return told

    def _luns_changed(self, target: int) -> None:
        for (other, _), lun in self.luns.items():
            if other == target:
                lun.attention("luns")

    # ---- faults

    def fault(self, target: int, number: int, fault: LunFault) -> None:
        """Spoil a LUN's commands from now on; LunFault() ends it."""
        _spoil(self.lun(target, number), fault)

    def silence(self, target: int, silent: bool = True) -> None:
        """Silences a target, or lets it answer again. What it got while silent it never answers; an abort ends it."""
        self._host.add_target(target, silent)

    def control(self, mode: str) -> None:
        """How task management functions are met from now on: one of MODES."""
        self._control = mode
        queue = self._queues.get(CONTROL_QUEUE)
        if isinstance(queue, ControlRing):
            queue.mode(mode)

    # ---- the device

    def config(self) -> bytes:
        spec = self.spec
        return CONFIG.pack(
            spec.queues, spec.seg_max, spec.max_sectors, spec.cmd_per_lun, EVENT_SIZE,
            self._sense_size, self._cdb_size, 0, spec.max_target, MAX_LUN,
        )  # fmt: skip

    def set_config(self, offset: int, data: bytes) -> None:
        """§5.6.4: a driver may set sense_size and cdb_size."""
        sense, cdb = self._sense_size, self._cdb_size
        if len(data) != 4 or offset not in {SENSE_SIZE_AT, CDB_SIZE_AT}:
            raise InvalidArgument(f"configuration at {offset}+{len(data)} can't be written")
        value = int.from_bytes(data, "little")
        sense, cdb = (value, cdb) if offset == SENSE_SIZE_AT else (sense, value)
        try:
            self._host.sizes(cdb, sense)
        except ValueError as error:
            raise InvalidArgument(str(error)) from error
        self._sense_size, self._cdb_size = sense, cdb

    async def queue_start(self, index: int, setup: QueueSetup, regions: Sequence[MappedRegion]) -> None:
        await self.memory_changed(regions)
        poller = self._pollers[max(0, index - FIRST_REQUEST_QUEUE) % len(self._pollers)]
        queue: DeviceRing
        if index == CONTROL_QUEUE:
            queue = ControlRing(poller, self._table, setup, self._host, self._control)
        elif index == EVENT_QUEUE:
            queue = EventRing(poller, self._table, setup)
        else:
            if not any(i >= FIRST_REQUEST_QUEUE for i in self._queues):
                for lun in self.luns.values():
                    lun.attention("power-on")
            queue = ScsiRing(poller, self._table, setup, self._host, index - FIRST_REQUEST_QUEUE)
        await queue.start()
        self._queues[index] = queue

    async def queue_stop(self, index: int) -> int:
        base: int = await self._queues.pop(index).stop()
        return base

    async def memory_changed(self, regions: Sequence[MappedRegion]) -> None:
        self._table.update([(r.guest, r.size, r.local) for r in regions])

    def requests(self) -> int:
        """Commands served by the request queues that run."""
        return sum(q.counters()["requests"] for i, q in self._queues.items() if i >= FIRST_REQUEST_QUEUE)

    def close(self) -> None:
        """No queue runs any more."""
        for store in [*self._stores.values(), *self._gone]:
            store.close()
        self._gone.clear()


def _spoil(lun: TargetLun, f: LunFault) -> None:
    lun.fault(**vars(f))
