"""How a queue wakes its device, and is woken: kicks, interrupts, and naps where the device can't interrupt."""

from __future__ import annotations

import cython
from cython import address, cast
from cython.cimports.libc.errno import EINTR, errno
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.posix.unistd import write
from cython.cimports.virtiod.core import atomics
from cython.cimports.virtiod.core.types import SourcePtr
from cython.cimports.virtiod.virtqueue.queue import IoQueuePtr

# Sleeps of a poller that no interrupt would end: from the shortest on, each twice as long as the one before.
NAP_NS = cython.declare(uint32_t, 50_000)
NAP_IO_NS = cython.declare(uint32_t, 1_000_000)  # the longest while I/O is in flight
NAP_COMMAND_NS = cython.declare(uint32_t, 20_000_000)  # while only commands are, which may wait for ever


def flush(s: SourcePtr) -> None:
    q: IoQueuePtr = cast(IoQueuePtr, s)
    q.source.nap_ns = 0
    if q.vq.ops.publish(address(q.vq)):
        if q.kick_address:
            # Safety: the transport keeps it mapped until the queue is stopped.
            atomics.mmio_store_u16(q.kick_address, q.kick_index)
        else:
            _signal(q)
        q.kicks += 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _signal(q: IoQueuePtr) -> cython.void:
    """Writes to the eventfd. The device, which shares it, can fill it and make it block (O_NONBLOCK belongs to both):
    then the control plane interrupts this, and the device is lost."""
    one: uint64_t = 1
    q.source.poller.kicking = q.source.poller.now
    if write(q.kick_fd, address(one), 8) < 0 and errno == EINTR:
        q.blocked = q.vq.broken = 1
    q.source.poller.kicking = 0


def arm(s: SourcePtr) -> cython.bint:
    q: IoQueuePtr = cast(IoQueuePtr, s)
    if q.source.fd < 0:
        _nap(q)
        return q.n_retry != 0
    return q.vq.ops.arm(address(q.vq)) or q.n_retry != 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _nap(q: IoQueuePtr) -> cython.void:
    """Has the poller look again after a time that doubles while nothing completes: the device can't interrupt."""
    longest: uint32_t = NAP_IO_NS if q.n_in_flight != q.n_commands else NAP_COMMAND_NS
    nap: uint32_t = 2 * q.source.nap_ns if q.source.nap_ns else NAP_NS
    q.source.nap_ns = 0 if q.n_in_flight == 0 else nap if nap < longest else longest


def disarm(s: SourcePtr) -> None:
    q: IoQueuePtr = cast(IoQueuePtr, s)
    if q.source.fd < 0:
        return
    q.vq.ops.disarm(address(q.vq))
