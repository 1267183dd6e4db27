"""The rounds of a poller: one thread that runs sources round after round, without the GIL.

A round: messages from other threads -> completions deferred by the last round -> sockets -> every source's poll ->
flush of the dirty ones -> now and then a tick. After `poll_us` without work an adaptive poller arms its sources,
looks once more, and sleeps in epoll until an eventfd, a socket, a message or a tick wakes it.

Other threads reach a poller by its inbox only: a lock-free stack that they push to and that the poller takes whole.
Nothing is lost between looking and sleeping: the sleeper sets `sleeping`, then looks at the inbox; the sender pushes,
then looks at `sleeping`; a full barrier stands between the two steps on either side.
"""

from __future__ import annotations

import cython
from cython.cimports.libc.errno import ENOSPC, errno
from cython.cimports.libc.stdint import int64_t, uint32_t, uint64_t
from cython.cimports.libc.string import memset
from cython.cimports.posix.unistd import read, write
from cython.cimports.virtiod.core.atomics import (
    vd_cas_ptr,
    vd_clock_ns,
    vd_exchange_ptr,
    vd_fence,
    vd_load_ptr,
    vd_load_u32,
    vd_pause,
    vd_store_u32,
)
from cython.cimports.virtiod.core.linux import (
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLL_CTL_MOD,
    EPOLLERR,
    EPOLLHUP,
    EPOLLIN,
    EPOLLOUT,
    EPOLLRDHUP,
    epoll_ctl,
    epoll_event,
    sched_yield,
    vd_epoll_wait_ns,
)
from cython.cimports.virtiod.core.types import (
    COMMAND_LATER,
    READY_GONE,
    READY_IN,
    READY_OUT,
    CommandPtr,
    IoPtr,
    MailboxPtr,
    MessagePtr,
    PollerPtr,
    SourceArray,
    SourcePtr,
    VoidPtr,
)
from cython.cimports.virtiod.poller.rounds import MAX_SOURCES

TICK_NS = cython.declare(uint64_t, 10_000_000)
YIELD_NS = cython.declare(uint64_t, 10_000)
SLEEP_NS = cython.declare(uint64_t, 1_000_000_000)
SLEEP_IN_FLIGHT_NS = cython.declare(uint64_t, 100_000_000)

# ---- any thread ----------------------------------------------------------------------------------


def _push(head: VoidPtr, m: MessagePtr) -> None:
    """Put m on the lock-free stack whose newest message head points to."""
    old: MessagePtr
    while True:
        old = cython.cast(MessagePtr, vd_load_ptr(head))
        m.next = old
        if vd_cas_ptr(head, old, m):
            break


def mailbox_push(box: MailboxPtr, m: MessagePtr) -> None:
    """Hand a message to the control plane."""
    one: uint64_t = 1
    _push(cython.address(box.head), m)
    write(box.fd, cython.address(one), 8)


def poller_push(p: PollerPtr, m: MessagePtr) -> None:
    """Hand a message to a poller and wake it if it sleeps."""
    one: uint64_t = 1
    _push(cython.address(p.inbox), m)
    vd_fence()  # pairs with the one in _sleep: inbox written, then sleeping read
    if vd_load_u32(cython.address(p.sleeping)):
        write(p.evfd, cython.address(one), 8)


def in_order(m: MessagePtr) -> MessagePtr:
    """A stack taken whole, oldest first."""
    done: MessagePtr = cython.NULL
    after: MessagePtr
    while m != cython.NULL:
        after = m.next
        m.next = done
        done = m
        m = after
    return done


# ---- the poller's thread -------------------------------------------------------------------------


def poller_add_source(p: PollerPtr, s: SourcePtr) -> cython.int:
    """Start to poll s. -ENOSPC when there are too many, -errno of epoll_ctl."""
    ret: cython.int
    if p.n_sources >= MAX_SOURCES:
        return -ENOSPC
    s.poller = p
    s.ready = READY_IN if s.watched else 0
    s.wanted = 0
    if s.fd >= 0:
        ret = _ask(s, EPOLL_CTL_ADD, READY_IN)
        if ret < 0:
            return ret
    s.index = p.n_sources
    p.sources[p.n_sources] = s
    p.n_sources += 1
    return 0


