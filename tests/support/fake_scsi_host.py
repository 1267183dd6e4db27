"""A virtio-scsi device in Python behind the embedded back-end (virtio 1.2 §5.6): any answer, or none, can be given."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.fake_scsi_units import FakeUnit, Refused, fixed_sense
from tests.support.rest import lent
from tests.support.rings import Ring
from tests.support.waiting import until
from virtiod.bdev.probe import Probe
from virtiod.controllers import AttachRequest
from virtiod.core.errors import InvalidArgument
from virtiod.scsi import address
from virtiod.scsi.spec import Asc, Opcode, SenseKey, Status
from virtiod.system import System
from virtiod.target.backend import Backend
from virtiod.target.interface import MappedRegion, QueueSetup, TargetDevice
from virtiod.virtio.scsi import CMD_HEADER, RESP_HEADER, ControlType, Response

CONTROL, EVENT = 0, 1
HOTPLUG, CHANGE = 1, 2
SENSE_SIZE, CDB_SIZE = 96, 32


@dataclass
class Answer:
    response: int = Response.OK
    status: int = Status.GOOD
    sense: bytes = b""
    data: bytes = b""
    resid: int | None = None
    written: bool = True  # False: the response is not written at all
    used: int = 0  # the used length; 0, as the kernel's vhost-scsi has it


def check(key: int, code: int = Asc.NO_ADDITIONAL_SENSE) -> Answer:
    """CHECK CONDITION with that sense; code: the additional sense code and its qualifier."""
    return Answer(status=Status.CHECK_CONDITION, sense=fixed_sense(key, code))


@dataclass
class Command:
    """As it came; length: bytes that the driver has room for."""

    target: int
    lun: int
    id: int
    cdb: bytes
    out: bytes
    length: int


@dataclass
class _Ring:
    setup: QueueSetup
    avail: int = 0
    used: int = 0


class FakeHost(TargetDevice):
    """units by (target, LUN). hook: called with each command; an Answer instead of the unit's, or SILENCE."""

    SILENCE = Answer()
    features = 1 << HOTPLUG | 1 << CHANGE
    max_queue_size = 1024

    def __init__(self, units: dict[tuple[int, int], FakeUnit], queues: int = 3) -> None:
        self.units = units
        self.num_queues = queues
        self.hook: Callable[[Command], Answer | None] = lambda _: None
        self.tmf: Callable[[int, int, int, int], int | None] = lambda *_: 0
        self.tmfs: list[tuple[int, int, int, int]] = []
        self.commands = 0
        self.held: list[tuple[int, int, Command]] = []
        self.waiting: list[int] = []
        self.rings: dict[int, _Ring] = {}
        self.regions: Sequence[MappedRegion] = ()
        self.max_target = 7
        self.cdb_size = CDB_SIZE
        self.cmd_per_lun = 128

    def config(self) -> bytes:
        queues = self.num_queues - 2
        return struct.pack(
            "<IIIIIIIHHI",
            *(queues, 126, 0xFFFF, self.cmd_per_lun, 16, SENSE_SIZE, self.cdb_size, 0, self.max_target, 16383),
        )

    def set_config(self, offset: int, data: bytes) -> None:
        raise InvalidArgument("no")

    async def queue_start(self, index: int, setup: QueueSetup, regions: Sequence[MappedRegion]) -> None:
        self.regions = regions
        self.rings[index] = _Ring(setup, setup.base, setup.base)
        asyncio.get_running_loop().add_reader(setup.kick_fd, self._kicked, index)
        self._serve(index)

    async def queue_stop(self, index: int) -> int:
        ring = self.rings.pop(index)
        asyncio.get_running_loop().remove_reader(ring.setup.kick_fd)
        if index == EVENT:
            self.waiting.clear()
        self.held = [h for h in self.held if h[0] != index]
        return ring.avail

    async def memory_changed(self, regions: Sequence[MappedRegion]) -> None:
        self.regions = regions

    # ---- rings

    def _local(self, at: int, size: int) -> int:
        for r in self.regions:
            if r.guest <= at and at + size <= r.guest + r.size:
                return r.local + at - r.guest
        raise AssertionError(f"{size} bytes at {at:#x} are in no region")

    def _read(self, at: int, size: int) -> bytes:
        return ctypes.string_at(self._local(at, size), size)

    def _write(self, at: int, data: bytes) -> None:
        ctypes.memmove(self._local(at, len(data)), data, len(data))

    def _kicked(self, index: int) -> None:
        os.eventfd_read(self.rings[index].setup.kick_fd)
        self._serve(index)

    def _serve(self, index: int) -> None:
        ring = self.rings[index]
        while ring.avail != struct.unpack("<H", ctypes.string_at(ring.setup.avail + 2, 2))[0]:
            at = ring.setup.avail + 4 + 2 * (ring.avail % ring.setup.size)
            head = struct.unpack("<H", ctypes.string_at(at, 2))[0]
            ring.avail = (ring.avail + 1) & 0xFFFF
            if ring.setup.event_idx:
                ctypes.memmove(ring.setup.used + 4 + 8 * ring.setup.size, struct.pack("<H", ring.avail), 2)
            self._handle(index, head)

    def _chain(self, index: int, head: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        setup = self.rings[index].setup
        table, at = setup.desc, head
        out: list[tuple[int, int]] = []
        into: list[tuple[int, int]] = []
        while True:
            addr, size, flags, after = struct.unpack("<QIHH", ctypes.string_at(table + 16 * at, 16))
            if flags & 4:
                table, at = self._local(addr, size), 0
                continue
            assert flags & 2 or not into
            (into if flags & 2 else out).append((addr, size))
            if not flags & 1:
                return out, into
            at = after

    def _push(self, index: int, head: int, written: int) -> None:
        ring = self.rings[index]
        at = ring.setup.used + 4 + 8 * (ring.used % ring.setup.size)
        ctypes.memmove(at, struct.pack("<II", head, written), 8)
        ring.used = (ring.used + 1) & 0xFFFF
        ctypes.memmove(ring.setup.used + 2, struct.pack("<H", ring.used), 2)
        if ring.setup.call_fd >= 0:
            os.eventfd_write(ring.setup.call_fd, 1)

    # ---- requests

    def _handle(self, index: int, head: int) -> None:
        if index == EVENT:
            self.waiting.append(head)
            return
        out, into = self._chain(index, head)
        header = self._read(*out[0])
        if index == CONTROL:
            kind, subtype, lun, task = struct.unpack("<II8sQ", header)
            assert kind == ControlType.TMF
            assert [n for _, n in into] == [1]
            target, number = address.unpack(lun) or (-1, -1)
            self.tmfs.append((subtype, target, number, task))
            response = self.tmf(subtype, target, number, task)
            if response is not None:
                self._write(into[0][0], bytes([response]))
                self._push(index, head, 1)
            return
        lun, task, *_ = struct.unpack_from("<8sQBBB", header)
        assert len(header) == CMD_HEADER + self.cdb_size
        assert into[0][1] == RESP_HEADER + SENSE_SIZE
        target, number = address.unpack(lun) or (-1, -1)
        data = b"".join(self._read(*piece) for piece in out[1:])
        command = Command(target, number, task, header[CMD_HEADER:], data, sum(n for _, n in into[1:]))
        self.commands += 1
        answer = self.hook(command) or self.execute(command)
        if answer is self.SILENCE:
            self.held.append((index, head, command))
            return
        self.answer(index, head, answer)

    def execute(self, command: Command) -> Answer:
        luns = sorted(lun for target, lun in self.units if target == command.target)
        unit = self.units.get((command.target, command.lun))
        if not luns:
            return Answer(response=Response.BAD_TARGET)
        if unit is None:
            if command.cdb[0] == Opcode.REPORT_LUNS:
                return Answer(
                    data=next(u for (t, _), u in self.units.items() if t == command.target).execute(
                        command.cdb, b"", luns
                    )
                )
            if command.cdb[0] == Opcode.INQUIRY:
                return Answer(data=bytes([0x7F]) + bytes(35))
            return Answer(
                status=Status.CHECK_CONDITION, sense=Refused(SenseKey.ILLEGAL_REQUEST, Asc.LUN_NOT_SUPPORTED).sense
            )
        try:
            return Answer(data=unit.execute(command.cdb, command.out, luns))
        except Refused as refusal:
            return Answer(status=Status.CHECK_CONDITION, sense=refusal.sense)

    def answer(self, index: int, head: int, answer: Answer) -> None:
        """Answer a request of a chain."""
        _, into = self._chain(index, head)
        room = sum(n for _, n in into[1:])
        resid = room - len(answer.data) if answer.resid is None else answer.resid
        if answer.written:
            fields = struct.pack("<IIHBB", len(answer.sense), max(0, resid), 0, answer.status, answer.response)
            self._write(into[0][0], fields + answer.sense[:SENSE_SIZE])
        data = answer.data
        for at, size in into[1:]:
            if data:
                self._write(at, data[:size])
            data = data[size:]
        self._push(index, head, answer.used)

    def release(self, answer: Answer | None = None) -> None:
        """Answer what was held: as its unit does, or so."""
        held, self.held = self.held, []
        for index, head, command in held:
            self.answer(index, head, answer or self.execute(command))

    def send_event(self, kind: int, target: int = 0, lun: int = 0, reason: int = 0) -> None:
        head = self.waiting.pop(0)
        _, into = self._chain(EVENT, head)
        where = address.pack(target, lun) if target >= 0 else bytes(8)
        self._write(into[0][0], struct.pack("<I8sI", kind, where, reason))
        self._push(EVENT, head, 16)


class Stack:
    """An engine with a controller S0 on a FakeHost."""

    def __init__(self, engine: System, host: FakeHost, path: Path) -> None:
        self.engine = engine
        self.host = host
        self.path = path
        self.names: list[str] = []
        self.events: list[tuple[str, str]] = []
        engine.bdevs.on_event(lambda kind, name: self.events.append((kind, name)))
        self._probes: dict[str, Probe] = {}

    async def attach(self, name: str = "S0", vq_count: int | None = None, vq_size: int | None = None) -> list[str]:
        request = AttachRequest(name, "user", str(self.path), "scsi", vq_count=vq_count, vq_size=vq_size)
        self.names = await self.engine.controllers.attach(request)
        return self.names

    def probe(self, name: str) -> Probe:
        if name not in self._probes:
            bdev = self.engine.bdevs.get(name)
            self._probes[name] = Probe(self.engine.memory, self.engine.pollers[-1], bdev.channels)
        return self._probes[name]

    async def do(self, name: str, op: str, offset: int = 0, length: int = 512, flags: int = 0, at: int = 0) -> int:
        return await self.probe(name).submit(op, offset, length, flags, at=at)

    async def until(self, what: Callable[[], object]) -> None:
        """Wait for a condition."""
        await until(what)


@asynccontextmanager
async def stack(
    run_dir: Path,
    units: dict[tuple[int, int], FakeUnit],
    *,
    pollers: int = 1,
    io_timeout_s: float = 30.0,
    host: FakeHost | None = None,
    ring: Ring | None = None,
    peer_grace_s: float = 0.05,
) -> AsyncIterator[Stack]:
    """ring: what all queues are like; there is one request queue then, of the first of its pollers."""
    pollers = ring.pollers if ring else pollers
    host = host or FakeHost(units, 3 if ring else 2 + pollers)
    path = run_dir / "s.sock"
    backend = Backend(str(path), host, ring_features=(ring or Ring()).features)
    await backend.start()
    engine = System([-1] * pollers, memory_mib=32, io_timeout_s=io_timeout_s, peer_grace_s=peer_grace_s)
    engine.start()
    try:
        yield Stack(engine, host, path)
        await engine.controllers.stop()
        assert not lent(engine)
    finally:
        await engine.stop()
        await backend.stop()
