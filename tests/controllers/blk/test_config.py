"""A block device's configuration space: what it means, and what can't be (virtio 1.2 §5.2.4)."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtiod.controllers.blk.config import CONFIG_SIZE, MAX_TRANSFER, parse
from virtiod.controllers.limits import MAX_SEGMENTS, NO_LIMIT
from virtiod.core.errors import ProtocolError
from virtiod.virtio.features import BlkFeature as F

MIB = 1 << 20


def layout(**fields: int) -> bytes:
    """struct virtio_blk_config, packed."""
    v = {"capacity": 2048, **fields}

    def get(name: str) -> int:
        return v.pop(name, 0)

    data = struct.pack("<QII", get("capacity"), get("size_max"), get("seg_max"))
    data += struct.pack("<HBB", 0, 0, 0)  # geometry
    data += struct.pack("<I", get("blk_size"))
    data += struct.pack("<BBHI", get("physical_block_exp"), 0, 0, get("opt_io_size"))
    data += struct.pack("<BBH", get("writeback"), 0, get("num_queues"))
    data += struct.pack("<III", get("max_discard_sectors"), get("max_discard_seg"), 0)
    data += struct.pack("<IIB3x", get("max_write_zeroes_sectors"), get("max_write_zeroes_seg"), 0)
    assert not v
    assert len(data) == CONFIG_SIZE
    return data


def bits(*features: F) -> int:
    return sum(1 << f for f in features)


ACCEPTED: list[tuple[tuple[F, ...], dict[str, int], dict[str, Any]]] = [
    ((), {}, {"capacity": MIB, "block_size": 512, "max_segments": 1, "num_queues": 1, "write_cache": False}),
    ((), {"blk_size": 4096, "seg_max": 9, "num_queues": 0}, {"block_size": 512, "max_segments": 1, "num_queues": 1}),
    ((F.BLK_SIZE,), {"blk_size": 4096}, {"block_size": 4096, "physical_block_size": 4096}),
    ((F.SEG_MAX,), {"seg_max": 126}, {"max_segments": 126, "max_transfer": MAX_TRANSFER}),
    ((F.SEG_MAX,), {"seg_max": 0}, {"max_segments": 1}),
    ((F.SEG_MAX,), {"seg_max": 0xFFFFFFFF}, {"max_segments": MAX_SEGMENTS}),
    ((F.SIZE_MAX,), {"size_max": 0}, {"max_segment": NO_LIMIT}),
    ((F.SIZE_MAX,), {"size_max": 65536}, {"max_segment": 65536, "max_transfer": 65536}),
    ((F.SIZE_MAX,), {"size_max": 1000}, {"max_segment": 1000, "max_transfer": 512}),
    ((F.SIZE_MAX, F.SEG_MAX), {"size_max": 131072, "seg_max": 8}, {"max_transfer": MIB}),
    ((F.RO,), {}, {"read_only": True}),
    ((F.FLUSH,), {}, {"has_flush": True, "write_cache": True}),
    ((F.FLUSH, F.CONFIG_WCE), {"writeback": 0}, {"has_flush": True, "write_cache": True}),
    ((F.CONFIG_WCE,), {"writeback": 1}, {"has_flush": False, "write_cache": False}),
    ((F.MQ,), {"num_queues": 256}, {"num_queues": 256}),
    (
        (F.TOPOLOGY,),
        {"physical_block_exp": 3, "opt_io_size": 8},
        {"physical_block_size": 4096, "optimal_io_size": 4096},
    ),
    ((), {"physical_block_exp": 200}, {"physical_block_size": 512}),
    ((F.DISCARD,), {"max_discard_sectors": 32768, "max_discard_seg": 1}, {"max_discard": 16 * MIB}),
    ((F.DISCARD,), {"max_discard_sectors": 32768, "max_discard_seg": 0}, {"max_discard": 0}),
    ((), {"max_discard_sectors": 32768, "max_discard_seg": 1}, {"max_discard": 0}),
    ((F.WRITE_ZEROES,), {"max_write_zeroes_sectors": 8, "max_write_zeroes_seg": 1}, {"max_write_zeroes": 4096}),
    (
        (F.WRITE_ZEROES, F.BLK_SIZE),
        {"max_write_zeroes_sectors": 15, "max_write_zeroes_seg": 1, "blk_size": 4096},
        {"max_write_zeroes": 4096},
    ),
]

REFUSED: list[tuple[tuple[F, ...], dict[str, int], str]] = [
    ((), {"capacity": 0}, "capacity is 0 blocks"),
    ((), {"capacity": (1 << 64) - 1}, "too large"),
    ((F.BLK_SIZE,), {"blk_size": 0}, "block size 0"),
    ((F.BLK_SIZE,), {"blk_size": 100}, "block size 100"),
    ((F.BLK_SIZE,), {"blk_size": 1000}, "block size 1000"),
    ((F.BLK_SIZE,), {"blk_size": 1 << 31}, "block size 2147483648"),
    ((F.BLK_SIZE,), {"blk_size": 4096, "capacity": 7}, "capacity is 0 blocks"),
    ((F.MQ,), {"num_queues": 0}, "0 queues"),
    ((F.TOPOLOGY,), {"physical_block_exp": 17}, "exponent 17"),
    ((F.SIZE_MAX,), {"size_max": 511}, "size_max 511"),
    ((F.SIZE_MAX, F.BLK_SIZE), {"size_max": 2048, "blk_size": 4096}, "size_max 2048"),
]


@pytest.mark.parametrize(("features", "fields", "expected"), ACCEPTED)
def test_a_configuration_says(features: tuple[F, ...], fields: dict[str, int], expected: dict[str, Any]) -> None:
    config = parse(layout(**fields), bits(*features), 512)
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(("features", "fields", "says"), REFUSED)
def test_a_configuration_that_can_not_be_is_refused(features: tuple[F, ...], fields: dict[str, int], says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        parse(layout(**fields), bits(*features), 512)


@pytest.mark.parametrize("size", [24, 36, 60, 64])
def test_what_a_shorter_configuration_lacks_counts_as_zero(size: int) -> None:
    data = layout(blk_size=4096, num_queues=4).ljust(64, b"\xff")[:size]
    config = parse(data, bits(F.BLK_SIZE, F.DISCARD), 512)
    assert (config.block_size, config.max_discard) == (4096, 0)


@pytest.mark.parametrize("size", [0, 8, 23])
def test_too_short_a_configuration_is_refused(size: int) -> None:
    with pytest.raises(ProtocolError, match=f"{size} bytes"):
        parse(layout()[:size], 0, 512)


@pytest.mark.parametrize(("ring", "segments"), [(4, 2), (128, 126), (1024, MAX_SEGMENTS)])
def test_a_request_fits_the_ring(ring: int, segments: int) -> None:
    config = parse(layout(seg_max=0xFFFF), bits(F.SEG_MAX), ring)
    assert config.max_segments == segments


@pytest.mark.parametrize("ring", [1, 2])
def test_a_ring_too_small_for_any_request_is_refused(ring: int) -> None:
    with pytest.raises(ProtocolError, match="don't allow one block"):
        parse(layout(), 0, ring)


def test_a_read_only_disk_offers_no_operation_that_writes() -> None:
    fields = {"max_discard_sectors": 8, "max_discard_seg": 1}
    info = parse(layout(**fields), bits(F.RO, F.DISCARD, F.FLUSH), 512).bdev_info("serial")
    assert info.io_types == {"read", "flush"}
    assert info.read_only


def test_operations_are_those_of_the_device_and_emulated_zeroes() -> None:
    plain = parse(layout(), 0, 512)
    assert plain.native() == {"read", "write"}
    assert plain.bdev_info("").io_types == {"read", "write", "flush", "write_zeroes"}
    fields = {"max_discard_sectors": 8, "max_discard_seg": 1, "max_write_zeroes_sectors": 8, "max_write_zeroes_seg": 1}
    full = parse(layout(**fields), bits(F.FLUSH, F.DISCARD, F.WRITE_ZEROES), 512)
    assert full.native() == full.bdev_info("").io_types == {"read", "write", "flush", "unmap", "write_zeroes"}


@given(st.binary(max_size=80), st.integers(0, (1 << 64) - 1), st.sampled_from([2, 4, 256, 32768]))
def test_any_bytes_give_usable_limits_or_a_protocol_error(data: bytes, features: int, ring: int) -> None:
    try:
        config = parse(data, features, ring)
    except ProtocolError:
        return
    block = config.block_size
    assert block >= 512
    assert config.capacity >= block
    assert 1 <= config.max_segments <= ring - 2
    assert config.max_transfer >= block
    for limit in (config.max_transfer, config.max_discard, config.max_write_zeroes):
        assert limit % block == 0
    assert config.num_queues >= 1
