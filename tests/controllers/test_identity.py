"""What tells one disk from another."""

from __future__ import annotations

import pytest

from virtiod.controllers.identity import CONSTANT_SERIALS, Identity, difference, silence
from virtiod.scsi.parse import Designator
from virtiod.scsi.spec import DesignatorType

DISK = Identity("A", 512, 1 << 20)
CONSTANT, OTHER_CONSTANT = sorted(CONSTANT_SERIALS)[:2]
NAMED, RENAMED = ([Designator(DesignatorType.NAA, name)] for name in (b"1" * 8, b"2" * 8))


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (DISK, DISK),
        (DISK, Identity("A", 512, 1 << 21)),  # it may have grown
        (Identity("", 512, 512), Identity("B", 512, 512)),  # it told none
        (Identity(CONSTANT, 512, 512), Identity(CONSTANT, 512, 512)),
        (Identity(CONSTANT, 512, 512), Identity(OTHER_CONSTANT, 512, 512)),  # another program, perhaps of the same disk
        (Identity(CONSTANT, 512, 512), Identity("", 512, 512)),
        (Identity("A", 512, 512, NAMED), Identity("A", 512, 512, NAMED)),
        (Identity("A", 512, 512), Identity("A", 512, 512, NAMED)),
        (Identity("A", 512, 512, [*NAMED, *RENAMED]), Identity("A", 512, 512, NAMED)),
        (Identity("A", 512, 512, NAMED), Identity("A", 512, 512, [*RENAMED, *NAMED])),
    ],
)
def test_it_can_be_the_same_disk(before: Identity, now: Identity) -> None:
    assert difference(before, now) == ""
    assert silence(before, now) == ""


@pytest.mark.parametrize(
    ("before", "now", "why"),
    [
        (DISK, Identity("", 512, 1 << 20), "it does not tell its serial"),
        (Identity("A", 512, 512, NAMED), Identity("A", 512, 512), "it does not tell its designators"),
        (Identity("", 512, 512, NAMED), Identity("", 512, 512), "it does not tell its designators"),
    ],
)
def test_it_may_be_another_disk_or_the_same(before: Identity, now: Identity, why: str) -> None:
    assert difference(before, now) == ""
    assert silence(before, now) == why


@pytest.mark.parametrize(
    ("before", "now", "why"),
    [
        (DISK, Identity("B", 512, 1 << 20), "its serial is 'B', it was 'A'"),
        (DISK, Identity(CONSTANT, 512, 1 << 20), f"its serial is {CONSTANT!r}, it was 'A'"),
        (Identity(CONSTANT, 512, 512), Identity("B", 512, 512), f"its serial is 'B', it was {CONSTANT!r}"),
        (DISK, Identity("A", 4096, 1 << 20), "its block size is 4096, it was 512"),
        (DISK, Identity("A", 512, (1 << 20) - 512), "it has 1048064 bytes, it had 1048576"),
        (Identity(CONSTANT, 512, 1024), Identity(CONSTANT, 512, 512), "it has 512 bytes, it had 1024"),
        (Identity("A", 512, 512, NAMED), Identity("A", 512, 512, RENAMED), "its designators are others"),
        (DISK, Identity("", 512, 512), "it has 512 bytes, it had 1048576"),
    ],
)
def test_it_is_another_disk(before: Identity, now: Identity, why: str) -> None:
    assert difference(before, now) == why