def poller_remove_source(p: PollerPtr, s: SourcePtr) -> None:
    """Stop polling s: from this call on none of its functions is called. Allowed inside its own functions."""
    if s.index >= p.n_sources or p.sources[s.index] != s:
        return
    poller_unwatch(s)
    p.sources[s.index] = cython.NULL
    p.removed += 1


def poller_want(s: SourcePtr, want: cython.uint) -> None:
    """What to look at a watched socket for: READY_IN, READY_OUT, both (READY_GONE is then told as well), or nothing."""
    if s.fd < 0 or s.wanted == want:
        return
    if not want:
        _forget(s)
    else:
        _ask(s, EPOLL_CTL_MOD if s.wanted else EPOLL_CTL_ADD, want)


def poller_unwatch(s: SourcePtr) -> None:
    """Forget the socket of s, before it is closed; s is polled on without one."""
    _forget(s)
    s.fd = -1


def _ask(s: SourcePtr, op: cython.int, want: cython.uint) -> cython.int:
    ev: epoll_event
    memset(cython.address(ev), 0, cython.sizeof(epoll_event))
    ev.events = (EPOLLIN if want & READY_IN else 0) | (EPOLLOUT if want & READY_OUT else 0)
    if s.watched and want & READY_IN:
        ev.events |= EPOLLRDHUP
    ev.data.ptr = s
    if epoll_ctl(s.poller.epfd, op, s.fd, cython.address(ev)) < 0:
        return -errno
    if s.watched and not s.wanted:
        s.poller.n_watched += 1
    s.wanted = want
    return 0


def _forget(s: SourcePtr) -> None:
    if s.wanted:
        epoll_ctl(s.poller.epfd, EPOLL_CTL_DEL, s.fd, cython.NULL)
        s.poller.n_watched -= s.watched
        s.wanted = 0


def _ready_bits(events: uint32_t) -> cython.uint:
    return (
        (READY_IN if events & (EPOLLIN | EPOLLRDHUP) else 0)
        | (READY_OUT if events & EPOLLOUT else 0)
        | (READY_GONE if events & (EPOLLHUP | EPOLLERR) else 0)
    )


def poller_defer(p: PollerPtr, io: IoPtr, status: cython.int) -> None:
    """Complete io with status in the next round, so that no done() runs inside a submit."""
    io.status = status
    io.msg.next = cython.NULL
    if p.deferred == cython.NULL:
        p.deferred = io
    else:
        p.deferred_tail.msg.next = cython.cast(MessagePtr, io)
    p.deferred_tail = io


def command_done(c: CommandPtr, result: int64_t) -> None:
    """Answer a command: its future completes with result."""
    c.result = result
    mailbox_push(c.poller.control, cython.address(c.msg))


def command_run(m: MessagePtr, p: PollerPtr) -> None:
    c: CommandPtr = cython.cast(CommandPtr, m)
    result: int64_t = c.fn(p, c)
    if result != COMMAND_LATER:
        command_done(c, result)


def _run_inbox(p: PollerPtr) -> cython.int:
    n: cython.int = 0
    after: MessagePtr
    m: MessagePtr = in_order(cython.cast(MessagePtr, vd_exchange_ptr(cython.address(p.inbox), cython.NULL)))
    p.now = vd_clock_ns()  # not before what was sent
    while m != cython.NULL:
        after = m.next  # run() may free or reuse m
        m.run(m, p)
        m = after
        n += 1
    return n


def _run_deferred(p: PollerPtr) -> cython.int:
    n: cython.int = 0
    after: IoPtr
    io: IoPtr = p.deferred
    p.deferred = cython.NULL
    while io != cython.NULL:
        after = cython.cast(IoPtr, io.msg.next)
        io.msg.run(cython.address(io.msg), p)
        io = after
        n += 1
    return n


def _look_at_fds(p: PollerPtr, timeout_ns: uint64_t, asleep: cython.bint) -> cython.int:
    """Ask epoll; mark ready sockets, drain eventfds. Returns how many sockets are ready."""
    events: epoll_event[64]
    count: uint64_t
    s: SourcePtr
    i: cython.int
    ready: cython.int = 0
    n: cython.int = vd_epoll_wait_ns(p.epfd, events, 64, timeout_ns)
    for i in range(n):
        s = cython.cast(SourcePtr, events[i].data.ptr)
        if s == cython.NULL:
            read(p.evfd, cython.address(count), 8)
            continue
        s.wakeups += asleep
        if s.watched:
            s.ready |= _ready_bits(events[i].events)
            ready += 1
        else:
            read(s.fd, cython.address(count), 8)
    return ready


