"""Driver and device of a split ring: who publishes, who is told, and who sleeps.

The driver is _add, _pop, _publish, _arm and _disarm of virtiod/virtqueue/split.py, as virtiod/virtqueue/requests.py
(poll) and virtiod/virtqueue/notify.py (flush) call them. The device is poll, push, _flush, arm and _disarm of
virtiod/target/ring.py. Each is run by a poller as in virtiod/poller/rounds.py (run, settle, rise), but without that
module's own barriers, which a ring must not need.

An index has 3 bits instead of 16, so that it wraps; an entry of either ring holds the index that it was put at, so that
a reader of an old one notices.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from tests.models.memory import Op, choose, fence, load, signal, store, wait, write
from tests.models.search import Code, Model, Wrong

SIZE = 2
INDEXES = 8
START = 7  # of all indexes, so that they wrap after the first request


def need_event(event: int, new: int, old: int) -> bool:
    return (new - event - 1) % INDEXES < (new - old) % INDEXES


@dataclass
class Driver:
    event_idx: bool
    left: int  # requests that users have yet to submit
    avail_idx: int = START
    published: int = START
    used_idx: int = START
    last_used: int = START
    event_at: int = START - 1
    in_flight: int = 0

    def _add(self) -> Generator[Op, int, None]:
        yield write(f"avail.ring {self.avail_idx % SIZE}", self.avail_idx)
        self.avail_idx = (self.avail_idx + 1) % INDEXES
        self.in_flight += 1

    def _pop(self) -> Generator[Op, int, bool]:
        if self.last_used == self.used_idx:
            seen = yield load("used.idx")
            if seen == self.last_used:
                return False
            if (seen - self.last_used) % INDEXES > self.in_flight:
                raise Wrong("the driver takes the ring for broken")
            self.used_idx = seen
        head = yield load(f"used.ring {self.last_used % SIZE}")
        if head != self.last_used:
            raise Wrong("the driver reads a used entry before it is written")
        self.last_used = (self.last_used + 1) % INDEXES
        self.in_flight -= 1
        return True

    def _publish(self) -> Generator[Op, int, bool]:
        old = self.published
        new = self.avail_idx
        if new == old:
            return False
        yield store("avail.idx", new)
        self.published = new
        yield fence()
        if self.event_idx:
            if (self.last_used - self.event_at) % INDEXES > INDEXES // 4:
                yield from self._disarm()
            event = yield load("avail_event")
            return need_event(event, new, old)
        no_notify = yield load("used.flags")
        return not no_notify

    def _arm(self) -> Generator[Op, int, bool]:
        if self.event_idx:
            yield store("used_event", self.last_used)
        else:
            yield store("avail.flags", 0)
        yield fence()
        seen = yield load("used.idx")
        return self.last_used != seen

    def _disarm(self) -> Generator[Op, int, None]:
        if self.event_idx:
            self.event_at = (self.last_used - 1) % INDEXES
            yield store("used_event", self.event_at)
        else:
            yield store("avail.flags", 1)

    def flush(self) -> Generator[Op, int, None]:
        wanted = yield from self._publish()
        if wanted:
            yield signal("kick")

    def _sleep(self) -> Generator[Op, int, None]:
        found = yield from self._arm()
        if not found:
            yield wait("call")
        yield from self._disarm()

    def run(self) -> Code:
        """Until all requests are answered. Users submit when they like, but for a poller that nothing would wake."""
        while self.left or self.in_flight:
            work = 0
            popped = yield from self._pop()
            while popped:
                work += 1
                popped = yield from self._pop()
            submit = 0
            if self.left and self.in_flight < SIZE:
                submit = yield choose(2)
            if submit:
                self.left -= 1
                yield from self._add()
            yield from self.flush()
            if not work and self.in_flight:
                idle_for_long = yield choose(2)
                if idle_for_long:
                    yield from self._sleep()


@dataclass
class Device:
    event_idx: bool
    last_avail: int = START
    used_idx: int = START
    published: int = START

    def poll(self) -> Generator[Op, int, int]:
        seen = yield load("avail.idx")
        n = 0
        while self.last_avail != seen:
            head = yield load(f"avail.ring {self.last_avail % SIZE}")
            if head != self.last_avail:
                raise Wrong("the device reads an avail entry before it is written")
            yield from self.push(head)
            self.last_avail = (self.last_avail + 1) % INDEXES
            n += 1
        return n

    def push(self, head: int) -> Generator[Op, int, None]:
        yield write(f"used.ring {self.used_idx % SIZE}", head)
        self.used_idx = (self.used_idx + 1) % INDEXES

    def _flush(self) -> Generator[Op, int, None]:
        old = self.published
        yield store("used.idx", self.used_idx)
        self.published = self.used_idx
        yield fence()
        if self.event_idx:
            event = yield load("used_event")
            if not need_event(event, self.used_idx, old):
                return
        else:
            no_interrupt = yield load("avail.flags")
            if no_interrupt:
                return
        yield signal("call")

    def arm(self) -> Generator[Op, int, bool]:
        if self.event_idx:
            yield store("avail_event", self.last_avail)
        else:
            yield store("used.flags", 0)
        yield fence()
        seen = yield load("avail.idx")
        return seen != self.last_avail

    def _disarm(self) -> Generator[Op, int, None]:
        if self.event_idx:
            yield store("avail_event", (self.last_avail - 1) % INDEXES)
        else:
            yield store("used.flags", 1)

    def _sleep(self) -> Generator[Op, int, None]:
        found = yield from self.arm()
        if not found:
            yield wait("kick")
        yield from self._disarm()

    def run(self) -> Code:
        while True:
            work = yield from self.poll()
            if work:
                yield from self._flush()
            else:
                idle_for_long = yield choose(2)
                if idle_for_long:
                    yield from self._sleep()


def model(event_idx: bool, requests: int = 2) -> Model:
    """At the start both sides are awake and have disarmed."""
    cells = {"avail.idx": START, "used.idx": START}
    cells |= {f"{ring}.ring {n}": INDEXES for ring in ("avail", "used") for n in range(SIZE)}
    if event_idx:
        cells |= {"used_event": START - 1, "avail_event": START - 1}
    else:
        cells |= {"avail.flags": 1, "used.flags": 1}
    threads = {
        "driver": lambda: Driver(event_idx, requests).run(),
        "device": lambda: Device(event_idx).run(),
    }
    return Model(threads, cells, ("driver",))
