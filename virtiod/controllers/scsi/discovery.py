"""Finds the disks behind a virtio-scsi controller: targets side by side, each with a deadline of its own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

from virtiod.controllers.identity import Identity, difference, silence
from virtiod.controllers.log_once import LogOnce
from virtiod.controllers.scsi.commands import BUFFER_BYTES, MAX_AT_ONCE, CheckCondition, Commands
from virtiod.controllers.scsi.config import ScsiConfig
from virtiod.controllers.scsi.unit import Unit
from virtiod.core.errors import (
    DeadlineError,
    DeviceError,
    InvalidArgument,
    LostError,
    NotFound,
    ProtocolError,
    RemovedError,
    VirtiodError,
)
from virtiod.scsi import cdb, parse
from virtiod.scsi.spec import Asc, ModePage, SenseKey, VpdPage

log = logging.getLogger(__name__)

TARGET_DEADLINE_S = 6.0
READY_DEADLINE_S = 4.0
READY_POLL_S = 0.05
GRACE_S = 0.5  # for a target's first answer, when others have given theirs
MAX_TOLD = 64  # units that can't be used

_NOT_READY = Asc.NOT_READY_CAUSE_NOT_REPORTABLE >> 8
Result = TypeVar("Result")


# (target, its disks in order of their LUNs)
Found = Callable[[int, list[Unit]], None]


class Verdict(enum.Enum):
    """On the disk at a unit's address."""

    SAME = enum.auto()
    OTHER = enum.auto()
    GONE = enum.auto()  # there is none
    UNKNOWN = enum.auto()  # it does not tell
    SILENT = enum.auto()  # it does not answer