def _poll_sources(p: PollerPtr) -> cython.int:
    i: uint32_t
    work: cython.int = 0
    n: cython.int
    s: SourcePtr
    sources: SourceArray = p.sources
    for i in range(p.n_sources):
        s = sources[i]
        if s != cython.NULL:
            s.runs += 1
            n = s.poll(s, p.now)
            if n:
                s.busy += 1
                work += n
    for i in range(p.n_sources):
        s = sources[i]
        if s != cython.NULL and s.dirty:
            s.dirty = 0
            s.flush(s)
    return work


def _compact(p: PollerPtr) -> None:
    i: uint32_t
    kept: uint32_t = 0
    for i in range(p.n_sources):
        if p.sources[i] != cython.NULL:
            p.sources[kept] = p.sources[i]
            p.sources[kept].index = kept
            kept += 1
    p.n_sources = kept
    p.removed = 0


def _tick(p: PollerPtr) -> None:
    i: uint32_t
    s: SourcePtr
    for i in range(p.n_sources):
        s = p.sources[i]
        if s != cython.NULL and s.tick != cython.NULL:
            s.tick(s, p.now)
    p.next_tick = p.now + TICK_NS


def _sleep(p: PollerPtr) -> None:
    """Arm everything, look once more, sleep. A source that can't be armed keeps the poller awake by arm() true, or
    has it look again soon by nap_ns."""
    i: uint32_t
    s: SourcePtr
    found: cython.bint = False
    before: uint64_t
    longest: uint64_t = SLEEP_IN_FLIGHT_NS if p.in_flight else SLEEP_NS
    vd_store_u32(cython.address(p.sleeping), 1)
    vd_fence()  # pairs with the one in poller_push: sleeping written, then inbox read
    for i in range(p.n_sources):
        s = p.sources[i]
        if s == cython.NULL or s.arm == cython.NULL:
            continue
        if s.arm(s):
            found = True
        if s.nap_ns and s.nap_ns < longest:
            longest = s.nap_ns
    if not found and p.deferred == cython.NULL and vd_load_ptr(cython.address(p.inbox)) == cython.NULL:
        before = vd_clock_ns()
        _look_at_fds(p, longest, True)
        p.now = vd_clock_ns()
        p.sleep_ns += p.now - before
        p.sleeps += 1
    vd_store_u32(cython.address(p.sleeping), 0)
    for i in range(p.n_sources):
        s = p.sources[i]
        if s != cython.NULL and s.disarm != cython.NULL:
            s.disarm(s)


def poller_run(p: PollerPtr) -> None:
    """Run rounds until `stop`."""
    work: cython.int = 0
    slept: uint64_t
    last_work: uint64_t = vd_clock_ns()
    before: uint64_t = last_work
    p.now = before
    while not vd_load_u32(cython.address(p.stop)):
        work = 0
        if p.inbox != cython.NULL:
            work += _run_inbox(p)
        if p.deferred != cython.NULL:
            work += _run_deferred(p)
        if p.n_watched:
            _look_at_fds(p, 0, False)
        work += _poll_sources(p)
        if p.removed:
            _compact(p)
        if p.now >= p.next_tick:
            _tick(p)
        p.rounds += 1
        p.now = vd_clock_ns()
        p.heartbeat_ns = p.now
        if work:
            p.busy_ns += p.now - before
            last_work = p.now
        else:
            p.idle_ns += p.now - before
            if not p.busy_mode and p.now - last_work > p.poll_ns:
                slept = p.sleep_ns
                before = p.now
                _sleep(p)
                p.now = vd_clock_ns()
                p.idle_ns += p.now - before - (p.sleep_ns - slept)
            elif not p.busy_mode and p.now - last_work > YIELD_NS and not p.rounds & 7:
                sched_yield()  # whoever shares the core may be the one that is waited for
            else:
                vd_pause()
        before = p.now
