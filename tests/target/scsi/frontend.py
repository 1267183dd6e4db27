"""A virtio-scsi front-end that builds its rings by hand: it can send what a driver never would."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
from collections.abc import AsyncIterator
from typing import NamedTuple

from tests.support.waiting import PATIENCE_S
from virtiod.core.memory import MIB, DmaMemory
from virtiod.target.scsi.device import HostSpec, ScsiDevice
from virtiod.target.target import Target
from virtiod.transports.interface import QueueLayout
from virtiod.transports.vhost_user.transport import VhostUserTransport
from virtiod.transports.vhost_user.wire import Request, pack_config

SIZE = 64
CONTROL, EVENT, REQUEST = 0, 1, 2
SPINS = 100
AREA = 1 << 20  # of each queue, for buffers
NEXT, WRITE, INDIRECT = 1, 2, 4


class Reply(NamedTuple):
    """A command's end. sense as long as the device said it is."""

    response: int
    status: int
    sense: bytes
    residual: int
    data: bytes
    used: int

    @property
    def what(self) -> tuple[int, int]:
        """(key, code) of fixed-format sense data."""
        return self.sense[2] & 15, self.sense[12] << 8 | self.sense[13]


class Ring:
    """One split ring, and a bump allocator over its area that starts anew with each request that finds it idle."""

    def __init__(self, memory: DmaMemory, size: int) -> None:
        self.memory = memory
        self.size = size
        self.base = memory.allocate(AREA, 4096)
        self.layout = QueueLayout(size, self.base, self.base + 8192, self.base + 16384)
        memory.view(self.base, 32768)[:] = bytes(32768)
        self.next_buffer = self.base + 32768
        self.avail = 0
        self.seen = 0
        self.free = 0
        self.kick_fd = -1
        self.done: dict[int, int] = {}

    def word(self, address: int) -> ctypes.c_uint16:
        return ctypes.c_uint16.from_address(address)

    def put(self, data: bytes) -> int:
        """Copy data to where the device can see it; its address."""
        address = self.next_buffer
        self.next_buffer += -(-max(len(data), 1) // 16) * 16
        assert self.next_buffer <= self.base + AREA
        if data:
            self.memory.view(address, len(data))[:] = data
        return address

    def get(self, address: int, size: int) -> bytes:
        return bytes(self.memory.view(address, size)) if size else b""

    def descriptor(self, index: int, address: int, length: int, flags: int, following: int) -> None:
        raw = struct.pack("<QIHH", address, length, flags, following)
        self.memory.view(self.layout.desc + 16 * index, 16)[:] = raw

    def submit(self, segments: list[tuple[int, int, int]]) -> int:
        """Chain (address, length, flags), publish it and kick; its head."""
        head = self.free
        for i, (address, length, flags) in enumerate(segments):
            last = i == len(segments) - 1
            at = (head + i) % self.size
            self.descriptor(at, address, length, flags | (0 if last else NEXT), (at + 1) % self.size)
        self.free = (head + len(segments)) % self.size
        self.publish(head)
        return head

    def publish(self, head: int) -> None:
        self.word(self.layout.avail + 4 + 2 * (self.avail % self.size)).value = head
        self.avail = (self.avail + 1) & 0xFFFF
        self.word(self.layout.avail + 2).value = self.avail
        os.eventfd_write(self.kick_fd, 1)

    def look(self) -> None:
        while self.seen != self.word(self.layout.used + 2).value:
            at = self.layout.used + 4 + 8 * (self.seen % self.size)
            head, written = struct.unpack("<II", self.memory.view(at, 8))
            self.done[head] = written
            self.seen = (self.seen + 1) & 0xFFFF

    async def completion(self, head: int, timeout: float = PATIENCE_S) -> int:
        """Bytes that the device wrote; TimeoutError."""
        spins = 0
        async with asyncio.timeout(timeout):
            while head not in self.done:
                await asyncio.sleep(0 if spins < SPINS else 0.001)  # which leaves the core to the target
                spins += 1
                self.look()
        return self.done.pop(head)


class FrontEnd:
    """A connection with all queues running."""

    def __init__(self, transport: VhostUserTransport, memory: DmaMemory, queues: int) -> None:
        self.transport = transport
        self.rings = [Ring(memory, SIZE) for _ in range(queues)]
        self.lost: list[Exception] = []
        transport.on_lost = self.lost.append
        self.sense_size = 96
        self.cdb_size = 32
        self.tag = 0

    async def start(self) -> None:
        for index, ring in enumerate(self.rings):
            ring.kick_fd = (await self.transport.setup_queue(index, ring.layout)).kick_fd
            await self.transport.start_queue(index)

    async def set_config(self, offset: int, data: bytes) -> None:
        """Write to the device's configuration, which virtiod's driver never does."""
        await self.transport._peer()._set(Request.SET_CONFIG, pack_config(offset, data))

    def header(self, target: int, lun: int, cdb: bytes, tag: int = 0) -> bytes:
        where = bytes([1, target, 0x40 | lun >> 8, lun & 0xFF, 0, 0, 0, 0])
        return where + struct.pack("<QBBB", tag, 0, 0, 0) + cdb.ljust(self.cdb_size, b"\0")

    def send(self, target: int, lun: int, cdb: bytes, out: bytes = b"", into: int = 0, queue: int = 0) -> Pending:
        """Submit a command."""
        ring = self.rings[REQUEST + queue]
        self.tag += 1
        request = self.header(target, lun, cdb, self.tag)
        reply_size = 12 + self.sense_size
        response, data = ring.put(b"\xee" * reply_size), ring.put(b"\xee" * into)
        segments = [(ring.put(request), len(request), 0)]
        segments += [(ring.put(out), len(out), 0)] if out else []
        segments += [(response, reply_size, WRITE)]
        segments += [(data, into, WRITE)] if into else []
        return Pending(ring, ring.submit(segments), response, data, into, self.tag)

    async def run(self, target: int, lun: int, cdb: bytes, out: bytes = b"", into: int = 0, queue: int = 0) -> Reply:
        return await self.send(target, lun, cdb, out, into, queue).reply()

    async def ready(self, *luns: tuple[int, int]) -> None:
        """Take the unit attention of each LUN."""
        for target, lun in luns:
            await self.run(target, lun, bytes(6))

    async def tmf(self, subtype: int, target: int, lun: int, tag: int = 0, timeout: float = PATIENCE_S) -> int:
        """The response to a task management function."""
        ring = self.rings[CONTROL]
        where = bytes([1, target, 0x40 | lun >> 8, lun & 0xFF, 0, 0, 0, 0])
        request, response = ring.put(struct.pack("<II", 0, subtype) + where + struct.pack("<Q", tag)), ring.put(b"\xee")
        await ring.completion(ring.submit([(request, 24, 0), (response, 1, WRITE)]), timeout)
        return ring.get(response, 1)[0]

    def offer_event(self) -> tuple[int, int]:
        """A buffer for an event: (head, address)."""
        ring = self.rings[EVENT]
        address = ring.put(bytes(16))
        return ring.submit([(address, 16, WRITE)]), address

    async def event(self, offered: tuple[int, int]) -> tuple[int, bytes, int]:
        """(event, lun, reason) that the buffer was filled with."""
        head, address = offered
        assert await self.rings[EVENT].completion(head) == 16
        found: tuple[int, bytes, int] = struct.unpack("<I8sI", self.rings[EVENT].get(address, 16))
        return found


class Pending(NamedTuple):
    """A command that was sent."""

    ring: Ring
    head: int
    response: int
    data: int
    into: int
    tag: int

    async def reply(self, timeout: float = PATIENCE_S) -> Reply:
        used = await self.ring.completion(self.head, timeout)
        head = self.ring.get(self.response, 12)
        sense_length, residual, _, status, response = struct.unpack("<IIHBB", head)
        sense = self.ring.get(self.response + 12, min(sense_length, 252))
        return Reply(response, status, sense, residual, self.ring.get(self.data, self.into), used)


@contextlib.asynccontextmanager
async def serving(path: str, spec: HostSpec) -> AsyncIterator[ScsiDevice]:
    target = Target({path: spec})
    await target.start()
    try:
        yield target.hosts[path]
    finally:
        await target.stop()


@contextlib.asynccontextmanager
async def connected(path: str, queues: int = 3) -> AsyncIterator[FrontEnd]:
    memory = DmaMemory(16 * MIB, page_size=4096)
    transport = VhostUserTransport(path, memory)
    try:
        await transport.connect(2)
        await transport.acknowledge_features(1 << 32 | 1 << 28)
        await transport.share_memory()
        front = FrontEnd(transport, memory, queues)
        await front.start()
        yield front
    finally:
        await transport.close()
        memory.close()
