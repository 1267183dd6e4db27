"""Mistakes that the simulation must find: in the control plane, in the data path, and of a device.

Each is made in one place and is put right again. What it needs to show is added to the plan of a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from unittest import mock

from tests.sim import faults
from tests.sim.plan import Plan
from virtiod.bdev.channel import BdevChannels
from virtiod.bdev.keeping import KeptChannels, OnLoss
from virtiod.bdev.limits import RequestLimits
from virtiod.controllers import attempts
from virtiod.controllers.blk.config import BlkConfig
from virtiod.controllers.blk.controller import BlkController
from virtiod.controllers.controller import Controller, State
from virtiod.controllers.device import Device
from virtiod.controllers.ending import EndingDevice
from virtiod.controllers.keeping import Keeping
from virtiod.controllers.repeat import Repetition
from virtiod.transports.epoch import Epoch
from virtiod.virtio.features import BlkFeature, Feature
from virtiod.virtqueue.handle import RequestQueue
from virtiod.virtqueue.spec import RingSpec

if TYPE_CHECKING:
    from tests.sim.world import World

Patch = tuple[object, str, object]
LATE = "may still use it|ever written|surely overwritten|it must be|found after the other|somebody wrote"


@dataclass(frozen=True)
class Bug:
    """finds: what the violation says, as a regular expression. events, timeout_s: what must happen for it to show."""

    finds: str
    patches: tuple[Patch, ...] = ()
    events: tuple[str, ...] = ()
    timeout_s: float = 0.0
    flaw: str = ""  # of the device
    fault: str = ""  # of its queues
    secret: bool = False
    change: Callable[[Plan], None] | None = None

    def adapt(self, plan: Plan, make_it: bool) -> None:
        """Have what it needs happen, and nothing else."""
        plan.events = dict.fromkeys(self.events, 1)
        plan.troubles, plan.pause_s = 10, 0.0001
        plan.step_s = 0.0005
        plan.io_timeout_s = self.timeout_s
        plan.small_pool = plan.small_pool and not self.timeout_s
        plan.flaw = self.flaw if make_it else ""
        plan.lingers = False
        for disk in plan.disks:
            disk.errors = 0
        if self.change:
            self.change(plan)

    @contextmanager
    def made(self) -> Iterator[None]:
        patches = [mock.patch.object(owner, name, new) for owner, name, new in self.patches]
        if self.fault:
            patches.append(mock.patch.object(BlkController, "_make_queues", _spoilt(self.fault)))
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in patches:
                patch.stop()

    def prepare(self, world: World) -> None:
        if self.secret:
            world.engine.sleep_in_secret()


_make_queues = BlkController._make_queues


def _spoilt(fault: str) -> Callable[[BlkController], list[RequestQueue]]:
    def make(controller: BlkController) -> list[RequestQueue]:
        queues = _make_queues(controller)
        for queue in queues:
            faults.spoil(queue, fault)
        return queues

    return make


# ---- changes of plans


def _with_errors(plan: Plan) -> None:
    for disk in plan.disks:
        disk.errors = 20


def _with_zeroes(plan: Plan) -> None:
    for disk in plan.disks:
        disk.features |= 1 << BlkFeature.WRITE_ZEROES | 1 << BlkFeature.DISCARD
    for user in plan.users:
        user.shares = [400, 300, 0, 0, 300]


def _indirect(plan: Plan) -> None:
    for disk in plan.disks:
        disk.features |= 1 << Feature.INDIRECT_DESC


def _limited(plan: Plan) -> None:
    for disk in plan.disks:
        disk.features |= 1 << BlkFeature.SIZE_MAX
        disk.seg_max, disk.size_max, disk.hot_add = 6, 1024, True


def _cached(plan: Plan) -> None:
    for disk in plan.disks:
        disk.features |= 1 << BlkFeature.FLUSH
        disk.write_back, disk.on_loss = True, OnLoss.KEEP


def _told(plan: Plan) -> None:
    _cached(plan)
    for disk in plan.disks:
        disk.on_loss = OnLoss.REPORT


def _spread(plan: Plan) -> None:
    _cached(plan)
    plan.pollers, plan.vq_count = 2, 2
    for disk in plan.disks:
        disk.queues = 2
    for i, user in enumerate(plan.users):
        user.poller = i % 2


def _scarce(plan: Plan) -> None:
    _cached(plan)
    plan.small_pool = True


def _lingering(plan: Plan) -> None:
    plan.lingers = True


def _one_by_one(plan: Plan) -> None:
    for user in plan.users:
        user.depth, user.think_ns = 1, 100_000


def _cant_take_more(plan: Plan) -> None:
    for disk in plan.disks:
        disk.hot_add = False


def _without(*features: int) -> Callable[[Plan], None]:
    def change(plan: Plan) -> None:
        for disk in plan.disks:
            disk.features &= ~sum(1 << bit for bit in features)

    return change


# ---- what is done wrong


class _Omitting:
    """A queue, but for one of its methods, which does nothing."""

    def __init__(self, queue: RequestQueue, method: str) -> None:
        self._queue = queue
        self._method = method

    def __getattr__(self, name: str) -> object:
        if name != self._method:
            return getattr(self._queue, name)
        return _skip if name in {"reset", "close"} else _nothing


class _Hasty:
    """A queue that is started without holding I/O back."""

    def __init__(self, queue: RequestQueue) -> None:
        self._queue = queue

    def __getattr__(self, name: str) -> object:
        return getattr(self._queue, name)

    async def start(self, *arguments: Any, **named: Any) -> None:
        await self._queue.start(*arguments, **named | {"hold": False})


def _omit(method: str) -> Patch:
    return Device, "all_queues", property(lambda self: [_Omitting(queue, method) for queue in _all_queues(self)])


def _all_queues(controller: Device[Any]) -> list[RequestQueue]:
    return [*controller.service_queues, *controller.request_queues]


async def _nothing(*_arguments: object) -> None:
    pass


def _skip(*_arguments: object) -> None:
    pass


def _never(*_arguments: object) -> bool:
    return False


async def _never_so(*_arguments: object) -> bool:
    return False


_start_queue = Device._start_queue
_ring = Device._ring


async def _start_hastily(self: Device[Any], queue: Any) -> None:
    await _start_queue(self, _Hasty(queue))  # type: ignore[arg-type]  # it is one in all but its type


async def _stop_only(self: Device[Any]) -> None:
    for queue in self.all_queues:
        await queue.stop()


async def _tell_whoever(self: Controller[Any]) -> None:
    if self.state is State.UP:
        await self.transport.share_memory()


def _limit_nothing(self: BlkController, channels: BdevChannels) -> None:
    c = self._split_by = self._config
    limits = RequestLimits(c.max_segments, 1 << 20, c.max_transfer, c.max_discard, c.max_write_zeroes)
    channels.limit(c.native(), limits)


async def _stumble(_self: BlkController) -> None:
    raise KeyError("what nobody thought of")


def _assume(event_idx: bool, indirect: bool) -> Callable[..., RingSpec]:
    """A ring that uses these whatever was agreed."""

    def ring(self: Device[Any], *arguments: Any) -> RingSpec:
        spec = _ring(self, *arguments)
        return replace(spec, event_idx=spec.event_idx or event_idx, indirect=spec.indirect or indirect)

    return ring


async def _only_let_go(self: Keeping, _epoch: Epoch, _queue: RequestQueue) -> None:
    for _, channels in self._each():
        await channels.let_go()


async def _keep_held(self: Keeping, _epoch: Epoch, queue: RequestQueue) -> None:
    for _, channels in self._each():
        await Repetition(channels, queue).run()


async def _come_back_hastily(self: Controller[Any]) -> None:
    await self._connect()
    for queue in self.request_queues[1:]:
        await queue.release()
    assert self.transport.epoch is not None
    await self.keeping.write_again(self.transport.epoch, self.request_queues[0])
    await self._release()


def _turn_round(
    self: Repetition, channels: KeptChannels, queue: RequestQueue, doubts: int, io_timeout_s: float
) -> None:
    _repetition(self, channels, queue, doubts, io_timeout_s)
    self._left.reverse()


async def _trust_writeback(self: BlkController, features: int) -> BlkConfig:
    return replace(await _read_config(self, features), write_cache=False)


_repetition = Repetition.__init__
_read_config = BlkController._read_config

BUGS = {
    # of a device: that what it does is looked at
    "a device loses writes": Bug("surely overwritten|it must be", flaw="loses writes"),
    "a device reads old data": Bug("surely overwritten|it must be", flaw="reads old data"),
    "a device writes to the wrong sector": Bug(
        "never written there|it must be|surely overwritten", flaw="writes to the wrong sector"
    ),
    "a device forgets interrupts": Bug("nothing woke it", flaw="forgets interrupts"),
    "a device answers reads early": Bug("no block that was ever written", flaw="answers reads early"),
    "a device writes again later": Bug("surely overwritten|it must be|after the other", flaw="writes again later"),
    "a device drops requests": Bug("is not answered", flaw="drops requests"),
    # of the data path
    "the device is kicked too rarely": Bug("asked for a kick", fault="kicks too rarely"),
    "a queue sleeps without a second look": Bug("nothing woke it", fault="sleeps without a second look"),
    "a queue forgets to publish": Bug("is not answered", fault="forgets to publish", change=_one_by_one),
    "directions of segments are swapped": Bug("malformed", fault="swaps directions"),
    "another request is completed": Bug(".", fault="completes another request", change=_indirect),
    "errors are taken for success": Bug(".", fault="takes errors for success", change=_with_errors),
    "success is taken for an error": Bug("failed without a reason", fault="takes success for an error"),
    "requests go to the sector before": Bug("never written there|it must be", fault="goes to the sector before"),
    "blocks are discarded instead of zeroed": Bug(
        "it must be", fault="discards instead of zeroing", change=_with_zeroes
    ),
    "a poller does not say that it sleeps": Bug("nothing woke it", secret=True),
    # of the control plane
    "the ring is not emptied": Bug("malformed", (_omit("reset"),), ("die",)),
    "held I/O is never let go": Bug("is not answered", (_omit("release"),)),
    "the rings' memory is not given back": Bug("not given back", (_omit("close"),)),
    "I/O in flight is not given up": Bug("not answered", ((EndingDevice, "_give_up", _nothing),), ("silence",)),
    "another disk is taken for the same": Bug(
        "reached another disk", ((BlkController, "_check_identity", _nothing),), ("swap",)
    ),
    "I/O is let go before the disk is known": Bug(
        "reached another disk", ((Device, "_start_queue", _start_hastily),), ("swap",)
    ),
    "lower limits are not noticed": Bug(
        "malformed", ((BlkController, "_check_return", _skip),), ("shrink",), change=_limited
    ),
    "limits are not kept": Bug("malformed", ((BlkController, "_limit", _limit_nothing),), change=_limited),
    "a timeout is not noticed": Bug("is not answered", ((Controller, "_waits_since", _never),), ("silence",), 0.5),
    "waiting I/O does not time out": Bug("is not answered", ((Controller, "_expire", _nothing),), ("leave",), 0.5),
    "a loss is not heard of": Bug("is not answered", ((Controller, "_lost", _skip),), ("die",)),
    "nobody connects again": Bug("is not answered", ((Controller, "_return", _stop_only),), ("die",)),
    "the next attempt comes too late": Bug("is not answered", ((attempts, "BACKOFF_S", (1e4,)),), ("die",)),
    "the old connection is not closed": Bug("connected twice", ((Controller, "_cut_off", _stop_only),), ("die",)),
    "a device is not told of new memory": Bug(
        "not told of memory", ((Controller, "share_memory", _nothing),), ("grow",), change=_limited
    ),
    "a device that can't take more memory is told": Bug(
        "not told of memory", ((Controller, "share_memory", _tell_whoever),), ("grow",), change=_cant_take_more
    ),
    "an event index is used that was not agreed": Bug(
        "asked for a kick|nothing woke it",
        ((Device, "_ring", _assume(event_idx=True, indirect=False)),),
        change=_without(Feature.EVENT_IDX),
    ),
    "indirect descriptors are used that were not agreed": Bug(
        "malformed",
        ((Device, "_ring", _assume(event_idx=False, indirect=True)),),
        change=_without(Feature.INDIRECT_DESC),
    ),
    "an exception ends a task": Bug("KeyError", ((BlkController, "_config_changed", _stumble),), ("change",)),
    # of devices that may still be alive
    "memory that a lost device may still use is used again": Bug(
        LATE, ((EndingDevice, "_doubt", _nothing),), ("silence",), 0.5, change=_lingering
    ),
    "requests are made again while the lost device may do them": Bug(
        LATE, ((EndingDevice, "_awaited", _never_so),), ("lie",), change=_lingering
    ),
    # of kept writes and flushes
    "a device loses flushes": Bug("survived", events=("die",), flaw="loses flushes", change=_cached),
    "a cache is taken for write-through": Bug(
        "surely overwritten|it must be|survived",
        ((BlkController, "_read_config", _trust_writeback),),
        ("die",),
        change=_cached,
    ),
    "acknowledged writes are not written again": Bug(
        "surely overwritten|it must be|survived", ((Keeping, "write_again", _only_let_go),), ("die",), change=_cached
    ),
    "kept writes are written again in the wrong order": Bug(
        "surely overwritten|it must be", ((Repetition, "__init__", _turn_round),), ("die",), change=_cached
    ),
    "I/O is let go before what is kept": Bug(
        "surely overwritten|it must be|survived, though",
        ((Controller, "_come_back", _come_back_hastily),),
        ("die",),
        change=_spread,
    ),
    "kept writes stay held": Bug(
        "is not answered|no I/O has ended", ((Keeping, "write_again", _keep_held),), ("die",), change=_scarce
    ),
    "what a flush does not cover is taken for stable": Bug(
        "surely overwritten|it must be|survived", (), ("die",), fault="takes more for stable", change=_cached
    ),
    "FUA is forgotten": Bug("survived|is lost", (), ("die",), fault="forgets to force", change=_cached),
    "a loss is not told": Bug("is lost", ((Keeping, "_tell_unkept", _skip),), ("die",), change=_told),
}
