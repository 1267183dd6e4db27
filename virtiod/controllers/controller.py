"""The state machine that every kind of controller shares.

    attaching -> up -> (reconnecting -> up)* -> detaching -> gone;   attaching -> detaching -> gone when it fails

A controller that loses its device keeps its bdevs and their I/O, and connects again (attempts.py says when). Then it
submits again what was in flight, and fails what waited longer than the I/O timeout. If its device was removed, it
detaches by itself. Detach always ends, and logs what it gave up.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import errno
import logging
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from virtiod.bdev import Bdev
from virtiod.bdev.keeping import OnLoss
from virtiod.controllers.attempts import Attempts
from virtiod.controllers.device import CONNECT_DEADLINE_S, Config, Context
from virtiod.controllers.ending import EndingDevice
from virtiod.controllers.request import AttachRequest
from virtiod.core.errors import (
    DeadlineError,
    DeviceError,
    NotFound,
    NotSupported,
    ProtocolError,
    RemovedError,
    VirtiodError,
)
from virtiod.core.levels import NOTICE
from virtiod.core.lograte import LogRate
from virtiod.core.saved import SavedCall, check_same
from virtiod.core.tasks import cancel, spawn
from virtiod.core.ticks import now_ns
from virtiod.transports.interface import Transport

log = logging.getLogger(__name__)

LEAVE_STEP_S = 0.05  # between failures of I/O that users of a lost device wait for
CHANGE_PAUSE_S = 0.02  # between two reads of the configuration: a device may tell of changes without end
BRIEF_S = 0.25  # lost again within it, a device that came back counts as an attempt that failed


class State(enum.StrEnum):
    ATTACHING = "attaching"
    UP = "up"
    RECONNECTING = "reconnecting"
    DETACHING = "detaching"
    GONE = "gone"


class Controller(EndingDevice[Config]):
    """One controller. The manager calls attach() once, then detach() once; between them it acts by itself."""

    def __init__(self, request: AttachRequest, transport: Transport, context: Context) -> None:
        super().__init__(request, transport, context)
        self.state = State.ATTACHING
        self.reconnects = 0
        self.io_timeouts = 0
        self.last_error = ""
        self.on_state: Callable[[Controller[Config]], None] | None = None
        self.on_removed: Callable[[Controller[Config]], None] | None = None  # detaches it: the device was removed
        self._loss: asyncio.Future[DeviceError] | None = None  # while it is not up: ended by the device's end
        self._returning: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()  # no I/O reaches the device: it is cut off, or all is held back
        self._up_since = 0.0
        self._down_since_ns = 0  # CLOCK_MONOTONIC; not later, if the device answered nothing in between
        self._said = LogRate(log)
        self._brief = 0  # times in a row that it came back and was lost at once
        self._changed = False  # the configuration, since it was read
        self._reconfiguring: asyncio.Task[None] | None = None

    # ---- what a kind of controller brings

    @abstractmethod
    async def _find_bdevs(self) -> None:
        """Registers the bdevs, each as soon as it is known. The device runs."""

    @abstractmethod
    async def _config_changed(self) -> None:
        """Reads the configuration again and updates the bdevs."""

    async def _end_tasks(self) -> None:
        """Ends the tasks of the kind of controller; no new ones start."""

    def _register(self, bdev: Bdev) -> None:
        self.context.bdevs.register(bdev)
        self.bdevs.append(bdev)

    # ---- its state

    @property
    def shown_state(self) -> State:
        """Its state as operators see it: one that waits for its device is attaching, between two attempts too."""
        failed = self._up_since == 0 and self.state in {State.DETACHING, State.GONE}
        return State.ATTACHING if failed and self.request.wait_for_device else self.state

    def saved_call(self) -> SavedCall:
        """The call that attaches it: as it was asked for, because other cores or another device give other queues."""
        params: dict[str, object] = {
            "name": self.name,
            "dev_type": self.dev_type,
            "trtype": self.trtype,
            "traddr": self.traddr,
        }
        if self.request.on_loss is not OnLoss.KEEP:
            params["on_loss"] = str(self.request.on_loss)
        asked = {"vq_count": self.request.vq_count, "vq_size": self.request.vq_size}
        params |= {name: value for name, value in asked.items() if value is not None}
        return SavedCall("bdev_virtio_attach_controller", params)

    def check_same(self, request: AttachRequest) -> None:
        """Raises AlreadyExists unless the request asks for this controller as it is.

        Its queues may be what was asked for then, or what the device gave. A request that names none takes any.
        """
        has = {"vq_count": None, "vq_size": None, "on_loss": str(OnLoss.KEEP), **self.saved_call().params}
        if self.shown_state is not State.ATTACHING:
            has |= {"vq_count": self.vq_count - self.fixed_queues, "vq_size": self.vq_size}
        asked = {name: getattr(request, name) for name in ("dev_type", "trtype", "traddr", "vq_count", "vq_size")}
        asked["on_loss"] = str(request.on_loss)
        for name in ("vq_count", "vq_size"):
            if asked[name] == getattr(self.request, name):
                asked[name] = None
        check_same(f"controller '{self.name}'", has, asked)

    def _enter(self, state: State, why: str = "") -> None:
        if state is self.state:
            return
        change = f"{self.state} -> {state}{f' ({why})' if why else ''}"
        level = self._level_of(state, why)
        self._said.say_state(level, "state", (level, state), "controller %s: %s", self.name, change)
        self.state = state
        if self.on_state:
            self.on_state(self)

    def _level_of(self, state: State, why: str) -> int:
        """At which to log that it enters a state: a loss is a warning, and a return worth a notice."""
        awaited = self.request.wait_for_device
        if state is State.RECONNECTING or (state is State.DETACHING and why):
            return logging.WARNING
        if state is State.UP and (self.state is State.RECONNECTING or awaited):
            return NOTICE
        # An absent device may be tried many times: its absence has been logged.
        return logging.DEBUG if awaited and not self._up_since else logging.INFO

    # ---- attach

    async def attach(self) -> list[str]:
        """Brings it up and registers its bdevs; returns their names. A failure leaves nothing behind."""
        try:
            async with asyncio.timeout(CONNECT_DEADLINE_S):
                await self._unless_lost(self._first_time())
        except TimeoutError:
            await self._abandon()
            raise DeadlineError(f"{self.traddr}: not attached within {CONNECT_DEADLINE_S:g} s") from None
        except (DeviceError, NotSupported) as error:
            hint = self._other_kind()
            await self._abandon()
            if not hint or hint in str(error):
                raise
            raise type(error)(f"{error}; {hint}", error.errno) from error
        except BaseException:
            await self._abandon()
            raise
        self.transport.on_config_change = self._config_change
        self._up_since = asyncio.get_running_loop().time()
        self._enter(State.UP)
        await self._catch_up()
        return [b.name for b in self.bdevs]

    async def _catch_up(self) -> None:
        """Memory may have grown while it came up. What fails now is a loss: it is up, and its bdevs are in use."""
        try:
            await self.share_memory()
        except VirtiodError as error:
            self._lost(error if isinstance(error, DeviceError) else DeviceError(str(error), error.errno))

    async def _first_time(self) -> None:
        await self._connect()
        await self._release()
        await self._find_bdevs()

    async def _unless_lost(self, work: Coroutine[Any, Any, None]) -> None:
        """Does the work; if the device is lost meanwhile, ends it and raises why."""
        self._loss = asyncio.get_running_loop().create_future()
        self.transport.on_lost = self._lost
        task = spawn(work, f"attach {self.name}", awaited=True)
        try:
            either: set[asyncio.Future[Any]] = {task, self._loss}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            if self._loss.done():  # perhaps just after the work was: nobody else would hear of it
                raise self._loss.result()
        finally:
            self._loss.cancel()
            await cancel(task)
            if not task.cancelled():
                task.exception()  # looked at, should this have been cancelled just when it failed

    async def _abandon(self) -> None:
        """Undoes whatever attach did."""
        self._enter(State.DETACHING)
        await self._end_tasks()
        await self._end_users_unanswered()
        await self._end()

    # ---- loss and return

    def _broken(self, index: int) -> None:
        blocked = any(queue.blocked for queue in self.all_queues if queue.index == index)
        why = "the device made its eventfd block" if blocked else "the device wrote an invalid used ring"
        self._lost(ProtocolError(f"{self.traddr}: queue {index}: {why}"), brief=blocked)

    def _lost(self, error: DeviceError, brief: bool = False) -> None:
        """Cuts a lost device off, and connects again. brief: as if it had been there for a moment only."""
        if self.state is not State.UP:
            if self._loss is not None and not self._loss.done():
                self._loss.set_result(error)
            return
        if isinstance(error, RemovedError):
            self._removed(error)
            return
        self.last_error = str(error)
        if not self._down_since_ns or self._answered_since(self._up_since):
            self._down_since_ns = now_ns()
        self._enter(State.RECONNECTING, str(error))
        brief = brief or asyncio.get_running_loop().time() - self._up_since < BRIEF_S
        self._brief = self._brief + 1 if brief else 0
        self._returning = spawn(self._return(), f"reconnect {self.name}")

    def _removed(self, error: VirtiodError) -> None:
        """Detaches: the device was removed, so connecting again is of no use."""
        if self.state is State.DETACHING:
            return
        self.last_error = str(error)
        self._enter(State.DETACHING, str(error))
        if self.on_removed:
            self.on_removed(self)

    async def _return(self) -> None:
        with contextlib.closing(self.transport.arrivals()) as arrivals:
            attempts = Attempts(arrivals, self._brief)
            await self._let_go()
            while True:
                await attempts.due()
                try:
                    await self._part_from_old()
                    await self._unless_lost(self._come_back())
                    break
                except (RemovedError, NotFound) as error:
                    self._removed(error)
                    return
                except Exception as error:
                    self._did_not_return(error)
                    await self._let_go()
        self.reconnects += 1
        self._up_since = asyncio.get_running_loop().time()
        self._returning = None
        self._enter(State.UP, "reconnected")
        await self._catch_up()
        self._config_change()

    async def _come_back(self) -> None:
        """What was acknowledged comes first; then what was in flight, and then what waited."""
        async with asyncio.timeout(CONNECT_DEADLINE_S):
            await self._connect()
        assert self.transport.epoch is not None
        await self.keeping.write_again(self.transport.epoch, self.request_queues[0])
        if len(self.context.memory.regions) != self._regions:  # I/O that waits may lie in what came meanwhile
            if not self.transport.memory_hot_add:
                raise DeviceError(f"{self.traddr}: DMA memory grew while writes were repeated")
            await self.transport.share_memory()
        self._idle.clear()
        await self._release()

    def _did_not_return(self, error: Exception) -> None:
        """Log why, unless it is the same as the last time."""
        foreseen = isinstance(error, (VirtiodError, TimeoutError, OSError))
        message = str(error) if foreseen else f"{type(error).__name__}: {error}"
        message = message or f"{self.traddr}: no answer within {CONNECT_DEADLINE_S:g} s"
        if message != self.last_error:
            level, traceback = (logging.WARNING, None) if foreseen else (logging.ERROR, error)
            self._said.say(level, ("attempt", message), "controller %s: %s", self.name, message, exc_info=traceback)
        self.last_error = message

    async def _cut_off(self) -> None:
        try:
            await super()._cut_off()
        finally:
            self._idle.set()

    async def _let_go(self) -> None:
        """Cut off a device that was lost. Raises nothing: it is to be tried again whatever fails here."""
        try:
            await self._cut_off()
            await self._expire()
        except Exception:
            log.exception("controller %s: cut its device off", self.name)

    # ---- supervision

    async def supervise(self) -> None:
        """Cuts off a device that forgot an I/O; fails I/O that waited too long for one that is away. The manager calls
        it from time to time."""
        before = self._expired_before()
        waits = self._waits_since(before)
        if self.state is State.RECONNECTING and (waits or self.waits_for):
            await self._expire()
        elif self.state is State.UP and waits and await self._forgot(before):
            seconds = self.context.io_timeout_s
            self._lost(DeadlineError(f"{self.traddr}: the device did not answer an I/O within {seconds:g} s"))

    def _waits_since(self, before: int) -> bool:
        """Whether a user waits for an I/O since before that time (CLOCK_MONOTONIC, ns)."""
        return any(0 < b.channels.oldest_ns() < before for b in self.bdevs)

    async def _forgot(self, before: int) -> bool:
        """Whether the device forgot an I/O that it was given before that time. One that waits here is not its fault."""
        timeout_ns = int(self.context.io_timeout_s * 1e9)
        return any([await queue.overdue(before, timeout_ns) for queue in self.request_queues])

    def _answered_since(self, when: float) -> bool:
        """Whether the device answered an I/O after that time (CLOCK_MONOTONIC, s)."""
        return any(queue.progress_ns > when * 1e9 for queue in self.request_queues)

    def _expired_before(self) -> int:
        """What waits since before this time (CLOCK_MONOTONIC, ns) waits too long; 0: nothing does."""
        timeout_ns = int(self.context.io_timeout_s * 1e9)
        return max(0, now_ns() - timeout_ns) if timeout_ns else 0

    def _away_too_long(self) -> bool:
        return self._down_since_ns < self._expired_before()

    async def _expire(self) -> None:
        """Fail what waited too long. The device is cut off. It had the time to answer what it was given, and gets no
        second one; what it was not given waits for its return, from when it was lost."""
        before = self._expired_before()
        if not before or self._letting_go:  # it is not known yet whether their buffers go into quarantine
            return
        away = self._away_too_long()
        if away:
            await self.keeping.fail_waiting(errno.ETIMEDOUT, before)
        for queue in self.request_queues:
            if queue.stopped:
                failing = queue.fail(errno.ETIMEDOUT, before) if away else queue.expire(before)
                self.io_timeouts += await failing
        self._fewer.set()

    async def share_memory(self) -> None:
        """Tells the device that DMA memory grew, before it sees an address there: it knows when this returns, or gets
        no I/O until it does."""
        if self.state is State.RECONNECTING and (self._idle.is_set() or not self._is_coming_back()):
            await self._idle.wait()  # if it was lost just now, its queues may still run
            return  # told when it comes back
        if self.state in {State.DETACHING, State.GONE} or (self.state is State.ATTACHING and not self.bdevs):
            return
        if self.transport.memory_hot_add or len(self.context.memory.regions) == self._regions:
            await self.transport.share_memory()
        else:
            self._lost(DeviceError(f"{self.traddr}: DMA memory grew, the back-end can't take more while it runs"))
            await self._idle.wait()

    def _is_coming_back(self) -> bool:
        return self._loss is not None and not self._loss.done()

    def _config_change(self) -> None:
        """The configuration has to be read again: once, for however many changes the device tells of meanwhile."""
        for bdev in self.bdevs:
            bdev.channels.doubt_cache()
        self._changed = True
        if self._reconfiguring is None:
            self._reconfiguring = spawn(self._reconfigure(), f"reconfigure {self.name}")

    async def _reconfigure(self) -> None:
        try:
            while self._changed and self.state is State.UP:
                self._changed = False
                try:
                    await self._config_changed()
                except VirtiodError as error:
                    told = "controller %s: could not apply the device's new configuration: %s"
                    self._said.say(logging.WARNING, "change", told, self.name, str(error))
                await asyncio.sleep(CHANGE_PAUSE_S)
        finally:
            self._reconfiguring = None

    # ---- detach

    async def detach(self) -> None:
        """Ends it, within deadlines: users end, I/O drains, the device stops, memory is freed."""
        was_up = self.state is State.UP
        self._enter(State.DETACHING)
        await self._end_tasks()
        await cancel(self._returning)
        self._returning = None
        if was_up:
            await asyncio.gather(*self._leave())
            await self._stop_gently()
        else:
            await self._end_users_unanswered()
        await self._end()

    async def _end_users_unanswered(self) -> None:
        """Cuts the device off and ends the use of its bdevs: nobody will answer the I/O that users wait for."""
        await self._cut_off()
        leaving = asyncio.gather(*self._leave())
        while not (await asyncio.wait({leaving}, timeout=LEAVE_STEP_S))[0]:
            await self._give_up(now_ns())
        await leaving

    def _leave(self) -> list[Awaitable[None]]:
        """Awaitables that end the use of its bdevs."""
        return [self.context.bdevs.unregister(bdev) for bdev in self.bdevs]

    async def _end(self) -> None:
        await self._cut_off()
        await cancel(self._reconfiguring)
        await self._give_up()
        for bdev in self.bdevs:
            await self.keeping.end(bdev)
        self._close_queues()
        await self.transport.release()
        self._enter(State.GONE)
