"""The vhost-user messages: what is accepted, what is refused, and that both sides agree."""

from __future__ import annotations

import pytest

from virtiod.core.errors import ProtocolError
from virtiod.transports.vhost_user import wire
from virtiod.transports.vhost_user.wire import Frame, FrameReader, MemoryRegion, Request
from virtiod.virtio.features import feature_names

REGION = MemoryRegion(0x10000, 0x2000, 0x7F0000000000, 0x1000)


def read(data: bytes, step: int = 1 << 20) -> Frame:
    reader = FrameReader()
    while True:
        take = min(step, reader.need)
        assert data, "the reader wants more than the message has"
        frame = reader.feed(data[:take])
        data = data[take:]
        if frame is not None:
            assert not data
            return frame


@pytest.mark.parametrize("payload", [b"", b"12345678", bytes(wire.MAX_PAYLOAD)])
@pytest.mark.parametrize("step", [1, 5, 1000])
def test_a_message_is_read_from_pieces_of_any_size(payload: bytes, step: int) -> None:
    frame = read(wire.pack(Request.SET_FEATURES, payload, wire.FLAG_NEED_REPLY), step)
    assert frame == Frame(Request.SET_FEATURES, wire.VERSION | wire.FLAG_NEED_REPLY, payload)
    assert frame.need_reply
    assert not frame.is_reply


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ((1, 0, 8), "GET_FEATURES: header flags 0x0"),
        ((1, 2, 8), "GET_FEATURES: header flags 0x2"),
        ((24, 3 | 4, 8), "GET_CONFIG: header flags 0x7"),
        ((1, 1 | 16, 8), "GET_FEATURES: header flags 0x11"),
        ((1, 1 | 4, wire.MAX_PAYLOAD + 1), "GET_FEATURES: payload of 269 bytes is over 268"),
        ((1, 1 | 4, 0xFFFFFFFF), "GET_FEATURES: payload of 4294967295 bytes"),
        ((99, 0, 0), "message 99: header flags"),
    ],
)
def test_an_impossible_header_is_refused_by_name(header: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        FrameReader().feed(wire.HEADER.pack(*header))


def test_a_reply_must_be_marked_and_for_the_request() -> None:
    good = Frame(Request.GET_FEATURES, 1 | wire.FLAG_REPLY, b"x")
    assert wire.check_reply(good, Request.GET_FEATURES) == b"x"
    with pytest.raises(ProtocolError, match="GET_QUEUE_NUM: the reply is for GET_FEATURES"):
        wire.check_reply(good, Request.GET_QUEUE_NUM)
    with pytest.raises(ProtocolError, match="GET_FEATURES: the answer is not marked as a reply"):
        wire.check_reply(good._replace(flags=1), Request.GET_FEATURES)


@pytest.mark.parametrize("size", [0, 7, 9, 16])
def test_a_u64_has_exactly_eight_bytes(size: int) -> None:
    with pytest.raises(ProtocolError, match=f"GET_FEATURES: payload of {size} bytes instead of 8"):
        wire.parse_u64(bytes(size), Request.GET_FEATURES)


@pytest.mark.parametrize("index", [0, 3, 255])
@pytest.mark.parametrize("with_fd", [True, False])
def test_a_vring_descriptor_message_says_whether_it_has_one(index: int, with_fd: bool) -> None:
    payload = wire.pack_vring_fd(index, with_fd)
    assert wire.parse_vring_fd(payload, Request.SET_VRING_KICK) == (index, with_fd)


def test_a_vring_descriptor_message_with_unknown_bits_is_refused() -> None:
    with pytest.raises(ProtocolError, match="SET_VRING_CALL: value 0x200"):
        wire.parse_vring_fd(wire.U64.pack(0x200), Request.SET_VRING_CALL)


@pytest.mark.parametrize("count", [0, 1, 8])
@pytest.mark.parametrize("full", [False, True])
def test_a_memory_table_survives_the_wire(count: int, full: bool) -> None:
    regions = [REGION._replace(guest=i << 20) for i in range(count)]
    payload = wire.pack_mem_table(regions)
    if full:
        payload = payload.ljust(8 + 8 * 32, b"\0")
    assert wire.parse_mem_table(payload) == regions


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"\1\0\0", "no room for a count"),
        (wire.TABLE_HEAD.pack(9, 0) + bytes(9 * 32), "9 regions are over 8"),
        (wire.TABLE_HEAD.pack(2, 0) + bytes(32), "does not hold 2 regions"),
        (wire.pack_mem_table([REGION]) + b"\0", "does not hold 1 region"),
        (wire.pack_mem_table([REGION._replace(size=0)]), "is empty"),
        (wire.pack_mem_table([REGION._replace(guest=(1 << 64) - 4096)]), "guest range .* is too high"),
        (wire.pack_mem_table([REGION._replace(user=(1 << 64) - 1)]), "user range .* is too high"),
        (wire.pack_mem_table([REGION._replace(size=1 << 63)]), "guest range .* is too high"),
        (wire.pack_mem_table([REGION._replace(offset=1 << 63)]), "file range .* is too high"),
    ],
)
def test_a_bad_memory_table_is_refused(payload: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=f"SET_MEM_TABLE: .*{message}"):
        wire.parse_mem_table(payload)


def test_one_region_is_padding_and_a_region() -> None:
    payload = wire.pack_region(REGION)
    assert len(payload) == 40
    assert wire.parse_region(payload, Request.ADD_MEM_REG) == REGION
    with pytest.raises(ProtocolError, match="ADD_MEM_REG: payload of 32 bytes instead of 40"):
        wire.parse_region(payload[8:], Request.ADD_MEM_REG)


@pytest.mark.parametrize(("offset", "size"), [(0, 0), (0, 60), (0, 256), (32, 1), (256, 0)])
def test_a_configuration_range_survives_the_wire(offset: int, size: int) -> None:
    payload = wire.pack_config(offset, b"c" * size)
    assert wire.parse_config(payload, Request.GET_CONFIG) == (offset, b"c" * size)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (bytes(11), "no room for a header"),
        (wire.CONFIG_HEAD.pack(0, 8, 0) + bytes(7), "size 8 does not match the 7 bytes"),
        (wire.CONFIG_HEAD.pack(0, 0xFFFFFFFF, 0) + bytes(7), "does not match"),
        (wire.CONFIG_HEAD.pack(250, 7, 0) + bytes(7), r"range 250\+7 is beyond 256"),
        (wire.CONFIG_HEAD.pack(0xFFFFFFFF, 1, 0) + bytes(1), "is beyond 256"),
    ],
)
def test_a_bad_configuration_range_is_refused(payload: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=f"SET_CONFIG: .*{message}"):
        wire.parse_config(payload, Request.SET_CONFIG)


@pytest.mark.parametrize(
    ("features", "dev_type", "text"),
    [
        (0, None, "0x0"),
        (1 << 32 | 1 << 6, "blk", "0x100000040 (BLK_SIZE, VERSION_1)"),
        (1 << 1, "scsi", "0x2 (HOTPLUG)"),
        (1 << 1 | 1 << 60, None, "0x1000000000000002 (1, 60)"),
    ],
)
def test_features_are_named_for_people(features: int, dev_type: str | None, text: str) -> None:
    assert feature_names(features, dev_type) == text
