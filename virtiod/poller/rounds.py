"""The rounds of a poller: one thread that runs sources round after round, without the GIL.

A round: messages from other threads -> completions deferred by the last round -> sockets -> every source's poll ->
flush of the dirty ones -> every 10 ms a tick. After `poll_us` without work an adaptive poller arms its sources,
looks once more, and sleeps in epoll until an eventfd, a socket, a message or a tick wakes it.

Other threads reach a poller by its inbox only: a lock-free stack that they push to and that the poller takes whole.
Nothing is lost between looking and sleeping: the sleeper sets `sleeping`, then looks at the inbox; the sender pushes,
then looks at `sleeping`; a full barrier stands between the two steps on either side.

run() is what a thread does. A simulation has no threads, and calls what run() consists of.
"""

from __future__ import annotations

import cython
from cython import NULL, address, cast, sizeof
from cython.cimports.libc.errno import ENOSPC, errno
from cython.cimports.libc.stdint import int64_t, uint32_t, uint64_t
from cython.cimports.libc.string import memset
from cython.cimports.posix.unistd import read, write
from cython.cimports.virtiod.core import atomics, clock, linux
from cython.cimports.virtiod.core.linux import epoll_event
from cython.cimports.virtiod.core.types import (
    COMMAND_LATER,
    CommandPtr,
    IoPtr,
    MailboxPtr,
    MessagePtr,
    PollerPtr,
    ReadyFlag,
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
    """Pushes m onto the lock-free stack whose newest message head points to."""
    old: MessagePtr
    while True:
        old = cast(MessagePtr, atomics.load_ptr(head))
        m.next = old
        if atomics.cas_ptr(head, old, m):
            break


def post(box: MailboxPtr, m: MessagePtr) -> None:
    """Hands a message to the control plane."""
    one: uint64_t = 1
    _push(address(box.head), m)
    write(box.fd, address(one), 8)


def push(p: PollerPtr, m: MessagePtr) -> None:
    """Hands a message to a poller, and wakes it if it sleeps."""
    one: uint64_t = 1
    _push(address(p.inbox), m)
    atomics.fence()  # pairs with the one in settle: inbox written, then sleeping read
    if atomics.load_u32(address(p.sleeping)):
        write(p.evfd, address(one), 8)


def in_order(m: MessagePtr) -> MessagePtr:
    """The messages of a stack that was taken whole, oldest first."""
    done: MessagePtr = NULL
    after: MessagePtr
    while m != NULL:
        after = m.next
        m.next = done
        done = m
        m = after
    return done


# ---- the poller's thread -------------------------------------------------------------------------


def add_source(p: PollerPtr, s: SourcePtr) -> cython.int:
    """Starts to poll s. -ENOSPC when there are too many sources, -errno of epoll_ctl."""
    ret: cython.int
    if p.n_sources >= MAX_SOURCES:
        return -ENOSPC
    s.poller = p
    s.ready = ReadyFlag.IN if s.watched else 0
    s.wanted = 0
    if s.fd >= 0:
        ret = _ask(s, linux.EPOLL_CTL_ADD, ReadyFlag.IN)
        if ret < 0:
            return ret
    s.index = p.n_sources
    p.sources[p.n_sources] = s
    p.n_sources += 1
    return 0


def remove_source(p: PollerPtr, s: SourcePtr) -> None:
    """Stops polling s: from this call on none of its functions is called. Its own functions may call this."""
    if s.index >= p.n_sources or p.sources[s.index] != s:
        return
    unwatch(s)
    p.sources[s.index] = NULL
    p.removed += 1


def want(s: SourcePtr, want: cython.uint) -> None:
    """Sets what to watch a socket for: ReadyFlag.IN, OUT, both (GONE is then reported as well), or nothing."""
    if s.fd < 0 or s.wanted == want:
        return
    if not want:
        _forget(s)
    else:
        _ask(s, linux.EPOLL_CTL_MOD if s.wanted else linux.EPOLL_CTL_ADD, want)


def unwatch(s: SourcePtr) -> None:
    """Stops watching the socket of s, before it is closed; s is still polled, without a socket."""
    _forget(s)
    s.fd = -1


def _ask(s: SourcePtr, op: cython.int, want: cython.uint) -> cython.int:
    ev: epoll_event
    memset(address(ev), 0, sizeof(epoll_event))
    ev.events = (linux.EPOLLIN if want & ReadyFlag.IN else 0) | (linux.EPOLLOUT if want & ReadyFlag.OUT else 0)
    if s.watched and want & ReadyFlag.IN:
        ev.events |= linux.EPOLLRDHUP
    ev.data.ptr = s
    if linux.epoll_ctl(s.poller.epfd, op, s.fd, address(ev)) < 0:
        return -errno
    if s.watched and not s.wanted:
        s.poller.n_watched += 1
    s.wanted = want
    return 0


def _forget(s: SourcePtr) -> None:
    if s.wanted:
        linux.epoll_ctl(s.poller.epfd, linux.EPOLL_CTL_DEL, s.fd, NULL)
        s.poller.n_watched -= s.watched
        s.wanted = 0


def _ready_bits(events: uint32_t) -> cython.uint:
    return (
        (ReadyFlag.IN if events & (linux.EPOLLIN | linux.EPOLLRDHUP) else 0)
        | (ReadyFlag.OUT if events & linux.EPOLLOUT else 0)
        | (ReadyFlag.GONE if events & (linux.EPOLLHUP | linux.EPOLLERR) else 0)
    )


def defer(p: PollerPtr, io: IoPtr, status: cython.int) -> None:
    """Completes io with status in the next round, so that no done() runs inside a submit."""
    io.status = status
    io.msg.next = NULL
    if p.deferred == NULL:
        p.deferred = io
    else:
        p.deferred_tail.msg.next = cast(MessagePtr, io)
    p.deferred_tail = io


def answer(c: CommandPtr, result: int64_t) -> None:
    """Answers a command: its future completes with result."""
    c.result = result
    post(c.poller.control, address(c.msg))


def run_command(m: MessagePtr, p: PollerPtr) -> None:
    c: CommandPtr = cast(CommandPtr, m)
    result: int64_t = c.fn(p, c)
    if result != COMMAND_LATER:
        answer(c, result)


def run_inbox(p: PollerPtr) -> cython.int:
    n: cython.int = 0
    after: MessagePtr
    m: MessagePtr = in_order(cast(MessagePtr, atomics.exchange_ptr(address(p.inbox), NULL)))
    p.now = clock.now_ns()  # not before what was sent
    while m != NULL:
        after = m.next  # run() may free or reuse m
        m.run(m, p)
        m = after
        n += 1
    return n


def run_deferred(p: PollerPtr) -> cython.int:
    n: cython.int = 0
    after: IoPtr
    io: IoPtr = p.deferred
    p.deferred = NULL
    while io != NULL:
        after = cast(IoPtr, io.msg.next)
        io.msg.run(address(io.msg), p)
        io = after
        n += 1
    return n


def _look_at_fds(p: PollerPtr, timeout_ns: uint64_t, asleep: cython.bint) -> cython.int:
    """Calls epoll_wait, marks ready sockets and drains eventfds; returns how many sockets are ready."""
    events: epoll_event[64]
    count: uint64_t
    s: SourcePtr
    i: cython.int
    ready: cython.int = 0
    n: cython.int = linux.epoll_wait_ns(p.epfd, events, 64, timeout_ns)
    for i in range(n):
        s = cast(SourcePtr, events[i].data.ptr)
        if s == NULL:
            read(p.evfd, address(count), 8)
            continue
        s.wakeups += asleep
        if s.watched:
            s.ready |= _ready_bits(events[i].events)
            ready += 1
        else:
            linux.drain(s.fd)
    return ready


def poll_sources(p: PollerPtr) -> cython.int:
    i: uint32_t
    work: cython.int = 0
    n: cython.int
    s: SourcePtr
    sources: SourceArray = p.sources
    for i in range(p.n_sources):
        s = sources[i]
        if s != NULL:
            s.runs += 1
            n = s.poll(s, p.now)
            if n:
                s.busy += 1
                work += n
    for i in range(p.n_sources):
        s = sources[i]
        if s != NULL and s.dirty:
            s.dirty = 0
            s.flush(s)
    return work


def compact(p: PollerPtr) -> None:
    i: uint32_t
    kept: uint32_t = 0
    for i in range(p.n_sources):
        if p.sources[i] != NULL:
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
        if s != NULL and s.tick != NULL:
            s.tick(s, p.now)
    p.next_tick = p.now + TICK_NS


def turn(p: PollerPtr) -> cython.int:
    """Runs one round, and returns how much work there was."""
    work: cython.int = 0
    if p.inbox != NULL:
        work += run_inbox(p)
    if p.deferred != NULL:
        work += run_deferred(p)
    if p.n_watched:
        _look_at_fds(p, 0, False)
    work += poll_sources(p)
    if p.removed:
        compact(p)
    if p.now >= p.next_tick:
        _tick(p)
    p.rounds += 1
    p.now = clock.now_ns()
    p.heartbeat_ns = p.now
    return work


def settle(p: PollerPtr) -> uint64_t:
    """Arms all sources and polls once more. Returns for how long the poller may sleep (ns), 0 if there is work already.

    A source that can't be armed keeps the poller awake by returning true from arm(), or shortens the sleep by nap_ns.
    """
    i: uint32_t
    s: SourcePtr
    found: cython.bint = False
    longest: uint64_t = SLEEP_IN_FLIGHT_NS if p.in_flight else SLEEP_NS
    atomics.store_u32(address(p.sleeping), 1)
    atomics.fence()  # pairs with the one in push: sleeping written, then inbox read
    for i in range(p.n_sources):
        s = p.sources[i]
        if s == NULL or s.arm == NULL:
            continue
        if s.arm(s):
            found = True
        if s.nap_ns and s.nap_ns < longest:
            longest = s.nap_ns
    if found or p.deferred != NULL or atomics.load_ptr(address(p.inbox)) != NULL:
        return 0
    return longest


def sleep(p: PollerPtr, longest: uint64_t) -> None:
    """Waits for what was armed, for `longest` ns at most."""
    before: uint64_t = clock.now_ns()
    _look_at_fds(p, longest, True)
    p.now = clock.now_ns()
    p.sleep_ns += p.now - before
    p.sleeps += 1


def rise(p: PollerPtr) -> None:
    """Undoes what settle() did."""
    i: uint32_t
    s: SourcePtr
    atomics.store_u32(address(p.sleeping), 0)
    for i in range(p.n_sources):
        s = p.sources[i]
        if s != NULL and s.disarm != NULL:
            s.disarm(s)


def run(p: PollerPtr) -> None:
    """Runs rounds until `stop`."""
    work: cython.int
    slept: uint64_t
    longest: uint64_t
    last_work: uint64_t = clock.now_ns()
    before: uint64_t = last_work
    p.now = before
    while not atomics.load_u32(address(p.stop)):
        work = turn(p)
        if work:
            p.busy_ns += p.now - before
            last_work = p.now
        else:
            p.idle_ns += p.now - before
            if not p.busy_mode and p.now - last_work > p.poll_ns:
                slept = p.sleep_ns
                before = p.now
                longest = settle(p)
                if longest:
                    sleep(p, longest)
                rise(p)
                p.now = clock.now_ns()
                p.idle_ns += p.now - before - (p.sleep_ns - slept)
            elif not p.busy_mode and p.now - last_work > YIELD_NS and not p.rounds & 7:
                linux.sched_yield()  # the thread that shares the core may be the one that this poller waits for
            else:
                atomics.pause()
        before = p.now
