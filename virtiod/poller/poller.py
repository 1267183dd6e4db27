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
from cython import NULL, address, cast, sizeof
from cython.cimports.libc.errno import errno
from cython.cimports.libc.stdint import int64_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memset
from cython.cimports.posix.unistd import close, read, write
from cython.cimports.virtiod.core import atomics, clock, linux
from cython.cimports.virtiod.core.linux import epoll_event
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
from cython.cimports.virtiod.poller import rounds

POLL_MODES = ("adaptive", "busy")  # sleeps when idle; never sleeps

log = logging.getLogger(__name__)


class PollerStats(NamedTuple):
    """How a poller spent its time; times in ns since it started."""

    busy_ns: int
    idle_ns: int
    sleep_ns: int
    rounds: int
    sleeps: int
    in_flight: int
    heartbeat_ns: int


class SourceStats(NamedTuple):
    """What one source counted: times polled, times that there was work, times that it ended a sleep."""

    name: str
    runs: int
    busy: int
    wakeups: int


class Control:
    """Receives the answers of pollers: runs a Python callback on the event loop for each expected message."""

    box: Mailbox
    loop: asyncio.AbstractEventLoop | None
    callbacks: dict[int, Callable[[], object]]

    def __cinit__(self) -> None:
        self.box.head = NULL
        self.box.fd = linux.eventfd(0, linux.EFD_CLOEXEC | linux.EFD_NONBLOCK)
        if self.box.fd < 0:
            raise OSError(errno, os.strerror(errno))

    def __init__(self) -> None:
        self.callbacks = {}
        self.loop = None

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts delivery on this event loop."""
        self.loop = loop
        loop.add_reader(self.box.fd, self.drain)

    def detach(self) -> None:
        """Ends delivery."""
        if self.loop is not None:
            self.loop.remove_reader(self.box.fd)
            self.loop = None

    def expect(self, m: MessagePtr, callback: Callable[[], object]) -> None:
        """Has callback() called once, when m arrives."""
        self.callbacks[cast(cython.size_t, m)] = callback

    def forget(self, m: MessagePtr) -> None:
        """Removes the callback of m."""
        self.callbacks.pop(cast(cython.size_t, m), None)

    def drain(self) -> None:
        """Runs the callbacks of all messages that have arrived."""
        count: uint64_t
        after: MessagePtr
        read(self.box.fd, address(count), 8)
        m: MessagePtr = rounds.in_order(cast(MessagePtr, atomics.exchange_ptr(address(self.box.head), NULL)))
        while m != NULL:
            after = m.next
            callback = self.callbacks.pop(cast(cython.size_t, m), None)
            if callback is not None:
                try:
                    callback()
                except Exception:
                    log.exception("a callback from a poller failed")  # the callbacks after it still run
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
        self.command = NULL
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
        self.core = cast(PollerPtr, calloc(1, sizeof(PollerCore)))
        if self.core == NULL:
            raise MemoryError
        self.core.sources = cast(SourceArray, calloc(rounds.MAX_SOURCES, sizeof(SourcePtr)))
        self.core.epfd = linux.epoll_create1(linux.EPOLL_CLOEXEC)
        self.core.evfd = linux.eventfd(0, linux.EFD_CLOEXEC | linux.EFD_NONBLOCK)
        if self.core.sources == NULL or self.core.epfd < 0 or self.core.evfd < 0:
            raise OSError(errno, os.strerror(errno))
        memset(address(ev), 0, sizeof(epoll_event))
        ev.events = linux.EPOLLIN
        linux.epoll_ctl(self.core.epfd, linux.EPOLL_CTL_ADD, self.core.evfd, address(ev))

    def __init__(self, control: Control, index: int, cpu: int, mode: str = "adaptive", poll_us: int = 200) -> None:
        self.control = control
        self.core.control = address(control.box)
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
        """Starts the thread; returns when it runs, pinned to its core (cpu -1: not pinned)."""
        linux.interruptible()
        self.thread = threading.Thread(target=self._main, name=self.name, daemon=True)
        self.thread.start()
        if not self.started.wait(10):
            raise TimeoutError(f"{self.name} did not start")

    def _main(self) -> None:
        self.tid = threading.get_native_id()
        if self.cpu >= 0:
            os.sched_setaffinity(0, {self.cpu})
        self.core.heartbeat_ns = clock.now_ns()
        self.started.set()
        with cython.nogil:
            rounds.run(self.core)

    def stop(self) -> None:
        """Ends the thread. Its sources should have been removed; any left are no longer polled."""
        one: uint64_t = 1
        if self.thread is None:
            return
        atomics.store_u32(address(self.core.stop), 1)
        write(self.core.evfd, address(one), 8)
        self.thread.join(10)
        self.thread = None
        self.owners.clear()

    def command(
        self,
        fn: command_fn,
        ctx: VoidPtr,
        arg: int64_t = 0,
        arg2: int64_t = 0,
        out: VoidPtr = NULL,
        keep: object = None,
    ) -> asyncio.Future[int]:
        """Posts a command; returns a future of its result.

        keep stays alive until the command is answered, even if the future is cancelled: out may point into it.
        """
        c: CommandPtr = cast(CommandPtr, calloc(1, sizeof(Command)))
        if c == NULL:
            raise MemoryError
        pending: _Pending = _Pending()
        pending.command = c
        pending.future = asyncio.get_running_loop().create_future()
        c.msg.run = rounds.run_command
        c.poller = self.core
        c.fn = fn
        c.ctx = ctx
        c.arg = arg
        c.arg2 = arg2
        c.out = out
        pending.keep = keep
        self.control.expect(address(c.msg), pending)
        rounds.push(self.core, address(c.msg))
        return pending.future

    def unblock(self, limit_ns: int) -> bool:
        """Interrupts a write to a device's eventfd that takes longer: one that is not full, or does not block, takes no
        time. Returns whether there was one."""
        since: uint64_t = atomics.relaxed_u64(address(self.core.kicking))
        if self.thread is None or since == 0 or clock.now_ns() < since + limit_ns:
            return False
        linux.interrupt(self.thread.ident)
        return True

    def own(self, s: SourcePtr, owner: object) -> None:
        """Keeps owner alive while the poller polls its source s."""
        self.owners[cast(cython.size_t, s)] = owner

    def disown(self, s: SourcePtr) -> None:
        self.owners.pop(cast(cython.size_t, s), None)

    async def ping(self, value: int = 0) -> int:
        """Sends value through the poller and returns it: all that was sent before has run then. For tests."""
        return await self.command(_ping, NULL, value)

    def stats(self) -> PollerStats:
        """The present counters: each is exact, but they are not read at one instant."""
        p: PollerPtr = self.core
        return PollerStats(
            atomics.relaxed_u64(address(p.busy_ns)),
            atomics.relaxed_u64(address(p.idle_ns)),
            atomics.relaxed_u64(address(p.sleep_ns)),
            atomics.relaxed_u64(address(p.rounds)),
            atomics.relaxed_u64(address(p.sleeps)),
            p.in_flight,
            atomics.relaxed_u64(address(p.heartbeat_ns)),
        )

    def sources(self) -> list[SourceStats]:
        """What its sources counted. Only owned sources are listed: their memory is safe to read."""
        s: SourcePtr
        found: list[SourceStats] = []
        for at in list(self.owners):
            s = cast(SourcePtr, cast(cython.size_t, at))
            found.append(SourceStats(s.name.decode(), s.runs, s.busy, s.wakeups))
        return found

    def __dealloc__(self) -> None:
        if self.core != NULL:
            if self.core.epfd > 0:
                close(self.core.epfd)
            if self.core.evfd > 0:
                close(self.core.evfd)
            free(self.core.sources)
            free(self.core)
