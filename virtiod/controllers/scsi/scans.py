"""When a controller's targets are looked at: one scan at a time, and again where one did not tell what it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from virtiod.controllers.scsi.discovery import Discovery, Found
from virtiod.controllers.scsi.unit import Unit
from virtiod.core.tasks import cancel, spawn

PAUSE_S = 0.02  # between scans: a device may ask for them without end
LOOK_AGAIN_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # at a target that did not answer


class Scans:
    """Of one controller. begins() is called before each, found() for each target as soon as it is known.

    may_run: whether the device can be asked now. What is asked for meanwhile waits for start().
    """

    def __init__(
        self,
        who: str,
        discovery: Discovery,
        may_run: Callable[[], bool],
        begins: Callable[[], None],
        found: Found,
    ) -> None:
        self._who = who
        self._discovery = discovery
        self._may_run = may_run
        self._begins = begins
        self._found = found
        self._wanted: set[int] | None = set()
        self._again: dict[int, tuple[float, int]] = {}  # targets: when, and how often they did not tell
        self._task: asyncio.Task[None] | None = None
        self._waits = False  # what is asked for during the first scan waits for start()

    @property
    def idle(self) -> bool:
        """Whether no scan is under way."""
        return self._task is None

    @property
    def settled(self) -> bool:
        """Whether none is, and none will be by itself: all targets have told what they are."""
        return self.idle and not self._again

    def ask(self, targets: set[int] | None) -> None:
        """Look at targets (None: all) soon; after the scan that is under way."""
        self._wanted = None if targets is None or self._wanted is None else self._wanted | targets
        self._start()

    def start(self) -> None:
        """The device can be asked now: begin what was asked for."""
        self._waits = False
        self._start()

    def _start(self) -> None:
        if self._wants() and self._task is None:
            self._task = spawn(self._run(), f"scan {self._who}")

    async def first(self) -> None:
        """Look at all targets, once. Returns when all are known but silent ones, for which it continues."""
        self._waits = True
        self.ask(None)
        task = self._task
        assert task is not None
        while not task.done() and (patience := self._discovery.patience()):
            await asyncio.wait({task}, timeout=patience)
        if task.done() and not task.cancelled():
            task.result()

    def due(self) -> set[int]:
        """Targets to be looked at again now, as they did not tell what they are."""
        if not self.idle:
            return set()
        now = asyncio.get_running_loop().time()
        return {target for target, (when, _) in self._again.items() if when < now}

    async def stop(self) -> None:
        """End the scan, and forget what was asked for."""
        self._wanted = set()
        await cancel(self._task)

    def _wants(self) -> bool:
        return (self._wanted is None or bool(self._wanted)) and self._may_run()

    async def _run(self) -> None:
        try:
            while self._wants():
                targets, self._wanted = self._wanted, set()
                self._begins()
                silent = await self._discovery.scan(targets, self._tell)
                unsure = {target for target in self._discovery.unsure() if targets is None or target in targets}
                for target in silent | unsure:
                    self._look_again(target)
                if self._waits:
                    break
                await asyncio.sleep(PAUSE_S)
        finally:
            self._task = None

    def _tell(self, target: int, units: list[Unit]) -> None:
        self._found(target, units)
        if target not in self._discovery.unsure():
            self._again.pop(target, None)

    def _look_again(self, target: int) -> None:
        times = self._again.get(target, (0.0, 0))[1]
        delay = LOOK_AGAIN_S[min(times, len(LOOK_AGAIN_S) - 1)]
        self._again[target] = asyncio.get_running_loop().time() + delay, times + 1
