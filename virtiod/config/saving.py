"""Saves the state in the state file, however slow its disk is.

A thread writes one document after the other, each time the newest there is: an older one never replaces it. Who saves
waits until what it has to save is written, but no longer than SAVE_S, and not at all while a write takes longer than
that already. What was not written in time is written when the disk is back.
"""

from __future__ import annotations

import asyncio
import json
import logging
from functools import partial
from typing import Any

from virtiod.config.state import StateFile
from virtiod.core.levels import NOTICE
from virtiod.core.tasks import cancel, spawn
from virtiod.core.threads import at_leisure

SAVE_S = 10.0
CLOSE_S = 2.0  # for what is being written at the end

logger = logging.getLogger(__name__)


class Saver:
    """Saves to one file, until close(). Event-loop thread only."""

    def __init__(self, file: StateFile) -> None:
        self.unsaved = ""  # why the file does not have the newest document; "": it has
        self._file = file
        self._newest: dict[str, Any] = {}
        self._asked = 0  # how many documents there were
        self._refused = ""  # the document that could not be written last, spelt out
        self._waiting: list[tuple[int, asyncio.Future[str]]] = []  # who waits for which document
        self._began = 0.0  # when the write began, by the loop's time
        self._writing: asyncio.Task[None] | None = None

    async def save(self, document: dict[str, Any]) -> bool:
        """Returns whether there is something that is not written, which was not known to be so before."""
        text = json.dumps(document)
        known = text == self._refused
        self._asked += 1
        self._newest = document
        if self._writing is None or self._writing.done():
            self._writing = spawn(self._write(), f"save {self._file.path}")
        if not (why := await self._result(self._asked)):
            return False
        self._refused = text
        self.unsaved = f"state file {self._file.path}: {why}"
        logger.error("%s", self.unsaved)
        return not known

    async def close(self) -> None:
        """Waits shortly for what is being written."""
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=CLOSE_S)
            await cancel(self._writing)

    async def _result(self, number: int) -> str:
        """Why the document of that number, or a newer one, was not written; "" when it was."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[str] = loop.create_future()
        one = (number, waiter)
        self._waiting.append(one)
        stuck = self._began and loop.time() > self._began + SAVE_S
        try:
            async with asyncio.timeout(0 if stuck else SAVE_S):
                return await waiter
        except TimeoutError:
            return f"not written within {SAVE_S:g} s, the kernel still works on it"
        finally:
            if one in self._waiting:
                self._waiting.remove(one)

    async def _write(self) -> None:
        written = 0
        while written < self._asked:
            written, self._began = self._asked, asyncio.get_running_loop().time()
            why = ""
            try:
                await at_leisure(partial(self._file.write, self._newest), lambda _: None, f"write {self._file.path}")
            except OSError as error:
                why = error.strerror or str(error)
            self._began = 0.0
            if not why and written == self._asked:
                self._all_written()
            for number, waiter in self._waiting:
                if number <= written and not waiter.done():
                    waiter.set_result(why)

    def _all_written(self) -> None:
        if self.unsaved:
            logger.log(NOTICE, "state file %s: written again, with all that was not", self._file.path)
        self.unsaved = self._refused = ""
