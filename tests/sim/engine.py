"""Whose turn it is. Pollers, the queues of devices and users take turns at random, a step at a time, and each step
takes simulated time. When nobody has anything to do, time goes on to when somebody has.

Clocks of the data plane show simulated time from Engine.begin() to Engine.end().
"""

from __future__ import annotations

from collections.abc import Callable

import cython
from cython import NULL, address, cast
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.tests.sim import core, device, users
from cython.cimports.tests.sim.core import Finding, SimPtr
from cython.cimports.tests.sim.device import MAX_QUEUES, NEVER, ModelPtr
from cython.cimports.tests.sim.engine import MAX_DEVICES, MAX_POLLERS, MAX_USERS, SimPollerPtr, Turns, TurnsPtr
from cython.cimports.tests.sim.users import UserPtr
from cython.cimports.virtiod.core import clock, linux
from cython.cimports.virtiod.core.linux import epoll_event
from cython.cimports.virtiod.core.types import MailboxPtr, PollerPtr, VoidPtr
from cython.cimports.virtiod.poller import rounds
from cython.cimports.virtiod.poller.poller import Control, Poller

STEP_NS = cython.declare(uint64_t, 600)  # the longest step
BEGIN_NS = cython.declare(uint64_t, 1_000_000_000_000)
SPREAD = cython.declare(uint64_t, 0x9E3779B97F4A7C15)
LOOK_NS = cython.declare(uint64_t, 1_000_000_000)

FINDINGS = {
    int(Finding.TORN): "block {0} is no block that was ever written (0 read, 1 on the medium): {1}",
    int(Finding.STRAY): "block {0} holds {1}, which was never written there (0 read, 1 on the medium): {2}",
    int(Finding.STALE): "block {0}: a read found write {1}, which another had surely overwritten by event {2}",
    int(Finding.EXCLUSIVE): "block {0}: a read found {1}, but it must be {2}",
    int(Finding.UNSTABLE): "block {0}: write {1} survived, though a flush covered a later one, of event {2}",
    int(Finding.SCRIBBLED): "block {0}: somebody wrote into the buffer of write {1} while it was in flight",
    int(Finding.TWICE): "an I/O of operation {0} was completed twice: {1}",
    int(Finding.CHAIN): "queue {0}: the chain at {1} is malformed: rule {2}",
    int(Finding.MEMORY): "queue {0}: the device was not told of memory at base + {1}, {2} bytes",
    int(Finding.RANGE): "queue {0}: sectors {1}, {2} of them, are beyond the device's end",
    int(Finding.STUCK): "an I/O of operation {0} is not answered since {1} ns; now is {2} ns",
    int(Finding.UNHEARD): "poller {0} slept though there was work, and nothing woke it",
    int(Finding.UNKICKED): "queue {0}: there are new requests, the device asked for a kick, and got none",
    int(Finding.FOREIGN): "a request of type {0} reached another disk",
    int(Finding.FULL): "the history has no room for more writes",
    int(Finding.LIED): "flush {0} of a user succeeded (it began at event {1}), though what was acknowledged is lost",
    int(Finding.REUSED): "queue {0}: memory at base + {1} is in use again, and a lost device may still use it",
}


class Violation(AssertionError):
    """What must never be."""


_now = cython.declare(uint64_t, 0)
_real = cython.declare(clock.clock_fn)


def _simulated() -> uint64_t:
    return _now


# ---- turns ---------------------------------------------------------------------------------------


def _signalled(p: PollerPtr) -> cython.bint:
    events: epoll_event[1]
    return linux.epoll_wait_ns(p.epfd, events, 1, 0) > 0


def _poll(t: TurnsPtr, p: SimPollerPtr) -> cython.int:
    """What the poller's thread would do next: a round, or to fall asleep, or to wake up."""
    work: cython.int
    longest: uint64_t
    heard: cython.bint = True
    if p.wake_at:
        heard = _signalled(p.core)
        if not heard and t.sim.now < p.wake_at:
            return 0
        rounds.sleep(p.core, 0)
        rounds.rise(p.core)
        p.wake_at = 0
    if not p.tired:
        work = rounds.turn(p.core)
        if work and not heard:
            core.found(address(t.sim), Finding.UNHEARD, cast(uint64_t, p - t.pollers), 0, 0)
        p.tired = not work and core.chance(address(t.sim), 400)
        return work
    p.tired = 0
    longest = rounds.settle(p.core)
    if longest:
        p.wake_at = t.sim.now + longest
        if t.secret:
            p.core.sleeping = 0
    else:
        rounds.rise(p.core)
    return 0


