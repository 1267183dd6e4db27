"""All controllers by name."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterator

from virtiod.controllers.attempts import Attempts
from virtiod.controllers.blk.config import BlkConfig
from virtiod.controllers.blk.controller import BlkController
from virtiod.controllers.controller import Controller, State
from virtiod.controllers.device import MIN_VQ_SIZE, Context
from virtiod.controllers.request import AttachRequest
from virtiod.controllers.scsi.config import ScsiConfig
from virtiod.controllers.scsi.controller import ScsiController
from virtiod.core.counted import counted
from virtiod.core.errors import (
    AlreadyAttached,
    AlreadyExists,
    Busy,
    DeviceError,
    InvalidArgument,
    NotFound,
    VirtiodError,
)
from virtiod.core.lograte import LogRate
from virtiod.core.memory import Region
from virtiod.core.names import MAX_CONTROLLER_NAME, check_name, quoted
from virtiod.core.saved import SavedCall
from virtiod.core.tasks import cancel, spawn
from virtiod.transports.interface import Transport
from virtiod.transports.table import TRANSPORTS, DeviceKind

log = logging.getLogger(__name__)

MAX_VQ_COUNT = 256
SUPERVISION_S = 1.0
# Errors of a device that is absent, or is just starting.
ABSENT = frozenset(
    {
        *(errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ECONNREFUSED, errno.EAGAIN),
        *(errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNRESET, errno.EPIPE),
    }
)
AnyController = Controller[BlkConfig] | Controller[ScsiConfig]
KINDS: dict[str, type[AnyController]] = {"blk": BlkController, "scsi": ScsiController}


def check_request(request: AttachRequest) -> None:
    """Raises InvalidArgument for what can't be attached, whatever is at the address."""
    check_name("name", request.name, MAX_CONTROLLER_NAME)
    if request.dev_type not in KINDS:
        raise InvalidArgument(f"dev_type {request.dev_type!r}: must be {' or '.join(KINDS)}")
    if request.trtype not in TRANSPORTS:
        raise InvalidArgument(f"trtype {request.trtype!r}: must be {' or '.join(TRANSPORTS)}")
    transport = TRANSPORTS[request.trtype]
    transport.check_address(request.traddr)
    count, size = request.vq_count, request.vq_size
    if count is not None and not 1 <= count <= MAX_VQ_COUNT:
        raise InvalidArgument(f"vq_count {count}: must be from 1 to {MAX_VQ_COUNT}")
    if size is not None and (not MIN_VQ_SIZE <= size <= transport.max_vq_size or size & (size - 1)):
        raise InvalidArgument(f"vq_size {size}: must be a power of two from {MIN_VQ_SIZE} to {transport.max_vq_size}")


def place_of(trtype: str, traddr: str) -> tuple[str, str]:
    """Where a device is, however its address is spelt."""
    return trtype, os.path.realpath(traddr) if trtype == "user" else TRANSPORTS[trtype].check_address(traddr)


