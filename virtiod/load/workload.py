"""A workload for the load generator, and the check of whether a bdev can do it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from virtiod.bdev import Bdev
from virtiod.core.errors import InvalidArgument

Rw = Literal["randread", "randwrite", "randrw", "read", "write", "verify"]  # the names of PATTERNS
DEFAULT_RW: Rw = "randread"
MIN_BLOCK = 512  # bytes, and what a block size is a multiple of
MAX_QUEUE_DEPTH = 65536


class Pattern(NamedTuple):
    """An access pattern. random: random addresses, else sequential ones. reads: per cent, or None where the workload
    says it. verify: what was written is read back and compared."""

    random: bool
    reads: int | None
    verify: bool = False


PATTERNS: dict[str, Pattern] = {
    "randread": Pattern(random=True, reads=100),
    "randwrite": Pattern(random=True, reads=0),
    "randrw": Pattern(random=True, reads=None),
    "read": Pattern(random=False, reads=100),
    "write": Pattern(random=False, reads=0),
    "verify": Pattern(random=True, reads=0, verify=True),
}


@dataclass(frozen=True)
class Workload:
    """A load. rw: one of PATTERNS. block_size: bytes of an I/O. queue_depth: for each bdev and poller. time_s or
    total_bytes (of each bdev) end it, whichever comes first. rw_mix_read: per cent of reads with randrw. seed: of
    addresses and data, None for a random one."""

    rw: str = DEFAULT_RW
    block_size: int = 4096
    queue_depth: int = 32
    time_s: float | None = None
    total_bytes: int | None = None
    rw_mix_read: int = 50
    seed: int | None = None

    @property
    def pattern(self) -> Pattern:
        """The pattern that rw names; KeyError for an unknown name."""
        return PATTERNS[self.rw]

    @property
    def reads(self) -> int:
        """The share of reads, in per cent."""
        return self.rw_mix_read if self.pattern.reads is None else self.pattern.reads

    @property
    def writes(self) -> bool:
        """Whether it writes, and so destroys the data on a bdev."""
        return self.pattern.reads != 100

    def ios_of(self, jobs: int) -> int:
        """How many I/Os each of so many jobs on a bdev does; 0 for no limit."""
        return -(-(self.total_bytes or 0) // (self.block_size * jobs))

    def total_ios(self, bdevs: int, jobs: int) -> int:
        """How many I/Os end when so many jobs on each of so many bdevs are done; 0 for no limit."""
        return bdevs * jobs * self.ios_of(jobs) * (2 if self.pattern.verify else 1)

    def check(self) -> None:
        """Raises InvalidArgument for what no bdev could do."""
        if self.rw not in PATTERNS:
            raise InvalidArgument(f"rw {self.rw!r}: must be one of {', '.join(PATTERNS)}")
        if self.block_size < MIN_BLOCK or self.block_size % MIN_BLOCK:
            raise InvalidArgument(f"block_size {self.block_size}: must be a multiple of {MIN_BLOCK}")
        if not 1 <= self.queue_depth <= MAX_QUEUE_DEPTH:
            raise InvalidArgument(f"queue_depth {self.queue_depth}: must be from 1 to {MAX_QUEUE_DEPTH}")
        if not 0 <= self.rw_mix_read <= 100:
            raise InvalidArgument(f"rw_mix_read {self.rw_mix_read}: must be from 0 to 100")
        if self.time_s is not None and self.time_s <= 0:
            raise InvalidArgument(f"time_s {self.time_s:g}: must be positive")
        if self.total_bytes is not None and self.total_bytes < self.block_size:
            raise InvalidArgument(f"total_bytes {self.total_bytes}: must be at least block_size {self.block_size}")

    def check_bdev(self, bdev: Bdev, jobs: int) -> None:
        """Raises InvalidArgument for what this bdev can't do with so many jobs on it."""
        if self.block_size % bdev.block_size:
            raise InvalidArgument(f"block_size {self.block_size}: bdev {bdev.name} has blocks of {bdev.block_size}")
        if self.writes and bdev.read_only:
            raise InvalidArgument(f"rw {self.rw}: bdev {bdev.name} is read-only")
        places = jobs * self.queue_depth if self.pattern.verify else jobs
        if bdev.size // self.block_size < places:
            raise InvalidArgument(
                f"bdev {bdev.name} of {bdev.size} bytes is too small for {places} places of {self.block_size}"
            )


@dataclass(frozen=True)
class JobSpec:
    """One job's share of a workload: part number `part` of `parts` jobs on a bdev of `size` bytes.

    ios: how many to do (a verifying one is a write and a read), 0 for no limit.
    """

    workload: Workload
    size: int
    seed: int
    ios: int = 0
    part: int = 0
    parts: int = 1
