"""Why the data path failed or retried a command, in words: UnitReport.cause."""

from __future__ import annotations

from cython.cimports.virtiod.controllers.scsi.cause import Cause

from virtiod.scsi.sense import Sense
from virtiod.scsi.spec import Asc, SenseKey, Status
from virtiod.virtio.scsi import NO_RESPONSE, Response

_KIND = 0xFF000000
_STATUSES = frozenset(Status)


def response_name(response: int) -> str:
    """The name of a response (virtio 1.2 §5.6.6.1)."""
    if response == NO_RESPONSE:
        return "no response written"
    return _words(Response(response)) if response <= Response.FAILURE else f"response {response}"


def status_name(status: int) -> str:
    """The name of a SCSI status (SAM-5 §5.3)."""
    if status == Status.ACA_ACTIVE:
        return "ACA active"
    return _words(Status(status)) if status in _STATUSES else f"status {status:#04x}"


def _words(member: Response | Status) -> str:
    return member.name.lower().replace("_", " ")


def sense_of(cause: int) -> Sense | None:
    """The sense of a cause; None if the cause is something else."""
    if cause & _KIND != Cause.SENSE:
        return None
    return Sense(cause >> 16 & 0xF, cause >> 8 & 0xFF, cause & 0xFF, bool(cause & Cause.DEFERRED))


def is_missing(sense: Sense) -> bool:
    """Whether the sense says that there is no such unit."""
    return not sense.deferred and sense.key == SenseKey.ILLEGAL_REQUEST and sense.asc == Asc.LUN_NOT_SUPPORTED >> 8


def is_gone(cause: int) -> bool:
    """Whether the cause says that the unit was removed."""
    sense = sense_of(cause)
    if sense is not None:
        return is_missing(sense)
    return cause & _KIND == Cause.RESPONSE and cause & 0xFF == Response.BAD_TARGET


def describe(cause: int) -> str:
    """A text for people."""
    kind = cause & _KIND
    if kind == Cause.RESPONSE:
        return response_name(cause & 0xFF)
    if kind == Cause.STATUS:
        return status_name(cause & 0xFF)
    if kind == Cause.SENSE:
        return str(sense_of(cause))
    return "check condition without sense" if kind == Cause.NO_SENSE else "short transfer"
