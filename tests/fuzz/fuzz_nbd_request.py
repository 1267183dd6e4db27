"""Whatever an NBD client sends, it is answered as the protocol says or its connection ends, and nothing is left.

The first byte chooses the size of the pieces in which the rest arrives, and by its low bit whether the rest begins with
the negotiation or is all transmission. What the compiled half answers is compared with each request judged by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from collections.abc import Iterable

from virtiod.bdev import Bdev, BdevInfo
from virtiod.bdev.channel import BdevChannels
from virtiod.bdev.null_io import connect_null
from virtiod.core.memory import DmaMemory
from virtiod.exports.nbd.connection import NbdConnection, NbdPoller
from virtiod.exports.nbd.export import transmission_flags
from virtiod.exports.nbd.handshake import ExportInfo, Handshake, Phase, Refused
from virtiod.exports.nbd.request import judge
from virtiod.exports.nbd.wire import Reply
from virtiod.poller.buffers import PollerBuffers
from virtiod.poller.poller import Control, Poller

SIZE = 1 << 30
LARGE_BUFFERS = 16
MAX_PAYLOAD = LARGE_BUFFERS << 16
FLAGS = transmission_flags({"flush", "unmap", "write_zeroes"}, False)
EXPORT = ExportInfo("disk", "a disk", SIZE, FLAGS, 512, 4096, MAX_PAYLOAD)
READ, WRITE, DISC = 0, 1, 2
DEADLINE_S = 60


class _Exports:
    def offered(self) -> Iterable[ExportInfo]:
        return [EXPORT]

    def find(self, name: str, *, to_connect: bool) -> ExportInfo:
        if name not in {"", "disk"}:
            raise Refused(Reply.ERR_UNKNOWN, f"no export {name!r}")
        return EXPORT


def fuzz(data: bytes) -> None:
    choice, data = (data[0] if data else 0), data[1:]
    if choice & 1:
        whole, pieces = _negotiate(data, len(data) or 1), _negotiate(data, 1 + choice % 7)
        assert whole == pieces, f"{whole} in one piece, {pieces} in several"
        phase, _, data = whole
        if phase is not Phase.TRANSMISSION:
            return
    leftover = len(data) // 2 if choice & 2 else 0
    sent, requests = asyncio.run(asyncio.wait_for(_transmit(data, leftover, 1 + (choice << 4)), DEADLINE_S))
    expected = _expected(data)
    assert _replies(sent) == expected, f"{_replies(sent)} instead of {expected}"
    assert requests >= expected.total()


def _negotiate(data: bytes, piece: int) -> tuple[Phase, bytes, bytes]:
    """(phase at the end, all replies, what follows the negotiation)."""
    handshake = Handshake(_Exports())
    answer = b""
    for start in range(0, len(data), piece):
        handshake.feed(data[start : start + piece])
        while (part := handshake.next_reply()) is not None:
            answer += part
        if handshake.phase is Phase.CLOSED:
            assert handshake.reason
            return handshake.phase, answer, b""
        if handshake.phase is Phase.TRANSMISSION:
            return handshake.phase, answer, handshake.leftover + data[start + piece :]
    return handshake.phase, answer, b""


async def _transmit(data: bytes, leftover: int, piece: int) -> tuple[bytes, int]:
    """Serves one connection on a null bdev: all that is sent to the client, and the requests counted."""
    memory = DmaMemory(4 << 20)
    control = Control()
    control.attach(asyncio.get_running_loop())
    poller = Poller(control, 0, -1)
    buffers = PollerBuffers(memory, 16, LARGE_BUFFERS)
    channels = BdevChannels([poller])
    connect_null(channels)
    Bdev("Null0", BdevInfo(512, SIZE // 512), channels)
    ended = asyncio.Event()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    poller.start()
    connection = NbdConnection(
        *(NbdPoller(poller, buffers), channels, ours.detach()),
        name="disk",
        flags=FLAGS,
        structured=True,
        leftover=data[:leftover][:16384],
        on_end=lambda reason: ended.set(),
    )
    connection.start()
    sending = asyncio.create_task(_send(theirs, data[min(leftover, 16384) :], piece))
    try:
        sent = await _receive(theirs)
        await ended.wait()
        await sending
        stats = buffers.stats()
        assert (stats["small_free"], stats["large_free"]) == (16, LARGE_BUFFERS)
        assert channels.in_flight() == connection.counters().in_flight == 0
        return sent, connection.counters().requests
    finally:
        sending.cancel()
        theirs.close()
        poller.stop()
        control.detach()
        buffers.close()
        memory.close()


async def _send(sock: socket.socket, data: bytes, piece: int) -> None:
    with contextlib.suppress(ConnectionError):  # what is no request ends it
        for start in range(0, len(data), piece):
            await asyncio.get_running_loop().sock_sendall(sock, data[start : start + piece])
        sock.shutdown(socket.SHUT_WR)


async def _receive(sock: socket.socket) -> bytes:
    found = bytearray()
    with contextlib.suppress(ConnectionResetError):  # it was closed before it had read all
        while part := await asyncio.get_running_loop().sock_recv(sock, 1 << 20):
            found += part
    return bytes(found)


def _expected(data: bytes) -> Counter[tuple[int, int, int]]:
    """(cookie, error, bytes of data) of each reply, by judging one request after another."""
    found: Counter[tuple[int, int, int]] = Counter()
    while (request := judge(data, SIZE, 512, FLAGS, max_payload=MAX_PAYLOAD)) is not None and request.type != DISC:
        data = data[28:]
        if request.type == WRITE:
            if len(data) < request.length:
                break
            data = data[request.length :]
        found[request.cookie, request.error, request.length if (request.type, request.error) == (READ, 0) else 0] += 1
    return found


def _replies(data: bytes) -> Counter[tuple[int, int, int]]:
    found: Counter[tuple[int, int, int]] = Counter()
    while data:
        if data[:4] == b"\x67\x44\x66\x98":
            error, cookie = struct.unpack_from(">IQ", data, 4)
            found[cookie, error, 0] += 1
            data = data[16:]
            continue
        magic, flags, kind, cookie, length = struct.unpack_from(">IHHQI", data)
        assert (magic, flags) == (0x668E33EF, 1)
        assert len(data) >= 20 + length
        if kind == 1:
            found[cookie, 0, length - 8] += 1
        else:
            error, size = struct.unpack_from(">IH", data, 20)
            assert (kind, size) == (0x8001, length - 6)
            assert error
            data[26 : 20 + length].decode("ascii")
            found[cookie, error, 0] += 1
        data = data[20 + length :]
    return found
