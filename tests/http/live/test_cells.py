"""Cells of the live page: what was counted between two looks, as rates and quantiles."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import virtiod.http
from virtiod.bdev.histogram import bucket_start
from virtiod.core.ticks import NS_PER_S
from virtiod.http.live.cells import CUTS, EDGES_NS, NOTHING, Cell, Counted, cell, difference, total


def test_latency_edges_are_edges_of_fine_buckets() -> None:
    assert [bucket_start(cut) for cut in CUTS] == EDGES_NS
    assert EDGES_NS[:5] == [256, 320, 384, 448, 512] and EDGES_NS[-1] == 7 << 31


def test_the_page_has_the_same_cells_and_edges() -> None:
    script = (Path(virtiod.http.__file__).parent / "static" / "charts.js").read_text()
    (cells,) = re.findall(r"^export const CELL = \{(.*)\};$", script, re.MULTILINE)
    names = [re.sub(r"([A-Z])", r"_\1", name).lower() for name in re.findall(r"(\w+): \d+", cells)]
    assert names == ["at", *(name.removesuffix("_ns") for name in Cell._fields)]
    assert re.findall(r"\w+: (\d+)", cells) == [str(at) for at in range(len(names))]
    (octave,) = re.findall(r"^const FIRST_OCTAVE = (\d+);$", script, re.MULTILINE)
    assert EDGES_NS[0] == 1 << int(octave)


def counted(at_s: float, latencies: Sequence[int] = (), **values: int) -> Counted:
    below = [sum(one < edge for one in latencies) for edge in EDGES_NS] + [len(latencies)]
    return NOTHING._replace(at_ns=int(at_s * NS_PER_S), time_ns=sum(latencies), below=below, **values)


def test_a_cell_is_the_difference_of_two_looks_per_second() -> None:
    before = counted(10, reads=5, latencies=[1000] * 5)
    now = counted(12, reads=9, read_bytes=8192, errors=1, latencies=[1000] * 5 + [2000, 2000, 2000, 9000, 70_000])
    shown = cell(difference(now, before), depth=3)
    assert (shown.reads, shown.writes, shown.read_bytes, shown.errors, shown.depth) == (2, 0, 4096, 0.5, 3)
    assert shown.mean_depth == 85_000 / (2 * NS_PER_S)
    assert shown.mean_ns == 17_000
    pairs = list(zip(shown.counts[::2], shown.counts[1::2], strict=True))
    assert pairs == [(bisect_right(EDGES_NS, ns), n) for ns, n in [(2000, 3), (9000, 1), (70_000, 1)]]
    assert shown.p50_ns is not None and shown.p99_ns is not None
    assert 1792 <= shown.p50_ns < 2048 and 65_536 <= shown.p99_ns < 81_920


def test_mean_depth_is_not_told_when_io_from_long_ago_ends() -> None:
    late = difference(counted(11, latencies=[20 * NS_PER_S]), counted(10))
    assert cell(late, 0, oldest_ns=19 * NS_PER_S).mean_depth is None
    assert cell(late, 0, oldest_ns=NS_PER_S // 2).mean_depth == 20


def test_a_total_is_the_sum_of_its_parts() -> None:
    parts = [counted(1, reads=1, latencies=[300]), counted(1, reads=2, writes=4, latencies=[300, 5000])]
    both = total(parts)
    assert (both.at_ns, both.reads, both.writes, both.time_ns, both.below[-1]) == (NS_PER_S, 3, 4, 5600, 3)
    assert total([]) == NOTHING


def test_cells_are_sent_with_five_digits() -> None:
    row = Cell(reads=123456.789, depth=123456, mean_ns=None, counts=(1, 2)).row()
    assert row == [123460.0, 0, 0, 0, 0, 0, 123456, 0, None, None, None, (1, 2)]
