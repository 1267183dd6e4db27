"""Who is at the other end of a connection: a process of this machine, or an address."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv6Address, ip_address, ip_network
from typing import NamedTuple, Protocol

_CREDENTIALS = struct.Struct("iII")  # struct ucred


class Socket(Protocol):
    """What is needed of one: asyncio's own transports show no more of theirs."""

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...


class Credentials(NamedTuple):
    """Of the process that connected to a Unix socket, at that moment (SO_PEERCRED, unix(7))."""

    pid: int
    uid: int
    gid: int


def credentials(connected: Socket) -> Credentials:
    return Credentials(
        *_CREDENTIALS.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    )


class Peer(NamedTuple):
    """name: for people. origin: what all connections of one client have in common. part: what tells those of one
    process from others of the same user; "" where nothing does."""

    name: str
    origin: str
    part: str = ""


def peer_of(connected: socket.socket) -> Peer:
    """Process and user of a Unix socket, address of a TCP one. Raises OSError when it has gone already."""
    if connected.family == socket.AF_UNIX:
        who = credentials(connected)
        return Peer(f"pid {who.pid} uid {who.uid}", f"uid {who.uid}", f"pid {who.pid}")
    host, port = connected.getpeername()[:2]
    return Peer(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", origin(host))


def origin(address: str) -> str:
    """What addresses of one client have in common: an IPv6 host can choose among those of its /64."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return address
    return str(found.ipv4_mapped or ip_network((found, 64), strict=False))
