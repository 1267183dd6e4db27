"""Null bdevs: what they take and what is read from them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.rig import in_loop
from virtiod.bdev.channel import OPS
from virtiod.bdev.probe import Flag, Probe
from virtiod.system import System

LEFT = b"another's"


@asynccontextmanager
async def null() -> AsyncIterator[Probe]:
    """Something that submits I/O to a null bdev; its buffer holds what another left there."""
    engine = System([-1], memory_mib=16)
    engine.start()
    try:
        bdev = engine.nulls.create("Null0", 4096)
        probe = Probe(engine.memory, engine.pollers[0], bdev.channels)
        probe.buffer[:] = LEFT * (probe.size // len(LEFT)) + LEFT[: probe.size % len(LEFT)]
        yield probe
    finally:
        await engine.stop()


@pytest.mark.parametrize("segments", [None, [4096], [512, 1, 3583]])
@in_loop
async def test_what_is_read_are_zeroes_and_nothing_else_is_touched(segments: list[int] | None) -> None:
    async with null() as probe:
        before = bytes(probe.buffer)
        assert await probe.submit("read", 8192, 4096, segments=segments, at=512) == 0
        assert probe.buffer[512 : 512 + 4096] == bytes(4096)
        assert probe.buffer[:512] == before[:512]
        assert probe.buffer[512 + 4096 :] == before[512 + 4096 :]


@in_loop
async def test_a_read_that_nobody_is_shown_costs_no_zeroes() -> None:
    async with null() as probe:
        before = bytes(probe.buffer)
        assert await probe.submit("read", 0, 4096, Flag.UNSEEN) == 0
        assert probe.buffer == before


@in_loop
async def test_what_is_written_is_left_as_it_is() -> None:
    async with null() as probe:
        before = bytes(probe.buffer)
        others = [op for op in OPS if op != "read"]
        assert await asyncio.gather(*(probe.submit(op, 0, 4096) for op in others)) == [0] * 4
        assert probe.buffer == before
