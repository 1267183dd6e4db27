"""An NBD client that sends requests without waiting, and sees every reply. Simple replies only."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from tests.support.waiting import PATIENCE_S

READ, WRITE, DISCONNECT, FLUSH, TRIM = range(5)
OPT_GO = 7
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3
REP_ACK, REP_INFO = 1, 3
REQUEST_MAGIC, REPLY_MAGIC = 0x25609513, 0x67446698


class NbdClient:
    """Connected to an export; `size` is what it was told. Use as a context."""

    def __init__(self, path: Path, export: str, seconds: float = PATIENCE_S) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(seconds)
        self.sock.connect(str(path))
        self.size = 0
        self._lengths: dict[int, int] = {}  # of the READs that wait for an answer, by cookie
        assert self._receive(18)[:16] == b"NBDMAGICIHAVEOPT"
        name = export.encode()
        data = struct.pack(f">I{len(name)}sHH", len(name), name, 1, INFO_BLOCK_SIZE)
        self.sock.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", OPT_GO, len(data)) + data)
        kind = REP_INFO
        while kind == REP_INFO:
            _, _, kind, length = struct.unpack(">QIII", self._receive(20))
            info = self._receive(length)
            if kind == REP_INFO and info[:2] == struct.pack(">H", INFO_EXPORT):
                (self.size,) = struct.unpack_from(">Q", info, 2)
        assert kind == REP_ACK, hex(kind)

    def __enter__(self) -> NbdClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.sock.recv(size - len(data))
            if not more:
                raise EOFError(f"the server hung up after {len(data)} of {size} bytes")
            data += more
        return data

    def send(self, kind: int, cookie: int, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0) -> None:
        """One request; data is a WRITE's."""
        length = len(data) or length
        self._lengths[cookie] = length if kind == READ else 0
        self.sock.sendall(struct.pack(">IHHQQI", REQUEST_MAGIC, flags, kind, cookie, offset, length) + data)

    def reply(self) -> tuple[int, int, bytes]:
        """Cookie, error (0: none) and data of the next reply; EOFError when the server hung up."""
        magic, error, cookie = struct.unpack(">IIQ", self._receive(16))
        assert magic == REPLY_MAGIC
        length = self._lengths.pop(cookie)
        return cookie, error, b"" if error else self._receive(length)

    def ask(self, kind: int, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0) -> tuple[int, bytes]:
        """Error and data of one request, with nothing else in flight."""
        self.send(kind, 1, offset, length, data, flags)
        _, error, found = self.reply()
        return error, found
