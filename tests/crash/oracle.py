"""The rule: what a read may find, and what it means when it finds something else.

Each block of 512 bytes is a register. `history` says what "before" and "after" mean: a request is before another if it
was answered before the other was sent; requests of which neither is before the other are concurrent.

- Writes and write-zeroes that were acknowledged take effect in that order; concurrent ones in any order, and in another
  one after each kill, as they may be written again.
- One that was not answered yet may have happened or not, and may happen (again) until it is acknowledged or failed.
  One that failed may be there or not, but does not happen any more.
- A trim leaves the old value or zeros, and not always the same of the two, until something is written.

So a read may find a value unless that is *replaced*: by a write that was acknowledged before the read was sent, and
sent after the value's own request had ended. What a read found replaces in the same way what is before the read, but
only as long as the target lives: after a kill concurrent writes may have changed their order.

A value that is replaced is a finding. It depends on the newest write W that replaces it:

- LOST_STABLE: the target was killed since W was sent, and W was stable: it had FUA, or a flush that was sent after
  W's acknowledgement succeeded before the read was sent.
- LIED, beside that: there was a kill between W's sending and the end of that flush, and no flush failed in between, so
  that the flush said of what was gone that it is there. (Also when the loss was seen first and the flush came after.)
- LOST_KEPT: the target was killed, W was acknowledged and is not stable. No finding unless writes are kept.
- STALE: the target was not killed. DOUBLED: and a read had found a newer value already.
- TORN: a block of several values while no write of it is under way. FOREIGN: of none that was written to it.

A write that was found to be lost replaces nothing afterwards, so that each loss is found once.

Policies: writes are KEPT until they are stable; or a loss is REPORTed by the next flush, which fails; or IGNOREd, and
only a flush that ended before the kill counts.

An image read without virtiod, while the target is dead, needs to have what is stable and nothing else; and a block to
which a trim or zeroes that are not stable were sent may hold anything: qcow2 gives its cluster to others before it says
so on disk.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterator
from typing import NamedTuple

from tests.crash import stamp
from tests.crash.finding import Finding, Verdict
from tests.crash.history import NEVER, Change, Flush, Kill, Read, Request, Write
from tests.crash.stamp import BLOCK, Piece, Stamp

HISTORY_LINES = 40
SEEN = 16  # of a block that are remembered: to forget one only makes the rule milder


class Policy(enum.StrEnum):
    KEEP = "keep"
    REPORT = "report"
    IGNORE = "ignore"


class Seen(NamedTuple):
    """A read found this, while the target lived."""

    piece: Piece
    sent: int
    ended: int


class Look(NamedTuple):
    """A read that is judged. image: past virtiod."""

    sent: int
    ended: int
    image: bool

    def name(self) -> str:
        return "the image" if self.image else "a read"


class Found(NamedTuple):
    """What was found when, and by what."""

    piece: Piece
    when: int
    by: str


class Wrong(NamedTuple):
    """Why a block may not hold what it holds. expected: what should be there."""

    verdicts: tuple[Verdict, ...]
    expected: Write | None
    found: str


class Oracle:
    """Told of all that happens, in order, it judges what is read.

    seed: in the stamps of all writes. zeros_first: a target that may zero a block before it writes to it, so that zeros
    are there while a write of it is under way.
    """

    def __init__(self, seed: int, policy: Policy = Policy.KEEP, zeros_first: bool = False) -> None:
        self.seed = seed & 0xFFFFFFFF
        self.policy = policy
        self.zeros_first = zeros_first
        self.kills: list[Kill] = []
        self._time = itertools.count(1)
        self._epoch = 0  # counts beginnings and ends of kills
        self._by_name: dict[tuple[int, int], Write] = {}
        self._changes: dict[int, list[Write]] = {}  # by block, as sent
        self._zeros: dict[int, list[Write]] = {}  # those of them that can leave zeros
        self._seen: dict[int, list[Seen]] = {}  # in this epoch
        self._found: dict[int, list[Found]] = {}  # when it changed
        self._gone: list[Write] = []  # found to be lost by the read that is being judged
        self._unstable: list[Write] = []  # acknowledged
        self._flushes: list[Flush] = []

    # ---- what happens

    def write(self, user: int, number: int, kind: Change, first: int, count: int, fua: bool = False) -> Write:
        """It is about to be sent."""
        write = Write(user=user, number=number, sent=next(self._time), kind=kind, first=first, count=count, fua=fua)
        self._by_name[user, number] = write
        for block in range(first, first + count):
            self._changes.setdefault(block, []).append(write)
            if kind is not Change.WRITE:
                self._zeros.setdefault(block, []).append(write)
        return write

    def flush(self, user: int, number: int) -> Flush:
        """It is about to be sent."""
        flush = Flush(user=user, number=number, sent=next(self._time))
        self._flushes.append(flush)
        return flush

    def read(self, user: int, number: int, first: int, count: int) -> Read:
        """It is about to be sent."""
        sent = next(self._time)
        return Read(user=user, number=number, sent=sent, first=first, count=count, epoch=self._epoch)

    def end(self, request: Request, error: int, data: bytes = b"") -> list[Finding]:
        """Its reply has come. data: what a read found."""
        request.ended = next(self._time)
        request.error = error
        if isinstance(request, Write):
            self._wrote(request)
        elif isinstance(request, Flush):
            return list(self._flushed(request))
        elif isinstance(request, Read) and not error:
            seen = request.epoch == self._epoch
            return self._judge(Look(request.sent, request.ended, False), request.first, data, seen)
        return []

    def killing(self) -> None:
        """The target is about to be killed."""
        self.kills.append(Kill(next(self._time)))
        self._epoch += 1
        self._seen.clear()

    def killed(self) -> None:
        """Its process has exited."""
        self.kills[-1].ended = next(self._time)
        self._epoch += 1

    def image(self, first: int, data: bytes) -> list[Finding]:
        """What the image holds from a block on. The target is dead."""
        now = next(self._time)
        return self._judge(Look(now, now, True), first, data, False)

    # ---- stability

    def _wrote(self, write: Write) -> None:
        if write.error:
            return
        if write.fua:
            write.stable = write
        else:
            self._unstable.append(write)

    def _flushed(self, flush: Flush) -> Iterator[Finding]:
        before, self._unstable = self._unstable, []
        for write in before:
            if flush.error and self._killed_since(write.sent):
                write.told = True
            elif flush.error or write.ended > flush.sent:
                self._unstable.append(write)
            elif self._killed_since(write.ended) and self.policy is Policy.IGNORE:
                write.told = True
            else:
                write.stable = flush
                write.late = self._killed_since(write.sent)
                if write.lost and write.late:
                    text = f"{flush.name()}: succeeded although there is no more {write.name()}"
                    yield Finding((Verdict.LIED,), text, [write.first], self.history(write.first, write))

    def _killed_since(self, time: int) -> bool:
        return bool(self.kills) and self.kills[-1].ended > time

    # ---- judging

    def _judge(self, look: Look, first: int, data: bytes, seen: bool) -> list[Finding]:
        """Each block of data. seen: what is right becomes something that was seen."""
        wrong: dict[Wrong, list[int]] = {}
        for block, at in enumerate(range(0, len(data), BLOCK), first):
            pieces = stamp.pieces(data[at : at + BLOCK])
            if block not in self._changes and pieces == (None,):
                continue
            found = self._judge_block(block, pieces, look)
            if found:
                wrong.setdefault(found, []).append(block)
            self._note(block, pieces, look, seen and not found)
        for write in self._gone:
            write.lost = True
        self._gone.clear()
        return [self._finding(what, blocks, look.name()) for what, blocks in wrong.items()]

    def _note(self, block: int, pieces: tuple[Piece, ...], look: Look, seen: bool) -> None:
        if len(pieces) > 1:
            return
        (piece,) = pieces
        notes = self._found.setdefault(block, [])
        if not notes or notes[-1].piece != piece or notes[-1].by != look.name():
            notes.append(Found(piece, look.ended, look.name()))
        if seen and not (piece is None and (self._may_be_zeros(block, look) or self._may_be_trimmed(block, look))):
            known = self._seen.setdefault(block, [])
            known.append(Seen(piece, look.sent, look.ended))
            del known[:-SEEN]

    def _judge_block(self, block: int, pieces: tuple[Piece, ...], look: Look) -> Wrong | None:
        if look.image and any(write.stable is None for write in self._zeros.get(block, [])):
            return None
        if len(pieces) > 1 and not self._under_way(block, look):
            return Wrong((Verdict.TORN,), None, " and ".join(self._describe(piece, block) for piece in pieces))
        for piece in pieces:
            if piece is None and self._may_be_zeros(block, look):
                continue
            wrong = self._judge_piece(block, piece, look)
            if wrong:
                return wrong
        return None

    def _under_way(self, block: int, look: Look) -> bool:
        """Whether something is changing the block."""
        return any(write.ended > look.sent for write in self._changes.get(block, []))

    def _may_be_zeros(self, block: int, look: Look) -> bool:
        """Whether the target may have zeroed it for a moment."""
        return self.zeros_first and self._under_way(block, look)

    def _judge_piece(self, block: int, piece: Piece, look: Look) -> Wrong | None:
        if piece is None:
            zeroed = max((w.ended for w in self._zeros.get(block, []) if w.kind is Change.ZEROES), default=0)
            trimmed = self._trimmed(block)
            wrong = self._replaced(block, piece, max(zeroed, trimmed), look)
            if wrong or self._may_be_trimmed(block, look):
                return wrong
            return self._overtaken(block, piece, zeroed, look)
        if isinstance(piece, Stamp) and piece.seed == self.seed and piece.block == block:
            write = self._by_name.get((piece.user, piece.number))
            if write is not None:
                wrong = self._replaced(block, piece, write.ended, look)
                return wrong or self._overtaken(block, piece, write.ended, look)
        return Wrong((Verdict.FOREIGN,), None, self._describe(piece, block))

    def _trimmed(self, block: int) -> int:
        """When the last trim of the block ended; -1: there was none."""
        return max((w.ended for w in self._zeros.get(block, []) if w.kind is Change.TRIM), default=-1)

    def _may_be_trimmed(self, block: int, look: Look) -> bool:
        """Whether a trim may have left zeros there."""
        trimmed = self._trimmed(block)
        return trimmed >= 0 and not self._replacing(block, trimmed, look)

    def _replacing(self, block: int, ended: int, look: Look) -> list[Write]:
        """The writes that replaced what ended at that time, newest first, but for those that are known to be lost."""
        found = []
        for write in reversed(self._changes.get(block, [])):
            if write.sent <= ended:
                break
            if write.kind is Change.TRIM or write.ended >= look.sent or write.error:
                continue
            if not write.told and not write.lost:
                found.append(write)
        return found

    def _replaced(self, block: int, piece: Piece, ended: int, look: Look) -> Wrong | None:
        """Whether writes that count replaced what was found, whose request ended at that time."""
        replacing = self._replacing(block, ended, look)
        firm = [write for write in replacing if self._firm(write, look)]
        stable = [write for write in firm if write.stable is not None and write.stable.ended < look.sent]
        self._gone += firm if look.image else replacing
        if not firm:
            return None
        expected = stable[0] if stable else firm[0]
        if not self._killed_since(expected.sent):
            newer = any(seen.piece != piece and seen.sent > ended for seen in self._seen.get(block, []))
            verdicts: tuple[Verdict, ...] = (Verdict.DOUBLED if newer else Verdict.STALE,)
        elif stable:
            verdicts = (Verdict.LOST_STABLE, Verdict.LIED) if expected.late else (Verdict.LOST_STABLE,)
        else:
            verdicts = (Verdict.LOST_KEPT,)
        return Wrong(verdicts, expected, self._describe(piece, block))

    def _firm(self, write: Write, look: Look) -> bool:
        """Whether an acknowledged write must be there."""
        if write.stable is not None and write.stable.ended < look.sent:
            return True
        if self.policy is Policy.KEEP and not look.image:
            return True
        return not self._killed_since(write.sent)

    def _overtaken(self, block: int, piece: Piece, ended: int, look: Look) -> Wrong | None:
        """Whether an earlier read found another value in place of the one whose request ended at that time."""
        for seen in self._seen.get(block, []):
            if seen.piece != piece and seen.sent > ended and seen.ended < look.sent:
                order = f"{self._describe(piece, block)} after {self._describe(seen.piece, block)}"
                return Wrong((Verdict.DOUBLED,), None, order)
        return None

    # ---- in words

    def _describe(self, piece: Piece, block: int) -> str:
        """What was found in a block."""
        if piece is None:
            return "zeros"
        if not isinstance(piece, Stamp):
            return f"bytes nobody wrote ({piece.hex()})"
        if piece.seed != self.seed:
            return f"block {piece.block} of a run with seed {piece.seed}"
        write = self._by_name.get((piece.user, piece.number))
        what = write.name() if write else f"user {piece.user} #{piece.number}, which was never sent"
        return what if piece.block == block else f"block {piece.block} of {what}"

    def _finding(self, wrong: Wrong, blocks: list[int], where: str) -> Finding:
        instead = f" instead of {wrong.expected.name()}" if wrong.expected else ""
        text = f"{where} found {wrong.found}{instead}"
        return Finding(wrong.verdicts, text, blocks, self.history(blocks[0], wrong.expected))

    def history(self, block: int, expected: Write | None) -> list[str]:
        """What happened to a block, a line for each event; since the write that should be there, where there is one."""
        events = [
            (found.when, f"{found.by} found {self._describe(found.piece, block)}")
            for found in self._found.get(block, [])
        ]
        for request in [*self._changes.get(block, []), *self._deciding(expected)]:
            events.append((request.sent, f"{request.name()}: sent"))
            end = "acknowledged" if request.acknowledged else f"failed with {request.error}"
            events.append((request.ended, f"{request.name()}: {end}"))
        for number, kill in enumerate(self.kills, 1):
            events += [(kill.began, f"kill {number}"), (kill.ended, f"kill {number}: the target is gone")]
        since = expected.sent if expected else 0
        lines = [f"{when:>7} {what}" for when, what in sorted(events) if since <= when < NEVER]
        if len(lines) > HISTORY_LINES:
            lines[HISTORY_LINES // 2 : -HISTORY_LINES // 2] = ["    ..."]
        return lines

    def _deciding(self, write: Write | None) -> list[Flush]:
        """The flushes that a write's loss is judged by: the one that covers it, and those that failed."""
        if write is None:
            return []
        return [
            flush for flush in self._flushes if flush is write.stable or (flush.error and flush.ended > write.ended)
        ]
