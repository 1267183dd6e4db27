"""The embedded target's disk: virtio-blk (virtio 1.2 §5.2) over memory, a file, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from virtiod.core.errors import DeviceError, InvalidArgument
from virtiod.core.sizes import is_block_size
from virtiod.poller.poller import Poller
from virtiod.target.blk.requests import FAULTS, BlkRing, TargetUnit
from virtiod.target.interface import MappedRegion, QueueSetup, TargetDevice
from virtiod.target.ring import TargetMemory
from virtiod.target.store import Store
from virtiod.virtio.blk import CONFIG, SECTOR, TARGET_SERIAL
from virtiod.virtio.features import BlkFeature

SEG_MAX = 126  # segments of a request, as the configuration tells them
MAX_RANGE_SECTORS = 1 << 22  # of one DISCARD or WRITE_ZEROES: 2 GiB


@dataclass(frozen=True)
class Fault:
    """What to spoil, for tests of front-ends: see TargetUnit.fault."""

    kind: str = ""
    after: int = 0
    every: int = 0
    times: int = 0
    delay_us: int = 0

    @classmethod
    def parse(cls, text: str) -> Fault:
        """From "KIND[,after=N][,every=N][,times=N][,delay=US]"; raises InvalidArgument."""
        kind, *settings = text.split(",")
        values = {"after": 0, "every": 0, "times": 0, "delay": 0}
        for setting in settings:
            key, _, value = setting.partition("=")
            if key not in values or not value.isdecimal():
                raise InvalidArgument(f"fault {text!r}: {setting!r} is not after=N, every=N, times=N or delay=US")
            values[key] = int(value)
        if kind == "delay":
            kind = ""
        if kind not in FAULTS:
            known = ", ".join(sorted({"delay", *FAULTS} - {""}))
            raise InvalidArgument(f"fault {text!r}: must begin with one of {known}")
        return cls(kind, values["after"], values["every"], values["times"], values["delay"])


@dataclass(frozen=True)
class DiskSpec:
    """A disk to make. size in bytes (None: the file's); with neither memory nor path it is a null disk.

    write_cache: it offers FLUSH. cache: what was written to the file is in this process's memory only until then.
    """

    size: int | None = None
    memory: bool = False
    path: str = ""
    block_size: int = SECTOR
    queues: int = 1
    read_only: bool = False
    write_cache: bool = True
    cache: bool = False
    serial: str = TARGET_SERIAL
    fault: Fault = Fault()
    late_dma_ms: int = 0  # it does not stop, but finishes what it did not answer within that time; 0: it stops

    def check(self) -> None:
        """Raise InvalidArgument for what can't be."""
        b = self.block_size
        if not is_block_size(b):
            raise InvalidArgument(f"block size {b}: must be a power of two from 512 to 65536")
        if not 1 <= self.queues <= 256:
            raise InvalidArgument(f"{self.queues} queues: must be from 1 to 256")
        if self.size is not None and (self.size <= 0 or self.size % b):
            raise InvalidArgument(f"size {self.size}: must be a positive multiple of the block size {b}")
        if self.size is None and not self.path:
            raise InvalidArgument("size: needed for a disk without a file")
        if self.cache and not (self.path and self.write_cache):
            raise InvalidArgument("a cache: only for a disk in a file, which offers FLUSH")


class BlkDevice(TargetDevice):
    """One disk; its queues are spread over the pollers."""

    max_queue_size = 1024

    def __init__(self, spec: DiskSpec, pollers: Sequence[Poller]) -> None:
        spec.check()
        self.spec = spec
        self.num_queues = spec.queues
        self._pollers = pollers
        self._store = Store(spec.size, spec.path, spec.memory, spec.block_size, spec.read_only, spec.cache)
        self.unit = TargetUnit(self._store.disk, spec.serial)
        fault = spec.fault
        self.unit.fault(
            fault.kind, fault.after, fault.every, fault.times, delay_us=fault.delay_us, late=spec.late_dma_ms > 0
        )
        self._table = TargetMemory()
        self._queues: dict[int, BlkRing] = {}
        bits = [BlkFeature.SEG_MAX, BlkFeature.BLK_SIZE, BlkFeature.TOPOLOGY, BlkFeature.MQ]
        bits += [BlkFeature.DISCARD, BlkFeature.WRITE_ZEROES]
        bits += [BlkFeature.FLUSH] if spec.write_cache else []
        bits += [BlkFeature.RO] if spec.read_only else []
        self.features = sum(1 << bit for bit in bits)

    @property
    def size(self) -> int:
        """Bytes."""
        return self._store.size

    def config(self) -> bytes:
        ranges = MAX_RANGE_SECTORS
        spec = self.spec
        return CONFIG.pack(
            self.size // SECTOR, 0, SEG_MAX, 0, 0, 0, spec.block_size, 0, 0, 1, 1,
            int(spec.write_cache), spec.queues, ranges, 1, spec.block_size // SECTOR, ranges, 1, 1,
        )  # fmt: skip

    def set_config(self, offset: int, data: bytes) -> None:
        raise InvalidArgument("the configuration can't be written")

    def resize(self, size: int | None = None) -> None:
        """Change the size (bytes; None: to the file's). A memory disk can't grow. The front-end must be told after."""
        self._store.resize(size)

    async def queue_start(self, index: int, setup: QueueSetup, regions: Sequence[MappedRegion]) -> None:
        await self.memory_changed(regions)
        queue = BlkRing(self._pollers[index % len(self._pollers)], self._table, setup, self.unit)
        await queue.start()
        self._queues[index] = queue

    async def queue_stop(self, index: int) -> int:
        queue = self._queues[index]
        if self.spec.late_dma_ms and await queue.be_late(self.spec.late_dma_ms):
            raise DeviceError(f"queue {index} does not stop: it finishes requests that it did not answer")
        del self._queues[index]
        return await queue.stop()

    async def memory_changed(self, regions: Sequence[MappedRegion]) -> None:
        self._table.update([(r.guest, r.size, r.local) for r in regions])

    def requests(self) -> int:
        """Requests served by the queues that run."""
        return sum(q.counters()["requests"] for q in self._queues.values())

    def close(self) -> None:
        """No queue runs any more."""
        self._store.close()
