"""What a device may write into a used ring, its status bytes and its suppression words, while a queue works.

The input is a program: a byte for the shape of the queue, then steps of driver and device, a byte and arguments each.
No thread runs: a step of the driver is one round. Nothing may crash, each I/O ends once, and at rest the counters
balance.
"""

from __future__ import annotations

import asyncio
import errno
import struct
import time

from tests.support.rig import Rig
from virtiod.bdev.probe import Flag

STEPS = 400
OPS = ("read", "write", "flush", "unmap", "write_zeroes")
RESULTS = {0, *(-e for e in (errno.EIO, errno.EOPNOTSUPP, errno.ETIMEDOUT, errno.ENODEV, errno.EINVAL))}


class Program:
    """Numbers taken from the input; zeroes when it is over."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def over(self) -> bool:
        return self._at >= len(self._data)

    def take(self, n: int = 1) -> int:
        value = int.from_bytes(self._data[self._at : self._at + n], "little")
        self._at += n
        return value


def fuzz(data: bytes) -> None:
    asyncio.run(_run(Program(data)))


async def _run(program: Program) -> None:
    shape = program.take()
    rig = Rig(
        size=(4, 8, 16, 64)[shape & 3],
        indirect=bool(shape & 4),
        event_idx=bool(shape & 8),
        write_cache=bool(shape & 16),
        max_transfer=1024 if shape & 32 else 1 << 20,
        native=frozenset(OPS[: 3 if shape & 64 else 5]),
    )
    done: list[asyncio.Future[int]] = []
    rig.device.lies = True
    async with rig:
        for _ in range(STEPS):
            if program.over():
                break
            await _step(rig, program, done)
        await rig.do(rig.queue.stop())
        await rig.do(rig.queue.fail(errno.ENODEV))
        rig.turn(3)
        assert all(d.done() and d.result() in RESULTS for d in done), "an I/O never ended"
        assert rig.queue.counters().in_flight == 0


async def _step(rig: Rig, program: Program, done: list[asyncio.Future[int]]) -> None:
    device = rig.device
    match program.take() % 12:
        case 0 | 1 | 2:
            what = program.take()
            op = OPS[what % 5]
            length = 0 if op == "flush" else 512 * (1 + program.take() % 16)
            done.append(rig.submit(op, 512 * (what % 64), length, Flag.FUA if what & 128 else 0))
            rig.turn(what >> 6 & 1)
        case 3:
            rig.turn(1 + program.take() % 4)
        case 4 | 5:
            device.take()
            if device.held:
                device.complete(device.held[program.take() % len(device.held)], program.take() & 3)
        case 6:
            device.push(program.take(4), program.take(4))
        case 7:
            device.push(program.take() % (device.size + 1), program.take())
        case 8:
            device.publish(program.take(2))
        case 9:
            value = program.take(4).to_bytes(4, "little")
            at = program.take(2) % (len(device.used) - 3)
            device.used[at : at + 4] = value
        case 10:
            at = 0 if not device.event_idx else 4 + 8 * device.size
            struct.pack_into("<H", device.used, at, program.take(2))
        case 11 if program.take() & 1:
            await rig.restart()
        case _:
            await rig.do(rig.queue.stop())
            await rig.do(rig.queue.fail(errno.ETIMEDOUT, time.monotonic_ns()))
            await rig.start()
