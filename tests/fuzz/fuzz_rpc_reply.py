"""What a daemon answers, as the client takes it: answers to what was asked, or a BadReply, and never anything worse."""

from __future__ import annotations

from rpc_client import BadReply, MethodError
from rpc_client.protocol import Lines, Session


def fuzz(data: bytes) -> None:
    session = Session()
    waiting = {session.request(method, None)[0] for method in ("first", "second", "third")}
    session.drop(2)
    waiting.discard(2)
    lines = Lines(4096)
    piece = 1 + (data[0] if data else 0) % 16  # the first byte chooses the size of the pieces
    try:
        for start in range(0, len(data), piece):
            for line in lines.feed(data[start : start + piece]):
                assert b"\n" not in line
                for answer in session.answers(line):
                    assert answer.error is None or isinstance(answer.error, MethodError)
                    waiting.remove(answer.id)
    except BadReply:
        pass