def _step(t: TurnsPtr) -> cython.int:
    global _now
    s: SimPtr = address(t.sim)
    n: uint64_t
    s.now += 1 + core.below(s, STEP_NS)
    _now = s.now
    n = core.below(s, t.n_pollers + t.n_devices * MAX_QUEUES + t.n_users)
    if n < t.n_pollers:
        return _poll(t, address(t.pollers[n]))
    n -= t.n_pollers
    if n < t.n_devices * MAX_QUEUES:
        return device.step(address(t.devices[n // MAX_QUEUES].rings[n % MAX_QUEUES]))
    n -= t.n_devices * MAX_QUEUES
    return users.start(t.users[n]) if users.begins_at(t.users[n]) <= s.now else 0


def _next(t: TurnsPtr) -> uint64_t:
    """When somebody has something to do; now, if somebody has."""
    i: uint32_t
    at: uint64_t
    first: uint64_t = NEVER
    for i in range(t.n_pollers):
        at = t.pollers[i].wake_at
        if at == 0 or _signalled(t.pollers[i].core):
            return t.sim.now
        if at < first:
            first = at
    for i in range(t.n_devices * MAX_QUEUES):
        at = device.due(address(t.devices[i // MAX_QUEUES].rings[i % MAX_QUEUES]))
        if at < first:
            first = at
    for i in range(t.n_users):
        at = users.begins_at(t.users[i])
        if at < first:
            first = at
    return first if first > t.sim.now else t.sim.now


def _look_for_stuck(t: TurnsPtr) -> None:
    i: uint32_t
    since: uint64_t
    t.looked_at = t.sim.now
    for i in range(t.n_users):
        if t.users[i].channel == NULL or t.users[i].channel.oldest == NULL:
            continue
        since = t.users[i].channel.oldest.submitted_ns
        if t.sim.now - since > t.patience:
            core.found(address(t.sim), Finding.STUCK, t.users[i].channel.oldest.op, since, t.sim.now)


def _run(t: TurnsPtr, mailbox: VoidPtr, until: uint64_t) -> None:
    global _now
    s: SimPtr = address(t.sim)
    box: MailboxPtr = cast(MailboxPtr, mailbox)
    at: uint64_t
    idle: uint32_t = 0
    while s.now < until and s.finding == Finding.NONE and s.ended < s.mark:
        if box.head != NULL:
            if t.lag == 0:
                t.lag = core.below(s, 30)
                return
            t.lag -= 1
        if _step(t):
            idle = 0
            continue
        idle += 1
        if idle > 2 * t.n_pollers:
            at = _next(t)
            if at > s.now and box.head == NULL:
                s.now = at if at < until else until
                _now = s.now
            idle = 0
            if s.now - t.looked_at > LOOK_NS:
                _look_for_stuck(t)


class Engine:
    """Everything that takes turns, from one seed."""

    t: Turns
    control: Control
    keep: list[object]
    tell: Callable[[], None]

    def __init__(self, seed: int, patience_s: float) -> None:
        start: uint64_t = seed
        self.t.sim.random = (start * SPREAD) | 1
        self.t.sim.now = BEGIN_NS
        self.t.sim.events = 1
        self.t.sim.mark = NEVER
        self.t.patience = cast(uint64_t, int(patience_s * 1e9))
        self.keep = []

    def begin(self, control: Control) -> None:
        """Clocks show simulated time from here on."""
        global _now, _real
        self.control = control
        _now = self.t.sim.now
        _real = clock.now_ns
        clock.now_ns = _simulated

    def end(self) -> None:
        clock.now_ns = _real

    def sleep_in_secret(self) -> None:
        """Pollers don't say that they sleep."""
        self.t.secret = 1

    def add_poller(self, poller: Poller) -> None:
        assert self.t.n_pollers < MAX_POLLERS
        self.t.pollers[self.t.n_pollers].core = poller.core
        self.t.n_pollers += 1
        self.keep.append(poller)

    def add_model(self, model: ModelPtr, owner: object) -> cython.int:
        """A device; its owner frees it."""
        assert self.t.n_devices < MAX_DEVICES
        self.t.devices[self.t.n_devices] = model
        self.t.n_devices += 1
        self.keep.append(owner)
        return 0

    def add_user(self, user: UserPtr, owner: object) -> cython.int:
        """A user; its owner frees it."""
        assert self.t.n_users < MAX_USERS
        self.t.users[self.t.n_users] = user
        self.t.n_users += 1
        self.keep.append(owner)
        return 0

    def time(self) -> float:
        """The simulated clock, in seconds."""
        return self.t.sim.now / 1e9

    def seconds(self) -> float:
        """Simulated, since the beginning."""
        return (self.t.sim.now - BEGIN_NS) / 1e9

    def trace(self) -> int:
        """A number that all that happened has gone into."""
        return self.t.sim.trace

    def tell_after(self, ios: int, tell: Callable[[], None]) -> None:
        """Call tell() once, when so many more I/Os have ended."""
        self.t.sim.mark = self.t.sim.ended + cast(uint64_t, ios)
        self.tell = tell

    def run(self, seconds: float) -> None:
        """Let all take turns for so long, or until there is something for the control plane."""
        until: uint64_t = self.t.sim.now + cast(uint64_t, int(min(seconds, 1e5) * 1e9)) + 1
        box: VoidPtr = address(self.control.box)
        with cython.nogil:
            _run(address(self.t), box, until)
        self.check()
        if self.t.sim.ended >= self.t.sim.mark:
            self.t.sim.mark = NEVER
            self.tell()

    def few_turns(self) -> None:
        """Some turns, while the control plane does one thing after the other."""
        until: uint64_t = self.t.sim.now + core.below(address(self.t.sim), 20 * STEP_NS)
        while self.t.sim.now < until:
            _step(address(self.t))
        self.check()

    def check(self) -> None:
        """Raises Violation for the first thing that was found."""
        finding: int = self.t.sim.finding
        if finding != int(Finding.NONE):
            facts = [self.t.sim.facts[0], self.t.sim.facts[1], self.t.sim.facts[2]]
            raise Violation(FINDINGS[finding].format(*facts))
