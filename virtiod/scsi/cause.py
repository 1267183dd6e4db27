"""Why the data path failed or retried a command, in words: Report.cause of controllers/scsi/wire.pxd."""

from __future__ import annotations

from virtiod.scsi.sense import Sense

BAD_TARGET = 3
RESPONSES = (
    "ok", "overrun", "aborted", "bad target", "reset", "busy", "transport failure", "target failure", "nexus failure",
    "failure",
)  # fmt: skip
STATUSES = {
    0x00: "good",
    0x02: "check condition",
    0x04: "condition met",
    0x08: "busy",
    0x18: "reservation conflict",
    0x28: "task set full",
    0x30: "ACA active",
    0x40: "task aborted",
}
_RESPONSE, _STATUS, _SENSE, _NO_SENSE = range(1, 5)


def response_name(response: int) -> str:
    """virtio 1.2 §5.6.6.1."""
    if response == 0xFF:
        return "no response written"
    return RESPONSES[response] if response < len(RESPONSES) else f"response {response}"


def status_name(status: int) -> str:
    """SAM-5 §5.3."""
    return STATUSES.get(status, f"status {status:#04x}")


def sense_of(cause: int) -> Sense | None:
    """The sense, if it was that."""
    if cause >> 24 != _SENSE:
        return None
    return Sense(cause >> 16 & 0xF, cause >> 8 & 0xFF, cause & 0xFF)


def is_gone(cause: int) -> bool:
    """The unit is not there any more."""
    sense = sense_of(cause)
    if sense is not None:
        return sense.key == 5 and sense.asc == 0x25
    return cause >> 24 == _RESPONSE and cause & 0xFF == BAD_TARGET


def describe(cause: int) -> str:
    """For people."""
    kind = cause >> 24
    if kind == _RESPONSE:
        return response_name(cause & 0xFF)
    if kind == _STATUS:
        return status_name(cause & 0xFF)
    if kind == _SENSE:
        return str(sense_of(cause))
    return "check condition without sense" if kind == _NO_SENSE else "short transfer"
