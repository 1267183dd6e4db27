"""Has a SCSI host abort the I/O that it did not answer in time (ABORT TASK), so that only a silent unit's I/O fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from virtiod.controllers.scsi.commands import Commands
from virtiod.controllers.scsi.queue import ScsiQueue
from virtiod.core.counted import counted
from virtiod.core.errors import DeadlineError
from virtiod.virtio.scsi import TmfType

log = logging.getLogger(__name__)

SETTLE_S = 1.0  # for aborted requests to come back
SETTLE_POLL_S = 0.01


class Aborts:
    """Of the controller `who` at traddr. aborted(n): called for n requests that are being aborted.

    Units are addressed as in the requests: 8 bytes.
    """

    def __init__(
        self,
        who: str,
        traddr: str,
        commands: Commands,
        queues: Sequence[ScsiQueue],
        io_timeout_s: float,
        aborted: Callable[[int], None],
    ) -> None:
        self._who = who
        self._traddr = traddr
        self._commands = commands
        self._queues = queues
        self._io_timeout_s = io_timeout_s
        self._aborted = aborted

    async def silent_units(self, before: int) -> set[bytes]:
        """The units that forgot an I/O which they were given before that time (CLOCK_MONOTONIC, ns)."""
        timeout_ns = int(self._io_timeout_s * 1e9)
        return set().union(*[await queue.silent(before, timeout_ns) for queue in self._queues])

    async def abort(self, units: set[bytes], before: int, waited_for: Callable[[], bool]) -> None:
        """Abort what was submitted to silent units before that time, and what of it only reaches them when places get
        free, as long as users wait for it. Raises DeadlineError if the device does not give it back, or a VirtiodError
        of the commands."""
        loop = asyncio.get_running_loop()
        done: set[tuple[bytes, int]] = set()
        ends = loop.time() + SETTLE_S
        while waited_for():
            tasks = set(await self._overdue(units, before)) - done
            if tasks:
                late = counted(len(tasks), "request")
                log.warning("controller %s: aborts %s that took longer than %g s", self._who, late, self._io_timeout_s)
                self._aborted(len(tasks))
                await self._abort(tasks)
                done |= tasks
                ends = loop.time() + SETTLE_S
            elif loop.time() > ends:
                told = f"{self._traddr}: the device did not answer an I/O within {self._io_timeout_s:g} s"
                raise DeadlineError(told)
            await asyncio.sleep(SETTLE_POLL_S)

    async def _overdue(self, units: set[bytes], before: int) -> list[tuple[bytes, int]]:
        return [(unit, task) for unit in units for q in self._queues for task in await q.overdue_tasks(unit, before)]

    async def _abort(self, tasks: Iterable[tuple[bytes, int]]) -> None:
        await asyncio.gather(*(self._commands.manage(TmfType.ABORT_TASK, unit, task) for unit, task in tasks))
