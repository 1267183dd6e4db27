"""The exceptions that set-up and control raise; the data path returns 0 or -errno instead.

    VirtiodError                    errno: what an RPC client gets as -errno
    ├── InvalidArgument             EINVAL     what the operator sent is not valid
    ├── NotFound                    ENODEV     no such bdev, controller, export
    ├── AlreadyExists               EEXIST
    │   └── AlreadyAttached         EEXIST     another controller drives the device
    ├── Busy                        EBUSY      it is in use, or about to end
    ├── NotSupported                EOPNOTSUPP
    ├── NoMemory                    ENOMEM     DMA memory is exhausted
    └── DeviceError                 EIO        a device or a peer misbehaved
        ├── ConnectError            its own errno (ENOENT, ECONNREFUSED, ...)
        ├── ProtocolError           EPROTO     it broke the protocol, or lacks what is needed
        ├── DeadlineError           ETIMEDOUT  it did not answer in time
        ├── LostError               ENOTCONN   the connection ended
        └── RemovedError            ENODEV     the device was removed, and does not come back

Messages name the command or the parameter, and the values.
"""

from __future__ import annotations

import errno


class VirtiodError(Exception):
    """The base of all exceptions. `errno` is positive."""

    errno: int = errno.EIO

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.errno = code


class InvalidArgument(VirtiodError):
    errno = errno.EINVAL


class NotFound(VirtiodError):
    errno = errno.ENODEV


class AlreadyExists(VirtiodError):
    errno = errno.EEXIST


class AlreadyAttached(AlreadyExists):
    pass


class Busy(VirtiodError):
    errno = errno.EBUSY


class NotSupported(VirtiodError):
    errno = errno.EOPNOTSUPP


class NoMemory(VirtiodError):
    errno = errno.ENOMEM


class DeviceError(VirtiodError):
    errno = errno.EIO


class ConnectError(DeviceError):
    """A connection could not be made. `code` is the errno of connect(2)."""


class ProtocolError(DeviceError):
    errno = errno.EPROTO


class DeadlineError(DeviceError):
    errno = errno.ETIMEDOUT


class LostError(DeviceError):
    errno = errno.ENOTCONN


class RemovedError(DeviceError):
    errno = errno.ENODEV
