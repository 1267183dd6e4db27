"""What a seed stands for: what there is, how fast it is, and what happens to it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from virtiod.bdev.keeping import OnLoss
from virtiod.virtio.features import BlkFeature, Feature

SHARED = 96  # blocks that any number of I/Os may use at a time
EXCLUSIVE = 64  # blocks that are zeroed and discarded, too


@dataclass
class DiskPlan:
    """A device. features beside those that it always has; write_back: it has a volatile cache; errors: how many of
    1000 requests fail."""

    features: int
    queues: int
    max_ring: int
    seg_max: int
    size_max: int
    hot_add: bool
    write_back: bool
    delay_ns: int
    errors: int
    on_loss: OnLoss = OnLoss.KEEP

    @property
    def goes_back(self) -> bool:
        """What it acknowledged may be undone by its loss, until that is written again."""
        return bool(self.features >> BlkFeature.FLUSH & 1)

    @property
    def unkept(self) -> bool:
        """What it acknowledged and lost is told only."""
        return self.write_back and self.on_loss is not OnLoss.KEEP


@dataclass
class UserPlan:
    """A user of a disk, by its number, on a poller."""

    disk: int
    poller: int
    depth: int
    shares: list[int]
    fua: int
    think_ns: int
    hands_over: int


@dataclass
class Plan:
    """Times in seconds. troubles: how often something happens; events: what, with its weight."""

    seed: int
    ios: int
    pollers: int = 1
    io_timeout_s: float = 0.0
    disks: list[DiskPlan] = field(default_factory=list)
    users: list[UserPlan] = field(default_factory=list)
    vq_size: int | None = None
    vq_count: int | None = None
    troubles: int = 10
    pause_s: float = 0.0
    events: dict[str, int] = field(default_factory=dict)
    flaw: str = ""
    step_s: float = 0.0005
    small_pool: bool = False
    grain: int = 1 << 16  # bytes: writes that meet in one are not written again side by side (controllers/repeat)
    lingers: bool = False  # devices that are let go of may still be alive
    flush_every: int = 16  # of them


def _bits(chance: random.Random, *features: int) -> int:
    return sum(1 << bit for bit in features if chance.random() < 0.7)


def _disk(chance: random.Random) -> DiskPlan:
    features = _bits(
        chance,
        *(Feature.INDIRECT_DESC, Feature.EVENT_IDX, BlkFeature.DISCARD, BlkFeature.WRITE_ZEROES, BlkFeature.SIZE_MAX),
    )
    write_back = chance.random() < 0.6
    if write_back or chance.random() < 0.5:
        features |= 1 << BlkFeature.FLUSH | 1 << BlkFeature.CONFIG_WCE
    return DiskPlan(
        features=features,
        queues=chance.randint(1, 3),
        max_ring=chance.choice([8, 16, 32, 64]),
        seg_max=chance.choice([1, 2, 6, 30]),
        size_max=chance.choice([512, 1024, 4096, 1 << 20]),
        hot_add=chance.random() < 0.7,
        write_back=write_back,
        delay_ns=chance.choice([200, 1000, 5000, 50_000]),
        # A kept write that is refused when it is written again is lost: that is told, and the data are older.
        errors=0 if features >> BlkFeature.FLUSH & 1 else chance.choice([0, 0, 5]),
        on_loss=chance.choice([OnLoss.KEEP, OnLoss.KEEP, OnLoss.KEEP, OnLoss.REPORT]),
    )


def _shares(chance: random.Random, disk: DiskPlan) -> list[int]:
    """Of 1000 I/Os: read, write, flush, unmap, write_zeroes."""
    weights = [chance.randint(2, 10), chance.randint(2, 10), *(chance.choice([0, 1, 1, 2]) for _ in range(3))]
    if not disk.features >> BlkFeature.DISCARD & 1:
        weights[3] = 0
    shares = [1000 * weight // sum(weights) for weight in weights]
    shares[0] += 1000 - sum(shares)
    return shares


def make(seed: int, ios: int) -> Plan:
    """The plan of a seed, for so many I/Os."""
    chance = random.Random(seed)
    plan = Plan(seed, ios)
    plan.pollers = chance.randint(1, 3)
    plan.io_timeout_s = chance.choice([0.0, 0.5, 3.0])
    plan.disks = [_disk(chance) for _ in range(chance.choice([1, 1, 2]))]
    plan.vq_size = chance.choice([None, 4, 8, 16])
    plan.vq_count = chance.choice([None, 1, 2])
    plan.step_s = chance.choice([0.00001, 0.0005, 0.01])
    plan.small_pool = chance.random() < 0.3 and not plan.io_timeout_s  # buffers of I/O that timed out are lost
    plan.lingers = chance.random() < 0.5
    plan.grain = chance.choice([1 << 9, 1 << 16])
    plan.flush_every = chance.choice([2, 16])
    for disk in range(len(plan.disks)):
        for _ in range(chance.randint(1, 4)):
            plan.users.append(
                UserPlan(
                    disk=disk,
                    poller=chance.randrange(plan.pollers),
                    depth=chance.choice([1, 2, 4, 8, 16]),
                    shares=_shares(chance, plan.disks[disk]),
                    fua=chance.choice([0, 100, 500]),
                    think_ns=chance.choice([500, 5000, 100_000]),
                    hands_over=chance.choice([0, 500, 1000]),
                )
            )
    plan.troubles = chance.choice([2, 10, 40])
    plan.pause_s = chance.choice([0.0, 0.0001, 0.003])
    plan.events = {
        "die": chance.choice([0, 4]),
        "lie": chance.choice([0, 1]),
        "hang up": chance.choice([0, 2]),
        "detach": chance.choice([0, 1]),
        "grow": chance.choice([0, 1]),
        "change": chance.choice([0, 1]),
        "silence": chance.choice([0, 1]),
        "mute": chance.choice([0, 1]),
        "leave": chance.choice([0, 0, 1]),
        "swap": chance.choice([0, 1]),
        "shrink": chance.choice([0, 1]),
    }
    return plan
