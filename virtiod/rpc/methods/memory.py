"""Methods about DMA memory and the data buffers in it."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

from virtiod.api.registry import method
from virtiod.api.results.memory import BufferUse, LargeBuffers, SmallBuffers, WrittenFile
from virtiod.api.services import Files
from virtiod.core.described import Member
from virtiod.core.errors import VirtiodError
from virtiod.core.threads import in_thread
from virtiod.system import System

_FILE = "memory.txt"
WRITE_S = 10.0


@method(reads=True)
async def iobuf_get_stats(system: System) -> Annotated[list[BufferUse], Member("one entry, for all buffers")]:
    """Returns how often data buffers were taken, and how often there were too few."""
    stats = [pool.stats() for pool in system.buffers]
    taken_small, taken_large, exhausted = (
        sum(one[name] for one in stats) for name in ("taken_small", "taken_large", "exhausted")
    )
    return [
        BufferUse(
            module="virtiod",
            small_pool=SmallBuffers(cache=taken_small, main=0, retry=0),
            large_pool=LargeBuffers(cache=taken_large, main=0, retry=exhausted),
        )
    ]


@method(errors={-errno.EIO: "the file could not be written; also any other -errno"})
async def env_dpdk_get_mem_stats(system: System, files: Files) -> WrittenFile:
    """Writes what DMA memory there is, and how much of it is in use, to a text file beside the RPC socket.

    The file is replaced each time. (SPDK's clients give the method its name: virtiod does not use DPDK.)
    """
    path = files.beside_socket(_FILE)
    try:
        await in_thread(partial(_replace, Path(path), report(system)), lambda _: None, WRITE_S, f"write {path}")
    except OSError as error:
        raise VirtiodError(f"{path}: {error.strerror}", error.errno) from error
    return WrittenFile(filename=path)


def report(system: System) -> str:
    """What there is of memory, as text."""
    memory = system.memory
    lines = [f"DMA memory: {memory.size} bytes, {memory.used} of them allocated, pages of {memory.page_size} bytes"]
    lines += [
        f"region {number}: {region.size} bytes at {region.address:#x}, offset {region.offset}"
        for number, region in enumerate(memory.regions)
    ]
    for poller, pool in zip(system.pollers, system.buffers, strict=True):
        stats = pool.stats()
        lines += [
            f"{poller.name}: {kind} buffers: {stats[kind]}, {stats[f'{kind}_free']} free, "
            f"{stats[f'kept_{kind}']} with kept writes, {stats[f'quarantined_{kind}']} in quarantine"
            for kind in ("small", "large")
        ]
    return "\n".join([*lines, ""])


def _replace(path: Path, text: str) -> None:
    """Writes a new file, so that nobody can foresee its name, and gives it its own. Raises OSError."""
    fd, new = tempfile.mkstemp(".new", f".{path.name}.", path.parent)  # O_EXCL, O_NOFOLLOW, mode 0600
    try:
        with os.fdopen(fd, "w") as file:
            file.write(text)
        Path(new).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(new).unlink()
        raise
