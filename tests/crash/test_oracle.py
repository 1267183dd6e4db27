"""The oracle on histories that were made up: each kind of violation, and what looks like one and is none.

A history is a line of words about block 7:

    +a        write a is sent; +a:fua, +a:zeroes, +a:trim, and +f:flush, are other requests
    -a  !a    it is acknowledged; it fails
    a         both: +a -a (a:flush is +a:flush -a)
    (r  r)=a  a read is sent; it finds what a wrote
    =a        both; =0 finds zeros, =a|b parts of two, =? what nobody wrote
    kill      the target is killed and comes back; kill( )kill when more happens meanwhile
    image=a   the image without virtiod holds that
"""

from __future__ import annotations

import pytest

from tests.crash import stamp
from tests.crash.finding import Finding
from tests.crash.history import Change, Flush, Read, Request, Write
from tests.crash.oracle import Oracle, Policy
from tests.crash.stamp import BLOCK

SEED = 5
HERE = 7
KINDS = {"": Change.WRITE, "fua": Change.WRITE, "zeroes": Change.ZEROES, "trim": Change.TRIM}


class Story:
    """Tells an oracle a history; `findings` is what it said to that."""

    def __init__(self, policy: Policy = Policy.KEEP) -> None:
        self.oracle = Oracle(SEED, policy)
        self.requests: dict[str, Request] = {}
        self.findings: list[Finding] = []

    def tell(self, history: str) -> str:
        """The verdicts on all findings, one after the other."""
        for word in history.split():
            self._word(word)
        return " ".join(verdict for finding in self.findings for verdict in finding.verdicts)

    def _word(self, word: str) -> None:
        head, _, tail = word.partition("=")
        if head == "image":
            self.findings += self.oracle.image(HERE, self._holds(tail))
        elif word.startswith("kill"):
            self._kill(word)
        elif word.startswith("("):
            self.requests[word[1:]] = self.oracle.read(1, 99, HERE, 1)
        elif head.endswith(")"):
            self.findings += self.oracle.end(self.requests[head[:-1]], 0, self._holds(tail))
        elif not head:
            self._word("(r")
            self._word(f"r)={tail}")
        elif word[0] in "-!":
            self.findings += self.oracle.end(self.requests[word[1:]], 5 * (word[0] == "!"))
        else:
            self._send(*word.removeprefix("+").split(":"))
            if word[0] != "+":
                self._word(f"-{word.partition(':')[0]}")

    def _send(self, name: str, kind: str = "") -> None:
        number = len(self.requests)
        if kind == "flush":
            self.requests[name] = self.oracle.flush(1, number)
        else:
            self.requests[name] = self.oracle.write(1, number, KINDS[kind], HERE, 1, kind == "fua")

    def _kill(self, word: str) -> None:
        if word != ")kill":
            self.oracle.killing()
        if word != "kill(":
            self.oracle.killed()

    def _holds(self, names: str) -> bytes:
        """The bytes of a block that those wrote, or parts of."""
        parts = [self._wrote(name) for name in names.split("|")]
        size = BLOCK // len(parts)
        return b"".join(part[:size] for part in parts)

    def _wrote(self, name: str) -> bytes:
        if name == "0":
            return bytes(BLOCK)
        if name == "?":
            return b"what is it?!... " * (BLOCK // 16)
        return stamp.data(SEED, 1, self.requests[name].number, HERE, 1)


GOOD = {
    "nothing was written": "=0",
    "what was written last": "a b =b",
    "a write under way, or not yet": "a +b =a =b -b =b",
    "either of two concurrent writes": "+a +b -a -b =a =a",
    "a write that was sent during the read": "a (r +b r)=b -b",
    "the old value while a newer one is acknowledged during the read": "a (r b r)=a",
    "a failed write is there": "a +b !b =b =b",
    "a failed write is not there": "a +b !b =a =a",
    "a write that never was answered is there after a kill": "a +b kill =b",
    "a write that never was answered is not there after a kill": "a +b kill =a",
    "a write happens again before it is acknowledged": "+a +b kill =b =a -a -b",
    "concurrent writes change their order when they are written again": "+a +b -a -b =a kill =b",
    "zeros": "a z:zeroes =0",
    "zeros, written by two": "a +y:zeroes +z:zeroes -y -z =0 kill =0",
    "a trim leaves the old value": "a t:trim =a =a",
    "a trim leaves zeros": "a t:trim =0 =0",
    "a trim leaves now this and now that": "a t:trim =0 =a =0 kill =a",
    "a trim under way": "a +t:trim =0 =a -t =0",
    "a value after a trim": "a t:trim b =b",
    "a flush and a kill": "a f:flush kill =a",
    "FUA and a kill": "a:fua kill =a",
    "a write is kept over a kill": "a kill =a",
    "kept writes are written again in order": "a b kill =b",
    "a read is answered after the kill that it was sent before": "a (r kill( b )kill r)=a",
    "a torn block during a write": "a (r +b r)=a|b -b",
    "a torn block during a trim": "a +t:trim =a|0 -t",
    "a torn block of zeros during a write": "+b =0|b -b =b",
    "the image lacks what was not flushed": "a f:flush b kill image=a =b",
    "the image has what was not flushed": "a f:flush b kill image=b =b",
    "the image has what was flushed": "a f:flush kill image=a",
    "the image has what was written with FUA": "a b:fua kill image=b",
    "the image lacks what a flush that was too early did not cover": "+f:flush a -f kill image=0",
    "the image lacks what a failed flush should have covered": "a +f:flush !f kill image=0",
    "the image holds anything after a trim": "a f:flush t:trim kill image=? =0",
    "the image holds anything while zeroes are under way": "a f:flush +z:zeroes kill image=? =a -z",
    "a flush over a kill, and all is there": "a +f:flush kill -f =a image=a",
}

BAD = {
    "a value that was replaced": ("a b =a", "stale"),
    "nothing where something was written": ("a =0", "stale"),
    "a failed write that happens after a newer one": ("+a !a b =a", "stale"),
    "a replaced value is back after the newer one had been read": ("a b =b =a", "doubled"),
    "the order of concurrent writes changes while the target lives": ("+a +b -a -b =a =b =a", "doubled"),
    "a write that is not answered is there and then not": ("a +b =b =a -b", "doubled"),
    "zeros that were replaced": ("z:zeroes a =0", "stale"),
    "a value that zeros replaced": ("a z:zeroes =a", "stale"),
    "a value that zeros replaced before a trim": ("a z:zeroes t:trim =a", "stale"),
    "a trim happens after a newer write": ("a t:trim b =0", "stale"),
    "a trim after a newer write and a kill": ("a t:trim b kill =0", "lost-kept"),
    "a torn block at rest": ("+a +b -a -b =a|b", "torn"),
    "a torn block long after": ("a b kill =a|b", "torn"),
    "a torn block during a write, with an old value": ("a b (r +c r)=a|c -c", "stale"),
    "bytes that nobody wrote": ("a =?", "foreign"),
    "a block torn by bytes that nobody wrote": ("a +b =a|? -b", "foreign"),
    "an acknowledged write is lost": ("a kill =0", "lost-kept"),
    "one of two acknowledged writes is lost": ("a b kill =a", "lost-kept"),
    "a write that came back is lost at the next kill": ("a kill =a kill =0", "lost-kept"),
    "a write that was acknowledged while the target was dying is lost": ("+a kill( -a )kill =0", "lost-kept"),
    "zeros are lost": ("a z:zeroes kill =a", "lost-kept"),
    "a flushed write is lost": ("a f:flush kill =0", "lost-stable"),
    "a flushed write is lost at a later kill": ("a f:flush kill =a kill =0", "lost-stable"),
    "flushed, and a later one not": ("a f:flush b kill =0", "lost-stable"),
    "a write with FUA is lost": ("a:fua kill =0", "lost-stable"),
    "a write with FUA is overwritten by an older one that is written again": ("a b:fua kill =a", "lost-stable"),
    "FUA that was sent before the kill and acknowledged after it": ("+a:fua kill -a =0", "lost-stable"),
    "a flush answers well after the loss": ("a kill f:flush =0", "lost-stable lied"),
    "a flush over the kill answers well": ("a +f:flush kill -f =0", "lost-stable lied"),
    "a flush answers well after the loss was seen": ("a kill =0 f:flush =0", "lost-kept lied"),
    "a write after the kill, and a flush, and the next kill": ("+a kill -a f:flush kill =0", "lost-stable lied"),
    "a loss is found once": ("a kill =0 =0 kill =0", "lost-kept"),
    "two losses": ("a kill =0 b kill =0", "lost-kept lost-kept"),
    "the image lacks what was flushed": ("a f:flush kill image=0", "lost-stable"),
    "the image lacks what was written with FUA": ("a:fua kill image=0", "lost-stable"),
    "the image lacks what was flushed after the return": ("a kill f:flush kill image=0", "lost-stable lied"),
    "the image is torn": ("a b kill image=a|b", "torn"),
    "the image holds anything after a trim that was flushed": ("a t:trim f:flush kill image=?", "foreign"),
}

BY_POLICY = {
    "reported: a loss that no flush has covered": (Policy.REPORT, "a kill =0", ""),
    "reported: the flush after the loss fails": (Policy.REPORT, "a kill +f:flush !f g:flush =0 kill =0", ""),
    "reported: the flush after the loss answers well": (Policy.REPORT, "a kill f:flush =0", "lost-stable lied"),
    "reported: the same, and the loss was seen before": (Policy.REPORT, "a kill =0 f:flush", "lied"),
    "reported: what was flushed is lost": (Policy.REPORT, "a f:flush kill =0", "lost-stable"),
    "reported: lost without a kill": (Policy.REPORT, "a b =a", "stale"),
    "reported: flushed again after the report": (Policy.REPORT, "a kill +f:flush !f b g:flush kill =0", "lost-stable"),
    "reported: a loss does not excuse what came after it": (Policy.REPORT, "a kill =0 b =0", "stale"),
    "ignored: a loss": (Policy.IGNORE, "a kill f:flush =0", ""),
    "ignored: what was flushed before the kill is lost": (Policy.IGNORE, "a f:flush kill =0", "lost-stable"),
    "ignored: what was written after the kill is lost": (Policy.IGNORE, "a kill b f:flush kill =0", "lost-stable"),
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD.keys())
def test_finds_nothing_wrong_with(history: str) -> None:
    assert Story().tell(history) == ""


@pytest.mark.parametrize(("history", "verdicts"), BAD.values(), ids=BAD.keys())
def test_finds(history: str, verdicts: str) -> None:
    assert Story().tell(history) == verdicts


@pytest.mark.parametrize(("policy", "history", "verdicts"), BY_POLICY.values(), ids=BY_POLICY.keys())
def test_a_policy_decides_what_may_be_lost(policy: Policy, history: str, verdicts: str) -> None:
    assert Story(policy).tell(history) == verdicts


@pytest.mark.parametrize(
    ("history", "verdicts"),
    [
        ("a (r +b r)=0 =a -b", ""),
        ("a (r +b r)=a|0 -b", ""),
        ("a f:flush +b kill image=0 -b", ""),
        ("a +b -b =0", "stale"),
        ("a f:flush b kill image=0", "lost-stable"),
    ],
)
def test_some_targets_zero_a_block_before_they_write_to_it(history: str, verdicts: str) -> None:
    story = Story()
    story.oracle.zeros_first = True
    assert story.tell(history) == verdicts


def test_a_block_of_another_place_is_foreign() -> None:
    oracle = Oracle(SEED)
    write = oracle.write(1, 1, Change.WRITE, 10, 4)
    oracle.end(write, 0)
    read = oracle.read(1, 2, 10, 2)
    (finding,) = oracle.end(read, 0, stamp.data(SEED, 1, 1, 11, 1) + stamp.data(SEED, 1, 1, 11, 1))
    assert finding.verdicts == ("foreign",)
    assert finding.blocks == [10]
    assert "block 11 of user 1 #1: write of blocks 10-13" in finding.text


def test_a_block_of_another_run_is_foreign() -> None:
    oracle = Oracle(SEED)
    (finding,) = oracle.end(oracle.read(1, 2, 10, 1), 0, stamp.data(SEED + 1, 1, 1, 10, 1))
    assert "block 10 of a run with seed 6" in finding.text


def test_a_finding_names_all_blocks_that_lack_the_same_write() -> None:
    oracle = Oracle(SEED)
    oracle.end(oracle.write(1, 1, Change.WRITE, 10, 6), 0)
    oracle.end(oracle.write(2, 1, Change.WRITE, 12, 2, fua=True), 0)
    oracle.killing()
    oracle.killed()
    findings = oracle.end(oracle.read(3, 1, 8, 10), 0, bytes(10 * BLOCK))
    assert [(finding.verdicts, finding.blocks) for finding in findings] == [
        (("lost-kept",), [10, 11, 14, 15]),
        (("lost-stable",), [12, 13]),
    ]


def test_a_finding_comes_with_what_happened_to_the_block() -> None:
    story = Story()
    story.tell("z:zeroes a e:flush f:flush =a +b kill =0")
    (finding,) = story.findings
    assert finding.text == "a read found zeros instead of user 1 #1: write of block 7"
    assert [line[8:] for line in finding.history] == [
        "user 1 #1: write of block 7: sent",
        "user 1 #1: write of block 7: acknowledged",
        "user 1 #2: flush: sent",
        "user 1 #2: flush: acknowledged",
        "a read found user 1 #1: write of block 7",
        "user 1 #5: write of block 7: sent",
        "kill 1",
        "kill 1: the target is gone",
        "a read found zeros",
    ]


def test_stamps_tell_whole_blocks_from_torn_ones() -> None:
    block = stamp.data(SEED, 3, 70_000, 9, 1)
    assert len(block) == BLOCK
    assert stamp.pieces(block) == (stamp.Stamp(3, SEED, 70_000, 9),)
    assert stamp.pieces(bytes(BLOCK)) == (None,)
    assert stamp.pieces(block[:256] + bytes(256)) == (stamp.Stamp(3, SEED, 70_000, 9), None)
    assert stamp.pieces(block[:496] + b"no stamp at all.")[1:] == (b"no stamp at all.",)


def test_the_requests_of_a_history_are_of_their_kinds() -> None:
    story = Story()
    story.tell("a f:flush (r r)=a")
    assert [type(request) for request in story.requests.values()] == [Write, Flush, Read]
