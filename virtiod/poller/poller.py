"""Pollers as the control plane has them: the thread, commands to it, and where its answers arrive.

What the thread does is in rounds.py.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from typing import NamedTuple

import cython
from cython.cimports.libc.errno import errno
from cython.cimports.libc.stdint import int64_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memset
from cython.cimports.posix.unistd import close, read, write
from cython.cimports.virtiod.core.atomics import vd_clock_ns, vd_exchange_ptr, vd_relaxed_u64, vd_store_u32
from cython.cimports.virtiod.core.linux import (
    EFD_CLOEXEC,
    EFD_NONBLOCK,
    EPOLL_CLOEXEC,
    EPOLL_CTL_ADD,
    EPOLLIN,
    epoll_create1,
    epoll_ctl,
    epoll_event,
    eventfd,
)
from cython.cimports.virtiod.core.types import (
    Command,
    CommandPtr,
    Mailbox,
    MessagePtr,
    PollerCore,
    PollerPtr,
    SourceArray,
    SourcePtr,
    VoidPtr,
    command_fn,
)
from cython.cimports.virtiod.poller.rounds import MAX_SOURCES, command_run, in_order, poller_push, poller_run

log = logging.getLogger(__name__)


class PollerStats(NamedTuple):
    """Where a poller's time went; times in ns since it started."""

    busy_ns: int
    idle_ns: int
    sleep_ns: int
    rounds: int
    sleeps: int
    in_flight: int
    heartbeat_ns: int


class SourceStats(NamedTuple):
    """One polled thing: times polled, times that there was work, times that it ended a sleep."""

    name: str
    runs: int
    busy: int
    wakeups: int


