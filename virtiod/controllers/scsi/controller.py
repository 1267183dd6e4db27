"""The virtio-scsi controller: any number of disks, which may be added and removed (virtio 1.2 §5.6)."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from functools import partial

from msgspec import UNSET

from virtiod.bdev import Bdev, BdevInfo
from virtiod.bdev.channel import BdevChannels
from virtiod.bdev.keeping import KeptChannels
from virtiod.controllers.controller import Controller, State
from virtiod.controllers.description import ScsiUnit
from virtiod.controllers.device import Context
from virtiod.controllers.identity import difference, refusal, silence
from virtiod.controllers.request import AttachRequest
from virtiod.controllers.scsi import config as scsi_config
from virtiod.controllers.scsi import paths
from virtiod.controllers.scsi.aborts import Aborts
from virtiod.controllers.scsi.commands import Commands
from virtiod.controllers.scsi.config import ScsiConfig
from virtiod.controllers.scsi.control import ControlQueue, EventQueue
from virtiod.controllers.scsi.discovery import Discovery, Verdict
from virtiod.controllers.scsi.doubts import Doubts
from virtiod.controllers.scsi.events import EventListener, ReportReader, is_change
from virtiod.controllers.scsi.queue import ScsiQueue
from virtiod.controllers.scsi.scans import Scans
from virtiod.controllers.scsi.unit import Unit
from virtiod.core.errors import DeadlineError, DeviceError, NotSupported, ProtocolError, VirtiodError
from virtiod.core.levels import NOTICE
from virtiod.core.tasks import cancel, spawn
from virtiod.core.ticks import now_ns
from virtiod.scsi import address
from virtiod.scsi.parse import Mode
from virtiod.scsi.sense import Sense
from virtiod.scsi.spec import Asc
from virtiod.transports.epoch import Epoch
from virtiod.transports.interface import Transport
from virtiod.virtio.features import Feature, ScsiFeature
from virtiod.virtio.scsi import TmfType
from virtiod.virtio.scsi_config import CONFIG_SIZE
from virtiod.virtqueue.handle import RequestQueue
from virtiod.virtqueue.routes import Routes

log = logging.getLogger(__name__)

CONTROL, EVENT, FIRST_REQUEST = range(3)  # §5.6.2
RETRY_SHARE = 0.8  # of the I/O timeout: a busy unit's I/O is retried for so long
RETRY_S = 1e9  # without an I/O timeout: for ever


@dataclass(eq=False)
class _Disk:
    """A unit in use. routes must live as long as I/O may be in flight."""

    unit: Unit
    bdev: Bdev
    routes: Routes


class ScsiController(Controller[ScsiConfig]):
    """A virtio-scsi controller; the bdev of LUN 0 of target 3 is <name>t3, that of LUN 7 <name>t3l7."""

    dev_type = "scsi"
    wanted = (
        ScsiFeature.HOTPLUG,
        ScsiFeature.CHANGE,
        Feature.INDIRECT_DESC,
        Feature.EVENT_IDX,
        Feature.VERSION_1,
    )
    config_sizes = (CONFIG_SIZE,)
    fixed_queues = FIRST_REQUEST
    _commands: Commands | None = None
    _discovery: Discovery
    _aborts: Aborts | None = None
    _scans: Scans
    _looks: Doubts | None = None  # at units that may be other disks
    _events: EventListener | None = None
    _reports: ReportReader | None = None
    _aborting: asyncio.Task[None] | None = None

    def __init__(self, request: AttachRequest, transport: Transport, context: Context) -> None:
        super().__init__(request, transport, context)
        self._disks: dict[tuple[int, int], _Disk] = {}
        self._leaving: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._left: list[tuple[_Disk, bool]] = []  # whose I/O may be in flight; whether it was seen to be over
        self._doubts: dict[tuple[int, int], int] = {}  # of the disks' caches, when the scan began
        self._mute: set[tuple[int, int]] = set()  # units that did not answer in time when the device came back
        self._held: dict[Bdev, str] = {}  # disks whose I/O is held for longer than a look takes, and why
        self._clash: VirtiodError | None = None  # why a bdev could not be registered by attach

    # ---- what the state machine asks for

    def _check_return(self, config: ScsiConfig) -> None:
        """Raises ProtocolError if a limit is lower than at first: I/O was split by those limits."""
        for limit in ("cdb_size", "sense_size", "max_segments", "max_transfer", "cmd_per_lun"):
            before, now = getattr(self._config, limit), getattr(config, limit)
            if now < before or (now != before and limit.endswith("_size")):
                raise ProtocolError(f"{self.traddr}: the device came back with {limit} {now}, it was {before}")

    async def _check_identity(self) -> None:
        """Compares what tells disks apart. A removed unit is not another disk.

        One that does not tell who it is delays only its own I/O. Of one that is leaving, anything may be in the place.
        """
        self._mute.clear()
        for disk in [*map(self._disks.__getitem__, self._leaving), *(disk for disk, _ in self._left)]:
            self._disown(disk.bdev)
        disks = [disk for place, disk in self._disks.items() if place not in self._leaving]
        for error in await asyncio.gather(*map(self._check_disk, disks), return_exceptions=True):
            if error is not None:
                raise error

    async def _check_disk(self, disk: _Disk) -> None:
        assert self._looks is not None
        verdict, why = await self._looks.confirm(disk.unit, disk.bdev, restore=False)
        where = f"{self.traddr}: target {disk.unit.target} LUN {disk.unit.lun}"
        if verdict is Verdict.OTHER:
            raise refusal(where, why)
        if (
            verdict is Verdict.SAME
            and self.keeping.holds_io(disk.bdev)
            and not await self._discovery.is_ready(disk.unit)
        ):
            verdict, why = Verdict.UNKNOWN, "it is not ready"
        if verdict is not Verdict.SAME:
            disk.bdev.channels.doubt_identity(reset=True)  # what it had, and what comes, waits until it tells
        if verdict in {Verdict.UNKNOWN, Verdict.SILENT}:
            self._say_held(disk.unit, disk.bdev, why)
        if verdict is Verdict.SILENT:
            self._mute.add(disk.unit.place)

    async def _find_caches(self) -> None:
        """By the caching mode page. That of a unit that does not answer counts as volatile until a scan knows."""
        disks = [disk for place, disk in self._disks.items() if place not in self._leaving]
        await asyncio.gather(*map(self._find_cache, disks))

    async def _find_cache(self, disk: _Disk) -> None:
        doubts = disk.bdev.channels.cache_doubts()
        if disk.unit.place in self._mute:  # asking again would take its time again
            disk.bdev.channels.doubt_cache()
            return
        try:
            mode = (await self._discovery.mode(disk.unit)).after(disk.unit.mode)
        except VirtiodError:
            disk.bdev.channels.doubt_cache()
            return
        self._set_mode(disk, mode, disk.bdev.info, doubts)

    def _set_mode(self, disk: _Disk, mode: Mode, info: BdevInfo, doubts: int) -> None:
        if disk.bdev.channels.identity_in_doubt():
            disk.bdev.channels.doubt_cache()  # a flush must not succeed before what is kept was written again
        if not mode.fua:
            disk.bdev.channels.forget_native_fua()
        info = dataclasses.replace(info, write_cache=mode.write_cache is not False)
        self.context.bdevs.update(disk.bdev, info, doubts)

    async def _read_config(self, features: int) -> ScsiConfig:
        try:
            data = await self.transport.read_config(0, CONFIG_SIZE)
        except NotSupported:
            return ScsiConfig()
        try:
            return scsi_config.parse(data)
        except ProtocolError as error:
            raise ProtocolError(f"{self.traddr}: {error}") from None

    def _make_queues(self) -> list[RequestQueue]:
        pollers = self.context.pollers
        memory, size = self.context.memory, self.ring_size()
        control = ControlQueue(memory, pollers[0], self._ring(CONTROL, "control"))
        events = EventQueue(memory, pollers[0], self._ring(EVENT, "event"))
        segments = min(self._config.max_segments, size - 2)
        timeout = self.context.io_timeout_s
        queues = [
            ScsiQueue(
                memory,
                pollers[number % len(pollers)],
                self._ring(index, f"q{index}", segments),
                self._config,
                timeout * RETRY_SHARE if timeout else RETRY_S,
            )
            for number, index in enumerate(range(FIRST_REQUEST, FIRST_REQUEST + self._queue_count(self._config)))
        ]
        self.service_queues = [control, events]
        for queue in queues:
            queue.join(queues)
        self._commands = Commands(self.name, memory, queues, control, self._channels_of, self._told)
        self._discovery = Discovery(self.name, self._commands, self._config, size)
        self._scans = Scans(self.name, self._discovery, self._runs, self._scan_begins, self._compare)
        self._aborts = Aborts(self.name, self.traddr, self._commands, queues, timeout, self._aborted)
        self._looks = Doubts(self._discovery, queues, self._write_after_reset, self._looked, self._lost)
        self._reports = ReportReader(self.name, queues, self._rescan, self._tell_deferred, self._attention)
        return list(queues)

    async def _find_bdevs(self) -> None:
        """Registers the units of all targets; those of silent targets are waited for in the background."""
        events = self.service_queues[EVENT]
        assert isinstance(events, EventQueue)
        self._events = EventListener(self.name, events, self._rescan, self._doubt_identities, self._was_reset)
        await self._scans.first()
        if self._clash:
            raise self._clash
        if not self.bdevs and self.unused:
            raise ProtocolError(f"{self.traddr}: {'; '.join(self.unused)}")
        self.bdevs.sort(key=[disk.bdev for _, disk in sorted(self._disks.items())].index)

    @property
    def unused(self) -> list[str]:
        return self._discovery.unused if self.request_queues else []

    def _make_disk(self, unit: Unit) -> _Disk:
        channels = self._make_channels()
        routes = Routes(channels, self.request_queues, self._config.cmd_per_lun)
        channels.limit(unit.native(), unit.request_limits(self._config, self.ring_size()))
        address_ = int.from_bytes(address.pack(*unit.place), "little")
        channels.set_unit(address_, unit.mode.fua, unit.provisioning.write_same_unmap)
        name = unit.bdev_name(self.name)
        bdev = Bdev(
            name=name,
            info=unit.bdev_info(self._config, self.ring_size()),
            channels=channels,
            driver_specific=partial(self._driver_specific, unit),
            reset=partial(self._reset_unit, unit),
            **paths.identities(self.context.bdevs, unit, name, self.traddr),
        )
        return _Disk(unit, bdev, routes)

    def _driver_specific(self, unit: Unit) -> dict[str, object]:
        scsi = ScsiUnit(
            target=unit.target,
            lun=unit.lun,
            vendor=unit.inquiry.vendor,
            product=unit.inquiry.product,
            revision=unit.inquiry.revision,
            serial=unit.serial,
            other_paths=paths.others(self.context.bdevs, unit, unit.bdev_name(self.name)) or UNSET,
        )
        return {"virtio": self.description(), "scsi": scsi}

    # ---- units are added, change and are removed

    def _enter(self, state: State, why: str = "") -> None:
        super()._enter(state, why)
        if state is State.UP:
            self._scans.start()  # for what was heard of before

    async def _config_changed(self) -> None:
        """Looks at all targets again: the controller changed, or came back."""
        self._rescan(None)

    def _rescan(self, targets: set[int] | None) -> None:
        """Looks at targets (None: all) again, soon. Targets named during a scan are looked at after it.

        Until they were looked at, their caches count as volatile.
        """
        for place, disk in self._disks.items():
            if targets is None or place[0] in targets:
                disk.bdev.channels.doubt_cache()
        if self.request_queues:
            self._scans.ask(targets)

    def _runs(self) -> bool:
        return self.state in {State.ATTACHING, State.UP}

    def _scan_begins(self) -> None:
        self._doubts = {place: disk.bdev.channels.cache_doubts() for place, disk in self._disks.items()}

    def _compare(self, target: int, units: list[Unit]) -> None:
        """Adds, updates and removes bdevs of a target so that they are those of these units, and of untold ones."""
        if self._runs():
            self._distrust(target, {unit.place: unit for unit in units})
            self._settle(target, [unit for unit in units if unit.lun not in self._discovery.untold(target)])

    def _distrust(self, target: int, found: dict[tuple[int, int], Unit]) -> None:
        """Hold the I/O of disks whose place has told nonsense now, or not all the names that the disk told."""
        for place, disk in self._disks.items():
            if place[0] != target:
                continue
            unit = found.get(place)
            if unit is not None and silence(disk.unit.identity, unit.identity):
                self._discovery.add_untold(place)
            elif place not in self._discovery.nonsense(target):
                continue
            disk.bdev.channels.doubt_identity()
        self._look_at_doubts()

    def _settle(self, target: int, units: list[Unit]) -> None:
        known = {place: disk.unit for place, disk in self._disks.items()}
        found = {unit.place: unit.after(known.get(unit.place, unit)) for unit in units}
        for place, disk in list(self._disks.items()):
            if place in self._leaving or place[0] != target or place[1] in self._discovery.untold(target):
                continue
            if not self._stays(disk, found.get(place)):
                gone = "controller %s: target %d LUN %d is gone, and %s with it"
                self._said.say_state(logging.WARNING, place, "gone", gone, self.name, *place, disk.bdev.name)
                self._leaving[place] = spawn(self._remove(place), f"remove {disk.bdev.name}")
        for place, unit in found.items():
            if place in self._leaving:
                continue  # looked at again when it has left
            try:
                if place in self._disks:
                    self._update(self._disks[place], unit)
                else:
                    self._add(unit)
            except VirtiodError as error:
                if self.state is State.ATTACHING and self._clash is None:
                    self._clash = error
                log.warning("controller %s: target %d LUN %d: %s", self.name, *place, str(error))

    def _stays(self, disk: _Disk, unit: Unit | None) -> bool:
        """Whether that is the disk, as its users know it. If it is another one, or none, that gets none of its I/O."""
        channels = disk.bdev.channels
        if unit is None or not disk.unit.is_same_disk(unit):
            self._disown(disk.bdev)
        elif channels.identity_in_doubt() and difference(disk.unit.identity, unit.identity):
            return False
        return unit is not None and not channels.disowned and disk.unit.is_same(unit)

    def _add(self, unit: Unit) -> None:
        self.context.bdevs.check_free(unit.bdev_name(self.name))
        disk = self._make_disk(unit)
        self._register(disk.bdev)
        self._disks[unit.place] = disk
        found = "controller %s: target %d LUN %d is %s"
        level = logging.INFO if self.state is State.ATTACHING else NOTICE
        self._said.say_state(level, unit.place, "found", found, self.name, *unit.place, disk.bdev.name)
        paths.tell(self._said, self.name, self.context.bdevs, unit, disk.bdev, self.traddr)

    def _update(self, disk: _Disk, unit: Unit) -> None:
        disk.unit = unit
        self._set_mode(disk, unit.mode, unit.bdev_info(self._config, self.ring_size()), self._doubts.get(unit.place, 0))

    def _channels_of(self, target: int, lun: int) -> BdevChannels | None:
        disk = self._disks.get((target, lun))
        return None if disk is None else disk.bdev.channels

    def _told(self, target: int, lun: int, sense: Sense) -> None:
        """A command met a unit attention, or the error of an earlier command."""
        disk = self._disks.get((target, lun))
        if sense.deferred:
            if not sense.is_success:
                self._tell_deferred(target, lun, sense)
            return
        self._attention(target, sense.code)
        if disk is not None or is_change(sense):
            self._rescan({target})

    def _tell_deferred(self, target: int, lun: int, sense: Sense) -> None:
        """The loss is counted already."""
        if disk := self._disks.get((target, lun)):
            self.keeping.tell_loss(disk.bdev, f"acknowledged writes are lost, target {target} LUN {lun}: {sense}")

    async def _remove(self, place: tuple[int, int]) -> None:
        """Ends the use of a unit that is gone. Its I/O fails by itself: the device has no such unit."""
        disk = self._disks[place]
        try:
            await self.context.bdevs.unregister(disk.bdev)
        finally:
            if self._looks is not None:
                await self._looks.done(disk.bdev)
            await self.keeping.end(disk.bdev)
            del self._disks[place]
            self._held.pop(disk.bdev, None)
            self.bdevs.remove(disk.bdev)
            self._left.append((disk, False))
            del self._leaving[place]
        self._rescan({place[0]})  # it may be back

    # ---- units that may have become other disks

    def _attention(self, target: int, code: int) -> None:
        """A unit of the target reported that, to a command or to I/O. Its own I/O is held, if need be."""
        if code == Asc.REPORTED_LUNS_CHANGED:
            self._doubt_identities({target})
        self._look_at_doubts()

    def _doubt_identities(self, targets: set[int] | None) -> None:
        """Hold the I/O of all disks of these targets (None: of all) until they have said that they are the same."""
        for place, disk in self._disks.items():
            if targets is None or place[0] in targets:
                disk.bdev.channels.doubt_identity()
        self._look_at_doubts()

    def _was_reset(self, target: int, lun: int) -> None:
        """The device told that a unit was reset, or removed: if it is there, and the same, its cache may be empty."""
        if disk := self._disks.get((target, lun)):
            disk.bdev.channels.doubt_identity(reset=True)
        self._look_at_doubts()

    def _look_at_doubts(self) -> None:
        if self.state is State.RECONNECTING or self._looks is None or self._commands is None:
            return  # on its return all units are looked at
        if self.request_queues[0].stopped:
            return
        for place, disk in self._disks.items():
            if place in self._leaving or not disk.bdev.channels.identity_in_doubt():
                continue
            if self._commands.silent(place[0]):
                self._say_held(disk.unit, disk.bdev, "its target does not answer")
            else:
                self._looks.look(disk.unit, disk.bdev)

    def _looked(self, unit: Unit, bdev: Bdev, verdict: Verdict, why: str) -> None:
        if self.state is State.RECONNECTING:
            return
        who = self.name, *unit.place
        if verdict is Verdict.OTHER:
            self._disown(bdev)
            other = "controller %s: target %d LUN %d is another disk now, which gets no I/O of the old one: %s"
            self._said.say(logging.WARNING, (unit.place, why), other, *who, why)
        if verdict in {Verdict.SAME, Verdict.OTHER, Verdict.GONE}:
            if self._held.pop(bdev, None) and verdict is Verdict.SAME:
                log.log(NOTICE, "controller %s: target %d LUN %d is the same disk: I/O is held no more", *who)
            self._rescan({unit.target})
        else:
            self._say_held(unit, bdev, why)

    def _say_held(self, unit: Unit, bdev: Bdev, why: str) -> None:
        if self._held.get(bdev) != why:
            self._held[bdev] = why
            held = "controller %s: target %d LUN %d: I/O is held until it tells that it is the same disk, and ready: %s"
            log.warning(held, self.name, *unit.place, why)

    def _disown(self, bdev: Bdev) -> None:
        """Another disk may be in its place, which gets none of what was for this one."""
        if not bdev.channels.disowned:
            bdev.channels.disown()
            self.keeping.lose(bdev, "acknowledged writes of a disk that is gone are lost")

    async def _write_after_reset(self, bdev: Bdev, doubts: int) -> None:
        channels = bdev.channels
        assert isinstance(channels, KeptChannels)
        await channels.hold()
        await self.keeping.restore(bdev, channels, self.request_queues[0], doubts)
        await channels.let_go()

    # ---- I/O that takes too long, and resets

    async def _reset_unit(self, unit: Unit) -> None:
        if self.state is not State.UP or self._commands is None:
            raise DeviceError(f"controller {self.name} is {self.state}")
        await self._commands.manage(TmfType.LOGICAL_UNIT_RESET, address.pack(*unit.place))

    def _waits_since(self, before: int) -> bool:
        return super()._waits_since(before) or any(0 < d.bdev.channels.oldest_ns() < before for d, _ in self._left)

    async def supervise(self) -> None:
        # Forgotten when it was found without I/O twice: the last may just have ended.
        self._left = [(disk, not disk.bdev.channels.oldest_ns()) for disk, over in self._left if not over]
        if self.state is State.UP and (due := self._scans.due()):
            self._rescan(due)
        self._look_at_doubts()
        before = self._expired_before()
        if self._aborting is not None:
            return
        if self.state is State.UP and self._waits_since(before):
            assert self._aborts is not None
            units = await self._aborts.silent_units(before)
            if units:
                self._aborting = spawn(self._abort(units, before), f"abort {self.name}")
            return
        await super().supervise()

    async def _abort(self, units: set[bytes], before: int) -> None:
        """Have the device abort what it did not answer in time. One that can't is cut off, as every kind is."""
        assert self._aborts is not None
        try:
            await self._aborts.abort(units, before, partial(self._wait_for, units, before))
        except VirtiodError as error:
            if self.state is State.UP:
                self._lost(DeadlineError(str(error)))
        finally:
            self._aborting = None

    def _aborted(self, requests: int) -> None:
        self.io_timeouts += requests

    def _wait_for(self, units: set[bytes], before: int) -> bool:
        """Whether a user waits for one of the units since before that time."""
        disks = [*self._disks.values(), *(disk for disk, _ in self._left)]
        asked = [disk.bdev.channels for disk in disks if address.pack(*disk.unit.place) in units]
        return any(0 < channels.oldest_ns() < before for channels in asked)

    # ---- the end

    async def _cut_off(self) -> None:
        await super()._cut_off()
        if self._looks is not None:
            await self._looks.stop()
        if self.service_queues:  # what was asked of the lost device must not be asked of its successor
            await self.service_queues[CONTROL].fail(DeviceError.errno, now_ns())

    async def _is_heard(self) -> bool:
        return not any([await queue.unread() for queue in self.all_queues])

    async def _doubt(self, epoch: Epoch) -> None:
        """Commands to units end: their answers may still be written, over those to other commands."""
        await super()._doubt(epoch)
        for queue in self.request_queues:
            await queue.fail_commands(DeviceError.errno)
        if self._commands is not None:
            self.context.quarantine.keep(epoch, self._commands.renew_buffers())

    async def _end(self) -> None:
        await self._end_tasks()
        for listener in (self._events, self._reports):
            if listener is not None:
                await listener.stop()
        await super()._end()
        if self._commands is not None:
            await self._commands.stop()
            self._commands.close()

    async def _end_tasks(self) -> None:
        """Ends scan and abort, and starts no more. The removal of units that are gone continues."""
        for place in self._disks:
            self._said.forget_state(place)
        if self.request_queues:
            await self._scans.stop()
        await cancel(self._aborting)

    def _leave(self) -> list[Awaitable[None]]:
        stay = [disk.bdev for place, disk in self._disks.items() if place not in self._leaving]
        return [*self._leaving.values(), *(self.context.bdevs.unregister(bdev) for bdev in stay)]
