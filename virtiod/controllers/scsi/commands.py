"""Commands that the control plane sends to units: with deadlines, retried while the unit asks for it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

from virtiod.bdev.channel import BdevChannels
from virtiod.controllers.log_once import LogOnce
from virtiod.controllers.scsi import cause
from virtiod.controllers.scsi.control import ControlQueue
from virtiod.controllers.scsi.queue import CallBuffers, ScsiCall, ScsiQueue
from virtiod.core.errors import Busy, DeadlineError, DeviceError, NotFound, VirtiodError
from virtiod.core.memory import DmaMemory
from virtiod.core.tasks import cancel, spawn
from virtiod.scsi import address, sense
from virtiod.scsi.sense import Sense
from virtiod.scsi.spec import Asc, Opcode, SenseKey, Status
from virtiod.virtio.scsi import Response, TmfType

log = logging.getLogger(__name__)

BUFFER_BYTES = 16384  # 2047 LUNs of REPORT LUNS
MAX_AT_ONCE = 64
COMMAND_DEADLINE_S = 1.5
RETRY_S = (0.002, 0.01, 0.05, 0.1, 0.2)
MAX_ATTENTIONS = 16  # in a row; a unit may have several queued
TMF_DEADLINE_S = 2.0
MAX_UNANSWERED = 2  # of a target, which is asked nothing more until it has answered one
_RETRIED_RESPONSES = {Response.ABORTED, Response.RESET, Response.BUSY}
_RETRIED_STATUSES = {Status.BUSY, Status.TASK_SET_FULL, Status.TASK_ABORTED}
_UNSUPPORTED = {Asc.INVALID_OPCODE >> 8, Asc.INVALID_FIELD_IN_CDB >> 8}
_TELL_NO_ATTENTION = {Opcode.INQUIRY, Opcode.REPORT_LUNS}  # SPC-4 §5.14
_TMF_DONE = {Response.OK, Response.FUNCTION_SUCCEEDED}
_TMF_ERRORS: dict[int, str] = {
    Response.FUNCTION_REJECTED: "function rejected",
    Response.INCORRECT_LUN: "incorrect LUN",
}


class CheckCondition(DeviceError):
    """A unit refused a command."""

    def __init__(self, message: str, reason: Sense | None) -> None:
        super().__init__(message)
        self.sense = reason

    @property
    def unsupported(self) -> bool:
        """Whether the unit does not know the command, or not with this field."""
        reason = self.sense
        return reason is not None and reason.key == SenseKey.ILLEGAL_REQUEST and reason.asc in _UNSUPPORTED

    @property
    def refused(self) -> bool:
        """Whether the unit will answer the same if it is asked again."""
        return self.sense is not None and not self.sense.deferred and self.sense.key == SenseKey.ILLEGAL_REQUEST

    @property
    def aborted(self) -> bool:
        """The command failed on its way, or half-way: it is to be sent again."""
        return self.sense is not None and not self.sense.deferred and self.sense.key == SenseKey.ABORTED_COMMAND

    @property
    def passes(self) -> bool:
        """The command was not processed, because the unit had something else to tell: it may be asked again."""
        reason = self.sense
        return reason is not None and (reason.deferred or reason.key == SenseKey.UNIT_ATTENTION)


# (target, LUN, what the unit said of itself, or of an earlier command)
Told = Callable[[int, int, Sense], None]
# (target, LUN): the channels of the unit's bdev, if it has one
ChannelsOf = Callable[[int, int], BdevChannels | None]


class Commands:
    """The units behind a controller's queues. who: the controller, in messages.

    told() hears of unit attentions and deferred errors that a command met: no I/O will meet them again. The data path
    has put the unit's bdev in doubt, or counted the loss, when the answer came.
    """

    def __init__(
        self,
        who: str,
        memory: DmaMemory,
        queues: list[ScsiQueue],
        control: ControlQueue,
        channels_of: ChannelsOf,
        told: Told,
    ) -> None:
        self._who = who
        self._channels_of = channels_of
        self._told = told
        self._queues = queues
        self._control = control
        at_once = max(1, min(MAX_AT_ONCE, queues[0].size // 4))
        self._room = asyncio.Semaphore(at_once)
        # Twice as many: silent targets keep the buffers of their commands.
        self._buffers = CallBuffers(memory, 2 * at_once, BUFFER_BYTES)
        self._sent = 0
        self._unanswered: Counter[int] = Counter()
        self._aborts: set[asyncio.Task[None]] = set()
        self._said = LogOnce(log, who)

    def silent(self, target: int) -> bool:
        """Whether the target still has commands that ran into their deadlines, and more than one may just have lost."""
        return self._unanswered[target] >= MAX_UNANSWERED

    async def run(
        self, target: int, lun: int, cdb: bytes, length: int = 0, deadline_s: float = COMMAND_DEADLINE_S
    ) -> bytes:
        """Sends a command; returns what the unit answers, at most `length` bytes.

        Raises NotFound when there is no such unit, CheckCondition when it refuses, DeadlineError, DeviceError.
        """
        attentions, delays = 0, iter(RETRY_S)
        loop = asyncio.get_running_loop()
        what = f"target {target} LUN {lun}: command {cdb[0]:#04x}"
        reason: VirtiodError | None
        async with self._room:
            ends = loop.time() + deadline_s
            while True:
                try:
                    call = await self._send(target, lun, cdb, length, ends)
                    reason = self._verdict(call, what)
                except Busy as error:
                    reason = error
                if reason is None:
                    return call.data
                if isinstance(reason, CheckCondition) and not reason.aborted:
                    attentions += 1
                    if reason.sense is None or not reason.passes:
                        raise reason
                    self._told(target, lun, reason.sense)
                    if attentions > MAX_ATTENTIONS:
                        raise reason
                    continue
                delay = next(delays, RETRY_S[-1])
                if loop.time() + delay > ends:
                    raise reason
                await asyncio.sleep(delay)

    async def _send(self, target: int, lun: int, cdb: bytes, length: int, ends: float) -> ScsiCall:
        call = ScsiCall(self._buffers, address.pack(target, lun), cdb, length, self._channels_of(target, lun))
        queue = self._queues[self._sent % len(self._queues)]
        self._sent += 1
        answered = spawn(queue.call(call), f"command {cdb[0]:#04x} of {self._who}", awaited=True)
        try:
            await asyncio.wait({answered}, timeout=ends - asyncio.get_running_loop().time())
        except asyncio.CancelledError:
            if answered.done():
                self._hear(target, lun, call, answered)  # nobody else will
            raise
        finally:
            if not answered.done():
                self._abort(target, lun, call, answered)
        if not answered.done():
            raise DeadlineError(f"target {target} LUN {lun}: no answer to command {cdb[0]:#04x}")
        answered.result()
        return call

    def _hear(self, target: int, lun: int, call: ScsiCall, answered: asyncio.Future[None]) -> None:
        """Of an answer that nobody waits for, hear what the unit told with it."""
        if answered.cancelled() or answered.exception() is not None:
            return
        if call.response == Response.OK and call.status == Status.CHECK_CONDITION:
            reason = sense.parse(call.sense)
            if reason is not None and (reason.deferred or reason.key == SenseKey.UNIT_ATTENTION):
                self._told(target, lun, reason)

    def _abort(self, target: int, lun: int, call: ScsiCall, answered: asyncio.Future[None]) -> None:
        """Has the device abort a command that nobody waits for any more. Until it does, the command keeps its place.

        One that is aborted may have taken an attention along, of which nobody will hear: the unit is in doubt.
        """
        if call.channels is not None and call.opcode not in _TELL_NO_ATTENTION:
            call.channels.doubt_identity(reset=True)
        self._unanswered[target] += 1
        answered.add_done_callback(lambda done: self._late(target, lun, call, done))
        task = spawn(self._ask_back(target, lun, call, answered), f"abort {self._who}")
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)

    async def _ask_back(self, target: int, lun: int, call: ScsiCall, answered: asyncio.Future[None]) -> None:
        try:
            if call.id and not answered.done():
                await self.manage(TmfType.ABORT_TASK, address.pack(target, lun), call.id)
        except DeviceError as error:
            if not self._control.stopped:
                self._said.say(logging.WARNING, (target, lun), "%s", str(error))

    def _late(self, target: int, lun: int, call: ScsiCall, done: asyncio.Future[None]) -> None:
        self._unanswered[target] -= 1
        self._hear(target, lun, call, done)

    @staticmethod
    def _verdict(call: ScsiCall, what: str) -> DeviceError | None:
        """None if the command succeeded; a CheckCondition for the caller; a DeviceError when it is to be retried."""
        if call.response == Response.BAD_TARGET:
            raise NotFound(f"{what}: bad target")
        if call.response != Response.OK:
            error = DeviceError(f"{what}: {cause.response_name(call.response)}")
            if call.response not in _RETRIED_RESPONSES:
                raise error
            return error
        if call.status == Status.CHECK_CONDITION:
            reason = sense.parse(call.sense)
            if reason is not None and cause.is_missing(reason):
                raise NotFound(f"{what}: {reason}")
            if reason is not None and reason.is_success and not reason.deferred:
                return None
            return CheckCondition(f"{what}: {reason or 'check condition without sense'}", reason)
        if call.status != Status.GOOD:
            error = DeviceError(f"{what}: {cause.status_name(call.status)}")
            if call.status not in _RETRIED_STATUSES:
                raise error
            return error
        return None

    async def manage(self, function: TmfType, unit: bytes, task: int = 0) -> None:
        """Sends a task management function; returns when the device has done it, and raises DeviceError if not."""
        name = function.name.replace("_", " ")
        where = "target {} LUN {}".format(*(address.unpack(unit) or ("?", "?")))
        try:
            async with asyncio.timeout(TMF_DEADLINE_S):
                response = await self._control.tmf(function, unit, task)
        except TimeoutError:
            raise DeadlineError(f"{where}: no answer to {name} within {TMF_DEADLINE_S:g} s") from None
        if response not in _TMF_DONE:
            why = _TMF_ERRORS.get(response) or cause.response_name(response)
            raise DeviceError(f"{where}: {name}: {why}")

    def renew_buffers(self) -> list[int]:
        """The device may still write to the buffers: have new ones. Returns where the old are, now the caller's."""
        old, self._buffers = self._buffers, self._buffers.another()
        return [old.address]

    async def stop(self) -> None:
        """Ends the aborts under way, and starts no more."""
        await cancel(*self._aborts)

    def close(self) -> None:
        """Frees the buffers. The device must be cut off, with nothing in flight."""
        self._buffers.close()
