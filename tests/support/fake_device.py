"""A virtio-blk device in Python, over the memory of a real ring (virtio 1.2 §2.7, §5.2.6).

It sees what the driver wrote, and writes what a device may write, or may not."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from virtiod.core.memory import DmaMemory
from virtiod.virtqueue.handle import RequestQueue

NEXT, WRITE, INDIRECT = 1, 2, 4  # §2.7.5
IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13  # §5.2.6
OK, IOERR, UNSUPP = 0, 1, 2
ALL = 0xFFFFFFFF  # a used length that is enough for every request
NO_KICK = 1  # §2.7.8 VIRTQ_USED_F_NO_NOTIFY


@dataclass
class Request:
    """A chain as the driver wrote it; segments are (address, length), the status byte not among them."""

    head: int
    type: int
    sector: int
    out: list[tuple[int, int]]
    into: list[tuple[int, int]]
    status: int
    descriptors: int
    indirect: bool
    ranges: list[tuple[int, int, int]] = field(default_factory=list)  # sector, sectors, flags

    @property
    def length(self) -> int:
        return sum(n for _, n in self.out + self.into)


class Memory(Protocol):
    """What a device sees: bytes at an address as the driver gave it."""

    def view(self, address: int, size: int) -> memoryview: ...


class FakeDevice:
    """Takes requests only when told to. `requests` is all that it ever took; disk is what READ and WRITE move."""

    def __init__(self, memory: DmaMemory, queue: RequestQueue, event_idx: bool, disk_size: int = 4 << 20) -> None:
        self.memory: Memory = memory
        self.size = queue.size
        self.event_idx = event_idx
        self.disk = bytearray(disk_size)
        self._stable = bytes(disk_size)
        self.serial = bytes(20)
        self.lies = False  # it answered what it should not have: the driver may use a head that is held
        self.kick = os.eventfd(0, os.EFD_NONBLOCK)
        self.call = os.eventfd(0, os.EFD_NONBLOCK)
        self.requests: list[Request] = []
        self.held: list[Request] = []
        self.look_at(queue)
        self.reset()

    def look_at(self, queue: RequestQueue) -> None:
        """Take the ring from where it lies now."""
        desc, avail, used = queue.ring_addresses()
        self.desc = self.memory.view(desc, 16 * self.size)
        self.avail = self.memory.view(avail, 6 + 2 * self.size)
        self.used = self.memory.view(used, 6 + 8 * self.size)

    def close(self) -> None:
        os.close(self.kick)
        os.close(self.call)

    def reset(self) -> None:
        """A new device over a ring that was reset."""
        self.last_avail = 0
        self.used_idx = 0
        self.held = []

    def lose_cache(self) -> None:
        """What was not flushed is gone."""
        self.disk[:] = self._stable

    # ---- what the driver wrote

    def avail_idx(self) -> int:
        return int(struct.unpack_from("<H", self.avail, 2)[0])

    def avail_flags(self) -> int:
        return int(struct.unpack_from("<H", self.avail, 0)[0])

    def used_event(self) -> int:
        return int(struct.unpack_from("<H", self.avail, 4 + 2 * self.size)[0])

    def kicks(self) -> int:
        """Kicks since the last call."""
        try:
            return os.eventfd_read(self.kick)
        except BlockingIOError:
            return 0

    def take(self) -> list[Request]:
        """The requests that are new on the ring; they are held until complete()."""
        taken = []
        while self.last_avail != self.avail_idx():
            head = struct.unpack_from("<H", self.avail, 4 + 2 * (self.last_avail % self.size))[0]
            self.last_avail = (self.last_avail + 1) & 0xFFFF
            try:
                taken.append(self._parse(head))
            except (AssertionError, ValueError, struct.error):
                # Who completes what it has not looked at yet finds the descriptors in use for something else.
                if not self.lies:
                    raise
        again = {r.head for r in taken} & {r.head for r in self.held}
        assert self.lies or not again
        self.held = [r for r in self.held if r.head not in again]
        self.requests += taken
        self.held += taken
        return taken

    def _chain(self, head: int) -> tuple[list[tuple[int, int, int]], bool]:
        addr, length, flags, _ = struct.unpack_from("<QIHH", self.desc, 16 * head)
        table, at, indirect = self.desc, head, bool(flags & INDIRECT)
        if indirect:
            assert flags == INDIRECT
            assert length % 16 == 0
            table, at = self.memory.view(addr, length), 0
        found = []
        while True:
            addr, length, flags, after = struct.unpack_from("<QIHH", table, 16 * at)
            found.append((addr, length, flags))
            assert len(found) <= self.size, "a chain longer than the ring"
            if not flags & NEXT:
                return found, indirect
            at = after

    def _parse(self, head: int) -> Request:
        chain, indirect = self._chain(head)
        readable = [(a, n) for a, n, flags in chain if not flags & WRITE]
        writable = [(a, n) for a, n, flags in chain if flags & WRITE]
        assert [bool(f & WRITE) for *_, f in chain] == sorted(bool(f & WRITE) for *_, f in chain)
        header, *out = readable
        *into, status = writable
        assert header[1] == 16
        assert status[1] == 1
        kind, _, sector = struct.unpack("<IIQ", self.memory.view(*header))
        request = Request(head, kind, sector, out, into, status[0], len(chain), indirect)
        if kind in {DISCARD, WRITE_ZEROES}:
            request.ranges = [struct.unpack("<QII", self.memory.view(*piece)) for piece in out]
            request.out = []
        return request

    # ---- what the device writes

    def push(self, head: int, written: int = 0) -> None:
        """One entry of the used ring, true or not."""
        struct.pack_into("<II", self.used, 4 + 8 * (self.used_idx % self.size), head, written)
        self.used_idx = (self.used_idx + 1) & 0xFFFF
        self.publish(self.used_idx)

    def publish(self, index: int) -> None:
        struct.pack_into("<H", self.used, 2, index)

    def want_kicks(self, wanted: bool) -> None:
        """§2.7.10: ask for a kick at the next request, or for none."""
        if self.event_idx:
            event = self.last_avail if wanted else self.last_avail - 1
            struct.pack_into("<H", self.used, 4 + 8 * self.size, event & 0xFFFF)
        else:
            struct.pack_into("<H", self.used, 0, 0 if wanted else NO_KICK)

    def complete(self, request: Request, status: int | None = OK) -> None:
        """Answer a request that is held; status None leaves the byte alone."""
        self.held.remove(request)
        if status is not None:
            self.memory.view(request.status, 1)[0] = status
        self.push(request.head, sum(n for _, n in request.into) + 1)

    def execute(self, request: Request) -> int:
        """Do what a request says; its status."""
        at = request.sector * 512
        if request.type == IN:
            for address, n in request.into:
                self.memory.view(address, n)[:] = self.disk[at : at + n]
                at += n
        elif request.type == OUT:
            for address, n in request.out:
                self.disk[at : at + n] = self.memory.view(address, n)
                at += n
        elif request.type == GET_ID:
            self.memory.view(*request.into[0])[:] = self.serial
        elif request.type == FLUSH:
            self._stable = bytes(self.disk)
        for sector, sectors, _ in request.ranges:
            self.disk[sector * 512 : (sector + sectors) * 512] = bytes(sectors * 512)
        return OK

    def serve(self, status: Callable[[Request], int | None] | None = None) -> int:
        """Take and answer all there is; how many. status: a function of the request instead of doing it."""
        self.take()
        served = list(self.held)
        for request in served:
            self.complete(request, status(request) if status else self.execute(request))
        return len(served)

    def rush(self) -> int:
        """Take and answer all there is, with success and without a look at what is asked for; how many.

        For tests of very many requests; `requests` does not know of them.
        """
        answered = 0
        while self.last_avail != self.avail_idx():
            (head,) = struct.unpack_from("<H", self.avail, 4 + 2 * (self.last_avail % self.size))
            self.last_avail = (self.last_avail + 1) & 0xFFFF
            addr, length, flags, after = struct.unpack_from("<QIHH", self.desc, 16 * head)
            if flags & INDIRECT:
                addr = struct.unpack_from("<Q", self.memory.view(addr, length), length - 16)[0]
            while flags & NEXT:
                addr, _, flags, after = struct.unpack_from("<QIHH", self.desc, 16 * after)
            self.memory.view(addr, 1)[0] = OK
            self.push(head, ALL)
            answered += 1
        return answered