class Discovery:
    """Scans what is behind `commands`, one scan at a time. who: the controller, in messages."""

    def __init__(self, who: str, commands: Commands, config: ScsiConfig, ring_size: int) -> None:
        self._said = LogOnce(log, who)
        self._commands = commands
        self._config = config
        self._ring_size = ring_size
        self._room = asyncio.Semaphore(MAX_AT_ONCE)
        self._left = 0  # targets of the scan
        self._asked: dict[int, float] = {}  # those that gave no answer yet, and since when
        self._heard = 0.0  # when one gave its first
        self._unused: dict[int, dict[int | None, str]] = {}  # by target and LUN (None: the target itself): why
        self._untold: dict[int, set[int]] = {}  # by target: LUNs that may be disks, but did not tell

    @property
    def unused(self) -> list[str]:
        """Units that answer nonsense and targets that could not be scanned, as they were looked at last, and why."""
        places = [(t, -1 if lun is None else lun, why) for t, luns in self._unused.items() for lun, why in luns.items()]
        told = [why for _, _, why in sorted(places)]
        more = [f"and {len(told) - MAX_TOLD} more"] if len(told) > MAX_TOLD else []
        return told[:MAX_TOLD] + more

    def untold(self, target: int) -> set[int]:
        """LUNs that did not tell what they are when the target was scanned last: not ready, silent, or nonsense."""
        return self._untold.get(target, set())

    def unsure(self) -> set[int]:
        """Targets with units that did not tell what they are when they were scanned last."""
        return set(self._untold)

    def nonsense(self, target: int) -> set[tuple[int, int]]:
        """Units that told what can't be when the target was scanned last."""
        return {(target, lun) for lun in self._unused.get(target, {}) if lun is not None}

    def add_untold(self, place: tuple[int, int]) -> None:
        """What the unit at a (target, LUN) told in this scan is not enough."""
        self._untold.setdefault(place[0], set()).add(place[1])

    async def scan(self, targets: Iterable[int] | None, found: Found) -> set[int]:
        """Scans targets (None: all); calls found() for each, as soon as it is known. Returns the silent ones."""
        wanted = set(range(self._config.max_target + 1) if targets is None else targets)
        self._left, self._heard = len(wanted), 0.0
        self._asked.clear()
        return {t for t in await asyncio.gather(*(self._target(t, found) for t in sorted(wanted))) if t is not None}

    def patience(self) -> float:
        """Seconds that waiting for the scan is worth, as known now. 0: only silent targets are left."""
        now = asyncio.get_running_loop().time()
        if self._left > len(self._asked) or not self._heard:
            return GRACE_S
        return max(0.0, max(self._heard, *self._asked.values()) + GRACE_S - now) if self._asked else 0.0

    async def _target(self, target: int, found: Found) -> int | None:
        """Scans a target; returns its number if it is to be scanned again: it did not answer, or nobody foresaw what it
        answered."""
        self._unused.pop(target, None)
        self._untold.pop(target, None)
        try:
            async with self._room:
                if self._commands.silent(target):
                    return target
                async with asyncio.timeout(TARGET_DEADLINE_S):
                    units = await self._scan_target(target)
            found(target, units)
        except (TimeoutError, VirtiodError) as error:
            why = str(error) or f"target {target}: the scan took too long"
            self._said.say(logging.WARNING, (target, why), "%s", why)
            return target
        except Exception as error:  # a bug of virtiod's, which must not cost the disks of other targets
            why = f"target {target} is not used: {type(error).__name__}: {error}"
            self._unused[target] = {None: why}
            self._said.say(logging.ERROR, (target, why), "%s", why, exc_info=error)
            return target
        finally:
            self._left -= 1
            self._asked.pop(target, None)
        return None

    async def compare(self, unit: Unit) -> tuple[Verdict, str]:
        """Whether the disk at the unit's address is that unit, and why not, or why that is not known."""
        try:
            now = await self._identity(unit)
        except (LostError, RemovedError):
            raise
        except DeviceError as error:
            return Verdict.SILENT if isinstance(error, DeadlineError) else Verdict.UNKNOWN, str(error)
        if now is None:
            return Verdict.GONE, "there is none"
        if why := difference(unit.identity, now):
            return Verdict.OTHER, why
        why = silence(unit.identity, now)
        return Verdict.UNKNOWN if why else Verdict.SAME, why

    async def _identity(self, unit: Unit) -> Identity | None:
        """The identity of the disk at the unit's address; None when there is none. Raises DeviceError.

        A unit that tells its names but not its size, as one that is not ready, has the size that it had.
        """
        target, lun = unit.place
        try:
            who = await self._inquire(target, lun)
            if not who.is_disk:
                return None
            serial = unit.serial and await self._name(target, lun, VpdPage.UNIT_SERIAL_NUMBER, parse.serial)
            designators = unit.designators and await self._name(
                target, lun, VpdPage.DEVICE_IDENTIFICATION, parse.designators
            )
            capacity = await self._size(unit, named=bool(serial or designators))
        except NotFound:
            return None
        return Identity(serial or "", capacity.block_size, capacity.blocks * capacity.block_size, designators or [])

    async def _size(self, unit: Unit, named: bool) -> parse.Capacity:
        """The unit's capacity; of a named unit that refuses to tell it the known one: its I/O will meet the same error.

        Raises NotFound, DeviceError; ProtocolError for nonsense, as the block size may be another one.
        """
        try:
            await self._make_ready(*unit.place)
            return await self._capacity(*unit.place)
        except (DeadlineError, LostError, ProtocolError, RemovedError):
            raise
        except DeviceError as error:
            if not named:
                raise
            why = str(error)
            self._said.say(logging.WARNING, (unit.place, why), "%s; it counts as large as it was", why)
            return unit.capacity

    async def hear(self, unit: Unit) -> None:
        """Has the unit tell the attentions that it has queued."""
        with contextlib.suppress(DeviceError, NotFound):
            await self._commands.run(*unit.place, cdb.test_unit_ready())

    async def make_ready(self, unit: Unit) -> None:
        """Raises NotFound, DeviceError if it does not become ready."""
        await self._make_ready(*unit.place)

    async def is_ready(self, unit: Unit) -> bool:
        """Whether it takes commands on its medium now."""
        try:
            await self._commands.run(*unit.place, cdb.test_unit_ready())
        except (DeviceError, NotFound):
            return False
        return True

    async def mode(self, unit: Unit) -> parse.Mode:
        """Of the unit, as it is now. Raises NotFound, DeviceError."""
        return await self._mode(*unit.place)

    async def _scan_target(self, target: int) -> list[Unit]:
        """Its disks in order of their LUNs; none where there is no such target."""
        try:
            await self._greet(target)
            luns = await self._luns(target)
        except NotFound:
            return []
        units = await asyncio.gather(*(self._unit(target, lun) for lun in luns if lun <= self._config.max_lun))
        return [unit for unit in units if unit is not None]

    async def _greet(self, target: int) -> None:
        """Have it answer, whatever it answers."""
        loop = asyncio.get_running_loop()
        self._asked[target] = loop.time()
        try:
            # Of an empty target this is the only command. It is answered whatever the unit's state is.
            await self._inquire(target, 0)
        except DeadlineError:
            raise
        except VirtiodError:
            self._heard = loop.time()
            raise
        self._heard = loop.time()
        del self._asked[target]

    async def _inquire(self, target: int, lun: int) -> parse.Inquiry:
        return parse.inquiry(await self._commands.run(target, lun, cdb.inquiry(), cdb.LONG))

    async def _luns(self, target: int) -> list[int]:
        """The LUNs of a target, by REPORT LUNS; LUN 0 alone when the target does not know the command.

        Raises DeviceError when it fails otherwise: the units that were there may still be.
        """
        try:
            data = await self._commands.run(target, 0, cdb.report_luns(BUFFER_BYTES), BUFFER_BYTES)
        except CheckCondition as error:
            if not error.unsupported:
                raise
            log.debug("%s: LUN 0 alone is looked at", error)
            return [0]
        luns, length = parse.luns(data)
        if length > BUFFER_BYTES:
            self._said.say(logging.WARNING, target, "target %d: only %d LUNs are used", target, len(luns))
        return luns or [0]

    async def _unit(self, target: int, lun: int) -> Unit | None:
        """The disk, None when there is none or it can't be used."""
        try:
            who = await self._inquire(target, lun)
            if not who.is_disk:
                return None
            unit = await self._describe(target, lun, who)
            unit.bdev_info(self._config, self._ring_size).check()
        except NotFound:
            return None
        except (DeviceError, InvalidArgument) as error:
            why = f"target {target} LUN {lun} is not used: {error}"
            if isinstance(error, (ProtocolError, InvalidArgument)):
                self._unused.setdefault(target, {})[lun] = why
            self.add_untold((target, lun))
            self._said.say(logging.WARNING, (target, lun, why), "%s", why)
            return None
        return unit

    async def _describe(self, target: int, lun: int, who: parse.Inquiry) -> Unit:
        await self._make_ready(target, lun)
        capacity = await self._capacity(target, lun)
        unit = Unit(target, lun, who, capacity, await self._mode(target, lun))
        serial = await self._name(target, lun, VpdPage.UNIT_SERIAL_NUMBER, parse.serial)
        designators = await self._name(target, lun, VpdPage.DEVICE_IDENTIFICATION, parse.designators)
        unit = dataclasses.replace(unit, serial=serial or "", designators=designators or [])
        pages = await self._page(target, lun, VpdPage.SUPPORTED_PAGES, parse.supported_pages) or frozenset()
        if VpdPage.BLOCK_LIMITS in pages:
            limits = await self._page(target, lun, VpdPage.BLOCK_LIMITS, parse.block_limits)
            unit = unit if limits is None else dataclasses.replace(unit, limits=limits)
        if VpdPage.LOGICAL_BLOCK_PROVISIONING in pages:
            thin = await self._page(target, lun, VpdPage.LOGICAL_BLOCK_PROVISIONING, parse.provisioning)
            unit = unit if thin is None else dataclasses.replace(unit, provisioning=thin)
        return unit

    async def _name(self, target: int, lun: int, page: int, parser: Callable[[bytes], Result]) -> Result | None:
        """A VPD page that tells who the unit is, whether it lists the page or not; None when it has none.

        Raises DeviceError when it fails to tell it, ProtocolError for nonsense: later it would seem to be another one.
        """
        try:
            return parser(await self._commands.run(target, lun, cdb.inquiry(page), cdb.LONG))
        except CheckCondition as error:
            if not error.refused:
                raise
            return None

    async def _page(self, target: int, lun: int, page: int, parser: Callable[[bytes], Result]) -> Result | None:
        """A VPD page, None when the unit has no usable one. Raises DeviceError when it fails to tell it."""
        try:
            return await self._name(target, lun, page, parser)
        except ProtocolError as error:
            log.debug("VPD page %#04x is not used: %s", page, error)
            return None

    async def _make_ready(self, target: int, lun: int) -> None:
        """Sends TEST UNIT READY until the unit is ready, and START STOP UNIT to a unit that waits for it."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + READY_DEADLINE_S
        started = False
        while True:
            try:
                await self._commands.run(target, lun, cdb.test_unit_ready())
                return
            except CheckCondition as error:
                reason = error.sense
                if reason is None or reason.key != SenseKey.NOT_READY or reason.asc != _NOT_READY or loop.time() > ends:
                    raise
                if reason.code == Asc.INITIALIZING_COMMAND_REQUIRED and not started:
                    started = True
                    await self._commands.run(target, lun, cdb.start_unit(), deadline_s=READY_DEADLINE_S)
                    continue
            await asyncio.sleep(READY_POLL_S)

    async def _capacity(self, target: int, lun: int) -> parse.Capacity:
        """The capacity, by READ CAPACITY(16), which tells more, or (10) where the unit does not know it."""
        try:
            return parse.capacity_16(await self._commands.run(target, lun, cdb.read_capacity_16(), 32))
        except CheckCondition as error:
            if not error.unsupported:
                raise
        found = parse.capacity_10(await self._commands.run(target, lun, cdb.read_capacity_10(), 8))
        if found is None:
            raise ProtocolError("the unit is too large for READ CAPACITY(10), and does not know (16)")
        return found

    async def _mode(self, target: int, lun: int) -> parse.Mode:
        """Write protection and cache, by MODE SENSE (10), else (6), else by trying."""
        tries: tuple[tuple[bytes, bool], ...] = (
            (cdb.mode_sense_10(ModePage.CACHING), True),
            (cdb.mode_sense_6(ModePage.CACHING), False),
        )
        told = True  # one that does not know the command tells that, too
        for command, long in tries:
            try:
                mode = parse.mode(await self._commands.run(target, lun, command, cdb.LONG), long)
            except (CheckCondition, ProtocolError) as error:
                log.debug("MODE SENSE is not used: %s", error)
                told = told and (isinstance(error, ProtocolError) or error.unsupported)
                continue
            if mode.write_cache is not None:
                return mode
            return dataclasses.replace(mode, write_cache=await self._flushes(target, lun))
        return parse.Mode(False, False, await self._flushes(target, lun), told)

    async def _flushes(self, target: int, lun: int) -> bool:
        """Whether a unit that does not tell of a cache takes SYNCHRONIZE CACHE."""
        try:
            await self._commands.run(target, lun, cdb.synchronize_cache())
        except CheckCondition as error:
            return not error.unsupported
        return True
