"""Latency histograms, as SPDK's script reads them."""

from __future__ import annotations

import base64
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.daemon import FakeDaemon
from tests.support.rpc_peer import Peer, attach, talk
from virtiod.bdev.histogram import BUCKETS, bucket_of
from virtiod.bdev.spdk_histograms import rebucket


def decode(answer: dict[str, Any]) -> list[tuple[int, int, int]]:
    """(from, below, count) of each bucket that counts something, by SPDK's definition of the layout."""
    raw = base64.b64decode(answer["histogram"])
    counts = struct.unpack(f"<{len(raw) // 8}Q", raw)
    per_range = 1 << answer["granularity"]
    assert len(counts) == per_range * (answer["max_range"] - answer["min_range"] + 1)
    found = []
    for place, count in enumerate(counts):
        span, sub = divmod(place, per_range)
        span += answer["min_range"]
        start = sub if span == 0 else (per_range + sub) << (span - 1)
        if count:
            found.append((start, start + (1 << max(span - 1, 0)), count))
    return found


def test_a_histogram_counts_from_when_it_was_enabled(run_dir: Path) -> None:
    async def ask(peer: Peer, daemon: FakeDaemon) -> None:
        await attach(peer)
        bdev = daemon.bdev("B0")
        assert (await peer.error("bdev_get_histogram", name="B0"))[0] == -32603
        bdev.count("read", 100_000)
        await peer.result("bdev_enable_histogram", name="B0", enable=True)
        bdev.count("read", 70_000)
        bdev.count("write", 70_001, channel=1)
        bdev.count("write", 5_000_000)
        answer = await peer.result("bdev_get_histogram", name="B0")
        assert answer["tsc_rate"] == 1_000_000_000
        low, high = decode(answer)
        assert low[0] <= 70_000 < low[1]
        assert low[2] == 2
        assert high[0] <= 5_000_000 < high[1]
        borders = await peer.result("bdev_get_histogram_borders", name="B0", borders=[10, 71, 5000, 6000])
        assert borders == {"borders_count": [0, 2, 3, 3, 3]}
        await peer.result("bdev_enable_histogram", name="B0", enable=True, opc="write", granularity=2)
        bdev.count("read", 70_000)
        bdev.count("write", 500)
        bdev.count("write", 10**11 * 2)
        answer = await peer.result("bdev_get_histogram", name="B0")
        assert [count for _, _, count in decode(answer)] == [1, 1]
        await peer.result("bdev_enable_histogram", name="B0", enable=False)
        assert (await peer.error("bdev_get_histogram", name="B0"))[0] == -32603

    talk(run_dir, ask)


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("bdev_enable_histogram", {"name": "B9", "enable": True}, -19),
        ("bdev_enable_histogram", {"name": "B0"}, -32602),
        ("bdev_enable_histogram", {"name": "B0", "enable": True, "opc": "compare"}, -22),
        ("bdev_enable_histogram", {"name": "B0", "enable": True, "granularity": 6}, -32602),
        ("bdev_enable_histogram", {"name": "B0", "enable": True, "min_nsec": 9, "max_nsec": 9}, -22),
        ("bdev_get_histogram_borders", {"name": "B0", "borders": []}, -22),
        ("bdev_get_histogram_borders", {"name": "B0", "borders": [2, 1]}, -22),
        ("bdev_get_histogram_borders", {"name": "B0", "borders": [-1]}, -32602),
    ],
)
def test_histograms_refuse(run_dir: Path, method: str, params: dict[str, object], code: int) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        await attach(peer)
        assert (await peer.error(method, **params))[0] == code

    talk(run_dir, ask)


@given(st.lists(st.integers(0, 2**38 - 1), max_size=20), st.integers(0, 5))
def test_coarser_buckets_hold_exactly_the_values_that_belong_there(values: list[int], granularity: int) -> None:
    counts = [0] * BUCKETS
    for value in values:
        counts[bucket_of(value)] += 1
    expected = [0] * ((1 << granularity) * 39)
    for value in values:
        span = max(0, value.bit_length() - granularity)
        expected[(span << granularity) + ((value >> max(span - 1, 0)) & ((1 << granularity) - 1))] += 1
    assert rebucket(counts, granularity, 0, 38) == expected
