"""The clock of the data plane, and of whatever the control plane compares with its times: CLOCK_MONOTONIC, in ns.

A simulation has a clock of its own: it sets now_ns (clock.pxd) while nothing runs, and puts it back.
"""

from __future__ import annotations

from cython.cimports.libc.stdint import uint64_t
from cython.cimports.virtiod.core.clock import monotonic_ns


def _monotonic() -> uint64_t:
    return monotonic_ns()


now_ns = _monotonic


def read_ns() -> int:
    """Returns the time now."""
    at: uint64_t = now_ns()
    return at