class ControllerManager:
    """The controllers that exist. Event-loop thread only; start() before the first attach."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.quarantine = context.quarantine
        self._transports = {
            name: kind(context.memory, context.allow_unbind, context.peer_grace_s) for name, kind in TRANSPORTS.items()
        }
        self._controllers: dict[str, AnyController] = {}
        self._awaited: dict[str, asyncio.Task[None]] = {}
        self._supervision: asyncio.Task[None] | None = None
        self._shared_regions = 0
        self._sharing = asyncio.Lock()
        self._end_growth: Callable[[], None] | None = None
        self._said = LogRate(log)
        self._endings: set[asyncio.Task[None]] = set()  # of controllers whose device was removed

    def start(self) -> None:
        """Starts the supervision of controllers."""
        self._supervision = spawn(self._supervise(), "supervise controllers")
        self._end_growth = self._context.memory.on_grow(self._memory_grew)

    def get(self, name: str) -> AnyController:
        """The controller of that name. Raises NotFound."""
        try:
            return self._controllers[name]
        except KeyError:
            raise NotFound(f"controller '{name}' does not exist") from None

    async def attach(self, request: AttachRequest) -> list[str]:
        """Attaches a controller; returns the names of its bdevs. Raises VirtiodError, and leaves nothing behind then.

        One that exists already stays, if it is the same. If the request waits for its device and that is absent: no
        names, and it is attached when the device appears.
        """
        check_request(request)
        if request.name in self._controllers:
            return self._existing(request)
        self._context.bdevs.check_free(request.name)
        self._check_unattached(request)
        controller = self._add(request)
        try:
            return await controller.attach()
        except BaseException as error:
            absent = isinstance(error, (DeviceError, NotFound)) and error.errno in ABSENT
            if request.wait_for_device and absent:
                known = str(error)
                log.warning("controller %s: %s; it is attached when the device appears", request.name, known)
                waiting = self._attach_when_there(self._add(request, known))
                self._awaited[request.name] = spawn(waiting, f"wait for {request.name}")
                return []
            del self._controllers[request.name]
            raise

    def _existing(self, request: AttachRequest) -> list[str]:
        """The names of the bdevs of a controller that exists, and is as it is asked for. Raises AlreadyExists."""
        controller = self._controllers[request.name]
        if request.name not in self._awaited and controller.state not in {State.UP, State.RECONNECTING}:
            raise AlreadyExists(f"controller '{request.name}' already exists, and is {controller.state}")
        controller.check_same(request)
        return [bdev.name for bdev in controller.bdevs]

    def _check_unattached(self, request: AttachRequest) -> None:
        """Raises AlreadyAttached if a controller drives that device: its target may keep a second one waiting."""
        place = place_of(request.trtype, request.traddr)
        for other in self.list():
            if place_of(other.trtype, other.traddr) == place:
                name, state = quoted(other.name), other.shown_state
                raise AlreadyAttached(f"{request.traddr} is attached already, as controller {name}, which is {state}")

    def _add(self, request: AttachRequest, failed: str = "") -> AnyController:
        """failed: why the device can't be attached yet."""
        controller = KINDS[request.dev_type](request, self._transport(request), self._context)
        controller.last_error = failed
        controller.on_removed = self._device_removed
        self._controllers[request.name] = controller
        return controller

    async def _attach_when_there(self, controller: AnyController) -> None:
        """Tries until it works, less and less often; logs a failure only if it differs from the last one."""
        with contextlib.closing(controller.transport.arrivals()) as arrivals:
            await self._try_to_attach(controller, Attempts(arrivals))
        self._awaited.pop(controller.name, None)

    async def _try_to_attach(self, controller: AnyController, attempts: Attempts) -> None:
        while True:
            await attempts.due()
            try:
                await controller.attach()
                return
            except Exception as error:
                foreseen = isinstance(error, VirtiodError)
                message = str(error) if foreseen else f"{type(error).__name__}: {error}"
                if message != controller.last_error:
                    level, traceback = (logging.WARNING, None) if foreseen else (logging.ERROR, error)
                    name = controller.name
                    self._said.say(level, (name, message), "controller %s: %s", name, message, exc_info=traceback)
                controller = self._add(controller.request, message)

    async def _wait_no_more(self, name: str) -> None:
        await cancel(self._awaited.pop(name))
        log.info("controller %s: no longer waits for its device", name)

    def _transport(self, request: AttachRequest) -> Transport:
        kind = KINDS[request.dev_type]
        device = DeviceKind(request.dev_type, kind.config_sizes, kind.fixed_queues)
        return self._transports[request.trtype].transport(request.traddr, device)

    async def detach(self, name: str) -> None:
        """Detaches a controller; returns when nothing of it is left. Raises NotFound, Busy."""
        controller = self.get(name)
        if name in self._awaited:
            await self._wait_no_more(name)
            controller = self._controllers[name]
            if controller.state is not State.UP:  # it did not come up just now
                del self._controllers[name]
                return
        if controller.state in {State.ATTACHING, State.DETACHING}:
            raise Busy(f"controller '{name}' is {controller.state}")
        await self._end(controller)

    def _device_removed(self, controller: AnyController) -> None:
        task = spawn(self._end(controller), f"end {controller.name}, whose device was removed")
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    async def _end(self, controller: AnyController) -> None:
        try:
            await controller.detach()
        finally:
            del self._controllers[controller.name]

    async def stop(self) -> None:
        """Detaches all controllers, side by side."""
        if self._end_growth:
            self._end_growth()
            self._end_growth = None
        for name in list(self._awaited):
            await self.detach(name)
        leaving = [c for c in self.list() if c.state not in {State.ATTACHING, State.DETACHING}]
        results = await asyncio.gather(*(self.detach(c.name) for c in leaving), return_exceptions=True)
        for controller, result in zip(leaving, results, strict=True):
            if isinstance(result, BaseException):
                log.error("controller %s: detach failed: %r", controller.name, result)
        given_up = sum(controller.given_up for controller in leaving)
        lost = f"gave up {counted(given_up, 'request')} in flight"
        what = lost if given_up else "all requests in flight were answered"
        log.info("%s detached: %s", counted(len(leaving), "controller"), what)
        if self._endings:
            await asyncio.wait(self._endings)
        await self.quarantine.stop()
        await cancel(self._supervision)
        self._supervision = None

    def cut_off(self) -> None:
        """Keeps all devices from memory: the process ends without stop()."""
        for controller in self.list():
            controller.transport.cut_off()

    async def _supervise(self) -> None:
        while True:
            await asyncio.sleep(SUPERVISION_S)
            for controller in self.list():
                try:
                    await controller.supervise()
                except Exception:
                    log.exception("controller %s: the check for overdue I/O failed", controller.name)

    # ---- memory

    def _memory_grew(self, _region: Region) -> None:
        spawn(self.publish_memory(), "publish DMA memory")

    async def publish_memory(self) -> None:
        """Returns when every device knows all of the DMA memory: await it before I/O to what was just allocated.

        A device that could not be told is logged, and told at the next call.
        """
        async with self._sharing:
            regions = len(self._context.memory.regions)
            if regions == self._shared_regions:
                return
            sharing = self.list()
            results = await asyncio.gather(*(c.share_memory() for c in sharing), return_exceptions=True)
            failed = [(c, r) for c, r in zip(sharing, results, strict=True) if isinstance(r, BaseException)]
            for controller, error in failed:
                log.warning("controller %s: share memory: %s", controller.name, error)
            if not failed:
                self._shared_regions = regions

    @property
    def awaits_device(self) -> bool:
        """Whether a controller is about to be attached, or will be when its device appears."""
        return any(controller.shown_state is State.ATTACHING for controller in self.list())

    def saved_calls(self) -> Iterator[SavedCall]:
        for controller in self.list():
            yield controller.saved_call()

    def list(self) -> list[AnyController]:
        return list(self._controllers.values())