class Control:
    """Where pollers answer: runs a Python callback on the event loop for each message that was announced."""

    box: Mailbox
    loop: asyncio.AbstractEventLoop | None
    callbacks: dict[int, Callable[[], object]]

    def __cinit__(self) -> None:
        self.box.head = cython.NULL
        self.box.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.box.fd < 0:
            raise OSError(errno, os.strerror(errno))

    def __init__(self) -> None:
        self.callbacks = {}
        self.loop = None

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver on this event loop from now on."""
        self.loop = loop
        loop.add_reader(self.box.fd, self.drain)

    def detach(self) -> None:
        """Deliver nothing any more."""
        if self.loop is not None:
            self.loop.remove_reader(self.box.fd)
            self.loop = None

    def expect(self, m: MessagePtr, callback: Callable[[], object]) -> None:
        """Call callback() when m arrives; once."""
        self.callbacks[cython.cast(cython.size_t, m)] = callback

    def forget(self, m: MessagePtr) -> None:
        """Expect m no longer."""
        self.callbacks.pop(cython.cast(cython.size_t, m), None)

    def drain(self) -> None:
        """Run the callbacks of all that has arrived."""
        count: uint64_t
        after: MessagePtr
        read(self.box.fd, cython.address(count), 8)
        m: MessagePtr = in_order(cython.cast(MessagePtr, vd_exchange_ptr(cython.address(self.box.head), cython.NULL)))
        while m != cython.NULL:
            after = m.next
            callback = self.callbacks.pop(cython.cast(cython.size_t, m), None)
            if callback is not None:
                try:
                    callback()
                except Exception:
                    log.exception("a callback of the data plane")  # those behind it still get their turn
            m = after

    def __dealloc__(self) -> None:
        if self.box.fd >= 0:
            close(self.box.fd)


@cython.final
@cython.cclass
class _Pending:
    """A command in flight: frees it and completes its future."""

    command: CommandPtr
    future: asyncio.Future[int]
    keep: object

    def __call__(self) -> None:
        result: int64_t = self.command.result
        free(self.command)
        self.command = cython.NULL
        if not self.future.done():
            self.future.set_result(result)


def _ping(p: PollerPtr, c: CommandPtr) -> int64_t:
    return c.arg


class Poller:
    """One polling thread, pinned to a core.

    mode is "adaptive" (sleeps after poll_us microseconds without work) or "busy" (never sleeps).
    """

    core: PollerPtr
    control: Control
    name: str
    id: int
    cpu: int
    tid: int
    mode: str
    thread: threading.Thread | None
    started: threading.Event
    owners: dict[int, object]

    def __cinit__(self) -> None:
        ev: epoll_event
        self.core = cython.cast(PollerPtr, calloc(1, cython.sizeof(PollerCore)))
        if self.core == cython.NULL:
            raise MemoryError
        self.core.sources = cython.cast(SourceArray, calloc(MAX_SOURCES, cython.sizeof(SourcePtr)))
        self.core.epfd = epoll_create1(EPOLL_CLOEXEC)
        self.core.evfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.core.sources == cython.NULL or self.core.epfd < 0 or self.core.evfd < 0:
            raise OSError(errno, os.strerror(errno))
        memset(cython.address(ev), 0, cython.sizeof(epoll_event))
        ev.events = EPOLLIN
        epoll_ctl(self.core.epfd, EPOLL_CTL_ADD, self.core.evfd, cython.address(ev))

    def __init__(self, control: Control, index: int, cpu: int, mode: str = "adaptive", poll_us: int = 200) -> None:
        self.control = control
        self.core.control = cython.address(control.box)
        self.name = f"poller_{index}"
        self.id = index + 1
        self.cpu = cpu
        self.mode = mode
        self.core.busy_mode = mode == "busy"
        self.core.poll_ns = poll_us * 1000
        self.owners = {}
        self.thread = None
        self.started = threading.Event()

    def start(self) -> None:
        """Start the thread; returns when it runs, pinned to its core (cpu -1: not pinned)."""
        self.thread = threading.Thread(target=self._main, name=self.name, daemon=True)
        self.thread.start()
        if not self.started.wait(10):
            raise TimeoutError(f"{self.name} did not start")

    def _main(self) -> None:
        self.tid = threading.get_native_id()
        if self.cpu >= 0:
            os.sched_setaffinity(0, {self.cpu})
        self.core.heartbeat_ns = vd_clock_ns()
        self.started.set()
        with cython.nogil:
            poller_run(self.core)

    def stop(self) -> None:
        """End the thread. Its sources must be gone; what is left is no longer polled."""
        one: uint64_t = 1
        if self.thread is None:
            return
        vd_store_u32(cython.address(self.core.stop), 1)
        write(self.core.evfd, cython.address(one), 8)
        self.thread.join(10)
        self.thread = None
        self.owners.clear()

    def command(
        self,
        fn: command_fn,
        ctx: VoidPtr,
        arg: int64_t = 0,
        arg2: int64_t = 0,
        out: VoidPtr = cython.NULL,
        keep: object = None,
    ) -> asyncio.Future[int]:
        """Post a command; a future of its result. keep stays alive until the command is answered, whatever becomes
        of the future: out may point into it."""
        c: CommandPtr = cython.cast(CommandPtr, calloc(1, cython.sizeof(Command)))
        if c == cython.NULL:
            raise MemoryError
        pending: _Pending = _Pending()
        pending.command = c
        pending.future = asyncio.get_running_loop().create_future()
        c.msg.run = command_run
        c.poller = self.core
        c.fn = fn
        c.ctx = ctx
        c.arg = arg
        c.arg2 = arg2
        c.out = out
        pending.keep = keep
        self.control.expect(cython.address(c.msg), pending)
        poller_push(self.core, cython.address(c.msg))
        return pending.future

    def own(self, s: SourcePtr, owner: object) -> None:
        """Keep owner alive while the poller polls its source s."""
        self.owners[cython.cast(cython.size_t, s)] = owner

    def disown(self, s: SourcePtr) -> None:
        self.owners.pop(cython.cast(cython.size_t, s), None)

    async def ping(self, value: int = 0) -> int:
        """A round trip through the poller; returns value."""
        return await self.command(_ping, cython.NULL, value)

    def stats(self) -> PollerStats:
        """Counters as they stand; each is exact, the set is not a snapshot."""
        p: PollerPtr = self.core
        return PollerStats(
            vd_relaxed_u64(cython.address(p.busy_ns)),
            vd_relaxed_u64(cython.address(p.idle_ns)),
            vd_relaxed_u64(cython.address(p.sleep_ns)),
            vd_relaxed_u64(cython.address(p.rounds)),
            vd_relaxed_u64(cython.address(p.sleeps)),
            p.in_flight,
            vd_relaxed_u64(cython.address(p.heartbeat_ns)),
        )

    def sources(self) -> list[SourceStats]:
        """What is polled here. Only owned sources are listed: their memory is safe to read."""
        s: SourcePtr
        found: list[SourceStats] = []
        for address in list(self.owners):
            s = cython.cast(SourcePtr, cython.cast(cython.size_t, address))
            found.append(SourceStats(s.name.decode(), s.runs, s.busy, s.wakeups))
        return found

    def __dealloc__(self) -> None:
        if self.core != cython.NULL:
            if self.core.epfd > 0:
                close(self.core.epfd)
            if self.core.evfd > 0:
                close(self.core.evfd)
            free(self.core.sources)
            free(self.core)
