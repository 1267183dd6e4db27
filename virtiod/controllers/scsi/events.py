"""What a virtio-scsi controller is told of its units: events (virtio 1.2 §5.6.6.3), and reports of the data path."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from virtiod.bdev.channel import OPS
from virtiod.controllers.log_once import LogOnce
from virtiod.controllers.scsi import cause, event
from virtiod.controllers.scsi.control import EventQueue
from virtiod.controllers.scsi.event import Event, What
from virtiod.controllers.scsi.queue import ScsiQueue, UnitReport
from virtiod.core.errors import DeviceError, ProtocolError
from virtiod.core.tasks import cancel, keep_going, spawn
from virtiod.scsi import address
from virtiod.scsi.sense import Sense
from virtiod.scsi.spec import Asc, SenseKey

log = logging.getLogger(__name__)

BUFFERS = 16  # that wait for events
REPOST_S = 0.1  # while the queue does not run
PAUSE_S = 0.02  # after an event, for each buffer: a device that floods is not served at its own rate
GATHER_S = 0.05  # reports are read at most so often
_CHANGES = {Asc.REPORTED_LUNS_CHANGED, Asc.INQUIRY_DATA_CHANGED}

# (targets to look at again; None: all)
Rescan = Callable[[set[int] | None], None]
# (targets of which any unit may be another disk now; None: all)
Doubt = Callable[[set[int] | None], None]
# (target, LUN of a unit that was reset, or removed and perhaps replaced)
Reset = Callable[[int, int], None]


def is_change(attention: Sense) -> bool:
    """Whether a unit attention tells of what a scan finds: PARAMETERS CHANGED of any kind (size, mode), LUNs, names."""
    return attention.code in _CHANGES or attention.asc == Asc.PARAMETERS_CHANGED >> 8


class EventListener:
    """Keeps buffers on the event queue while the controller exists; tells of what changed."""

    def __init__(self, who: str, queue: EventQueue, rescan: Rescan, doubt: Doubt, reset: Reset) -> None:
        self._who = who
        self._said = LogOnce(log, who)
        self._queue = queue
        self._rescan = rescan
        self._doubt = doubt
        self._reset = reset
        count = min(BUFFERS, queue.size)
        self._tasks = [spawn(keep_going(self._listen, f"events {who}"), f"events {who}") for _ in range(count)]

    async def _listen(self) -> None:
        while True:
            try:
                data = await self._queue.event()
            except DeviceError:
                await asyncio.sleep(REPOST_S)
                continue
            try:
                self._handle(event.parse(data))
            except ProtocolError as error:
                self._said.say(logging.WARNING, "nonsense", "%s", error)
            await asyncio.sleep(PAUSE_S)

    def _handle(self, what: Event) -> None:
        log.debug("controller %s: event: %s", self._who, what)
        place = what.target, what.lun
        if what.what is What.RESET:
            self._said.say(logging.WARNING, place, "target %d LUN %d was reset", *place)
        if what.what in {What.RESET, What.RESCAN, What.REMOVED}:
            self._reset(*place)
        targets = None if what.missed else {what.target}
        if what.missed or what.what in {What.RESCAN, What.REMOVED}:
            self._doubt(targets)
        if what.missed or what.what not in {What.NOTHING, What.RESET}:
            self._rescan(targets)

    async def stop(self) -> None:
        await cancel(*self._tasks)


class ReportReader:
    """Reads the data path's reports on units: logs each cause once, and has targets scanned again.

    lost: called with target, LUN and the sense that tells of acknowledged writes that the unit lost. attention: with
    the target and the Asc of a unit attention, or of a unit that is gone, which the data path has dealt with.
    """

    def __init__(
        self,
        who: str,
        queues: list[ScsiQueue],
        rescan: Rescan,
        lost: Callable[[int, int, Sense], None],
        attention: Callable[[int, int], None],
    ) -> None:
        self._who = who
        self._queues = queues
        self._rescan = rescan
        self._lost = lost
        self._attention = attention
        self._said = LogOnce(log, who)
        self._tasks: set[asyncio.Task[None]] = set()
        for queue in queues:
            self._expect(queue)

    def _expect(self, queue: ScsiQueue) -> None:
        queue.listen(lambda: self._start(queue))

    def _start(self, queue: ScsiQueue) -> None:
        task = spawn(self._read(queue), f"reports {self._who}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read(self, queue: ScsiQueue) -> None:
        await asyncio.sleep(GATHER_S)
        self._expect(queue)  # before they are taken: the next may come at once
        for report in await queue.take_reports():
            self._handle(report)

    def _handle(self, report: UnitReport) -> None:
        target, lun = address.unpack(report.unit) or (-1, -1)
        what = cause.describe(report.cause)
        reason = cause.sense_of(report.cause)
        key = (report.unit, report.cause)
        if reason is not None and reason.deferred:
            if not reason.is_success:
                self._lost(target, lun, reason)
            return
        if reason is not None and reason.key == SenseKey.UNIT_ATTENTION:
            self._said.say(logging.INFO, key, "target %d LUN %d: %s", target, lun, what)
            self._attention(target, reason.code)
            self._rescan({target})  # whatever it tells of: the data path doubts the cache's mode until then
            return
        if cause.is_gone(report.cause):
            self._attention(target, Asc.LUN_NOT_SUPPORTED)
            self._rescan({target})
        where = f"{OPS[report.op]} at byte {report.offset}"
        self._said.say(logging.WARNING, key, "target %d LUN %d: %s: %s", target, lun, where, what)

    async def stop(self) -> None:
        for queue in self._queues:
            queue.unlisten()
        await cancel(*self._tasks)
        for queue in self._queues:
            queue.unlisten()
