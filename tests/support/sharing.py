"""How several processes share the tests (pytest-xdist): who runs what, and on which core.

Tests go one by one to the process that is free, but what is slow to start is started once: all tests that use it stay
together. The largest of these groups start first, so that the many small tests fill the time beside them.
"""

from __future__ import annotations

import os

TOGETHER = (  # how the ids of tests begin that stay together
    "tests/guest/",  # a guest for each variant, one after the other: each takes two cores by itself
    "tests/systemd/test_service.py",  # the package and the machine that it is installed on
    "tests/http/live/test_page.py",  # a browser
    "tests/e2e/test_spdk_rpc.py::test_bad_input",  # a daemon
    "tests/test_manuals.py",  # pages and completions are written once
)


def group_of(nodeid: str) -> str:
    """What is given to a process as a whole: a group, or the test alone."""
    return next((start for start in TOGETHER if nodeid.startswith(start)), nodeid)


def processes() -> int:
    """How many run tests: one more than there are cores, as many tests wait more than they work."""
    return len(os.sched_getaffinity(0)) + 1


def number() -> int:
    """Which one of them this is, from 0 on."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def cores(count: int) -> list[int]:
    """So many cores for the pollers of a test, [] where there are fewer: each process begins with another."""
    every = sorted(os.sched_getaffinity(0))
    first = number() % len(every)
    turned = every[first:] + every[:first]
    return sorted(turned[:count]) if count <= len(every) else []
