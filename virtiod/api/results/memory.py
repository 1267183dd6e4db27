"""Results of the methods about memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from virtiod.core.described import Member


@dataclass(kw_only=True)
class SmallBuffers:
    """How buffers of 4 KiB were taken."""

    cache: Annotated[int, Member("taken from a poller's own")]
    main: Annotated[int, Member("always 0: pollers share no buffers")]
    retry: Annotated[int, Member("always 0: when all are in use, a large one is taken")]


@dataclass(kw_only=True)
class LargeBuffers:
    """How buffers of 64 KiB were taken."""

    cache: Annotated[int, Member("taken from a poller's own")]
    main: Annotated[int, Member("always 0: pollers share no buffers")]
    retry: Annotated[int, Member("times that there were too few")]


@dataclass(kw_only=True)
class BufferUse:
    """How the data buffers of all pollers were taken."""

    module: Annotated[str, Member('always "virtiod"')]
    small_pool: Annotated[SmallBuffers, Member("those of 4 KiB")]
    large_pool: Annotated[LargeBuffers, Member("those of 64 KiB")]


@dataclass(kw_only=True)
class WrittenFile:
    """A file that the daemon has written."""

    filename: Annotated[str, Member("its path")]
