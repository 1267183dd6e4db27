"""The JSON-RPC framer: any bytes in any pieces give the same values and the same end, and never anything worse."""

from __future__ import annotations

import json
from typing import Any

from virtiod.rpc.protocol.framer import Framer

LIMITS = {"max_bytes": 4096, "max_values": 256, "max_depth": 16}


def fuzz(data: bytes) -> None:
    whole = _feed(data, len(data) or 1)
    # The first byte chooses the size of the pieces.
    pieces = _feed(data, 1 + (data[0] if data else 0) % 16)
    assert whole[0] == pieces[0], f"{whole} in one piece, {pieces} in several"
    assert (whole[1] is None) == (pieces[1] is None), f"{whole} in one piece, {pieces} in several"
    for value in whole[0]:
        assert isinstance(value, dict | list)
        assert json.loads(json.dumps(value, allow_nan=False, ensure_ascii=False).encode()) == value


def _feed(data: bytes, piece: int) -> tuple[list[Any], str | None]:
    framer = Framer(**LIMITS)
    values: list[Any] = []
    for start in range(0, len(data), piece):
        values += framer.feed(data[start : start + piece])
        assert framer.pending <= LIMITS["max_bytes"] + piece
        if framer.error is not None:
            return values, str(framer.error)
    return values, None
