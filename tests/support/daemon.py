"""Stand-ins for what the RPC methods work on, so that they can be tested without devices."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast
from uuid import uuid4

from virtiod.bdev.channel import OPS
from virtiod.bdev.counters import ERRORS, NO_IO, BdevCounters, OpCounters
from virtiod.bdev.histogram import BUCKETS, bucket_of
from virtiod.bdev.iostat import IoStats
from virtiod.bdev.keeping import KeptCounters
from virtiod.bdev.notifications import Notifications
from virtiod.bdev.null import NullBdevs
from virtiod.bdev.options import BdevOptions
from virtiod.bdev.registry import BdevRegistry
from virtiod.bdev.spdk_histograms import Histograms
from virtiod.bdev.use import Use
from virtiod.controllers import ControllerManager
from virtiod.controllers.controller import State
from virtiod.controllers.description import VirtioDescription
from virtiod.controllers.hotplug import Hotplug
from virtiod.controllers.quarantine import InQuarantine
from virtiod.controllers.request import AttachRequest
from virtiod.core.errors import AlreadyExists, Busy, ConnectError, NotFound
from virtiod.core.saved import SavedCall
from virtiod.core.ticks import now_ns
from virtiod.daemon.daemon import Daemon
from virtiod.daemon.options import Options
from virtiod.exports.interface import ExportContext, Kinds
from virtiod.exports.nbd.export import NbdExport
from virtiod.exports.nbd.exports import NbdExports
from virtiod.exports.nbd.listener import ListenAddress
from virtiod.load.job import LoadCounters
from virtiod.load.report import LoadReport, figures
from virtiod.load.runner import LoadGenerator
from virtiod.load.workload import Workload
from virtiod.poller.poller import Poller
from virtiod.system import System

GIB = 1 << 30


class FakePoller:
    def __init__(self, index: int) -> None:
        self.name, self.id, self.cpu, self.tid, self.mode = (
            f"poller_{index}",
            index + 1,
            index,
            1000 + index,
            "adaptive",
        )

    def stats(self) -> Any:
        return SimpleNamespace(busy_ns=30, idle_ns=20, sleep_ns=50, rounds=7, sleeps=2, in_flight=3, heartbeat_ns=0)

    def sources(self) -> list[Any]:
        return [SimpleNamespace(name=f"{self.name}_queue", runs=10, busy=4, wakeups=0)]


class FakeHandle:
    def close(self) -> None:
        pass


class FakeIo(NamedTuple):
    op: str
    latency_ns: int
    size: int
    status: str  # of ERRORS, "" for success


@dataclass
class FakeChannel:
    """The I/Os that ended, and what a test says of those in flight."""

    ios: list[FakeIo] = field(default_factory=list)
    in_flight: int = 0
    busy_ns: int = 0


def counted(channels: Sequence[FakeChannel]) -> BdevCounters:
    ios = [io for channel in channels for io in channel.ios]
    ops = {op: _op_counted([io for io in ios if io.op == op]) for op in OPS}
    in_flight, busy_ns = sum(c.in_flight for c in channels), max(c.busy_ns for c in channels)
    return BdevCounters(ops, in_flight, 0, busy_ns, sum(op.time_ns for op in ops.values()))


def _op_counted(ios: Sequence[FakeIo]) -> OpCounters:
    times = [io.latency_ns for io in ios]
    done = [io for io in ios if not io.status]
    return OpCounters(
        submitted=len(ios),
        completed=len(done),
        failed=len(ios) - len(done),
        bytes=sum(io.size for io in done),
        time_ns=sum(times),
        min_ns=min(times, default=0),
        max_ns=max(times, default=0),
        errors=[sum(io.status == status for io in ios) for status in ERRORS],
        below=[],
        completed_ns=sum(io.latency_ns for io in done),
        completed_min_ns=min((io.latency_ns for io in done), default=0),
        completed_max_ns=max((io.latency_ns for io in done), default=0),
    )


@dataclass(eq=False)
class FakeBdev:
    """Tests write to `per_channel`, one for each poller, or call count()."""

    name: str
    pollers: list[FakePoller]
    virtio: VirtioDescription
    aliases: list[str] = field(default_factory=list)
    uuid: str = field(default_factory=lambda: str(uuid4()))
    unit: str = ""
    product_name: str = "VirtioBlk Disk"
    block_size: int = 512
    num_blocks: int = GIB // 512
    read_only: bool = False
    write_cache: bool = True
    claimed: bool = False
    in_use: list[Use] = field(default_factory=list)
    io_types: frozenset[str] = frozenset({"read", "write", "flush", "unmap", "write_zeroes"})
    extremes_reset: int = 0
    reset: Callable[[], Awaitable[None]] | None = None

    def __post_init__(self) -> None:
        self.per_channel = [FakeChannel() for _ in self.pollers]

    @property
    def size(self) -> int:
        return self.num_blocks * self.block_size

    def open(self, use: Callable[[], Use], on_resize: object = None, on_remove: object = None) -> FakeHandle:
        return FakeHandle()

    def uses(self) -> list[Use]:
        return self.in_use

    def driver_specific(self) -> dict[str, object]:
        return {"virtio": self.virtio}

    def channel_stats(self) -> list[tuple[FakePoller, BdevCounters]]:
        return [(p, counted([c])) for p, c in zip(self.pollers, self.per_channel, strict=True)]

    def stats(self) -> BdevCounters:
        return counted(self.per_channel)

    def latencies(self, ops: Sequence[str]) -> list[int]:
        counts = [0] * BUCKETS
        for io in (io for channel in self.per_channel for io in channel.ios if io.op in ops):
            counts[bucket_of(io.latency_ns)] += 1
        return counts

    def reset_extremes(self) -> None:
        self.extremes_reset += 1

    async def end_users(self) -> None:
        pass

    def count(self, op: str, latency_ns: int, *, channel: int = 0, size: int = 4096, status: str = "") -> None:
        """One I/O that ended; status: of ERRORS, "" for success."""
        self.per_channel[channel].ios.append(FakeIo(op, latency_ns, size, status))


class FakeControllers:
    """Attaches any blk socket path but those that tell of trouble."""

    def __init__(self, bdevs: BdevRegistry, pollers: list[FakePoller]) -> None:
        self._bdevs, self._pollers = bdevs, pollers
        self._controllers: dict[str, Any] = {}
        self.release = asyncio.Event()  # what attaching to "/slow" waits for
        self.quarantine = SimpleNamespace(kept=dict[str, InQuarantine])

    @property
    def awaits_device(self) -> bool:
        return False

    def saved_calls(self) -> Iterator[SavedCall]:
        for one in self.list():
            params = {name: getattr(one, name) for name in ("name", "dev_type", "trtype", "traddr")}
            known = ("vq_count", "vq_size") if one.trtype == "user" else ()
            queues = {name: getattr(one.description(), name) for name in known}
            yield SavedCall("bdev_virtio_attach_controller", {**params, **queues})

    def cut_off(self) -> None:
        pass

    async def attach(self, request: AttachRequest) -> list[str]:
        if request.traddr == "/refused":
            raise ConnectError("connect to /refused: Connection refused", 111)
        if request.traddr == "/slow":
            await self.release.wait()
        name = request.name if request.dev_type == "blk" else f"{request.name}t0"
        if request.name in self._controllers:
            if self._controllers[request.name].request != request:
                raise AlreadyExists(f"controller '{request.name}' already exists")
            return [name]
        described = VirtioDescription(
            vq_count=request.vq_count or 1, vq_size=request.vq_size or 256, type="user", socket=request.traddr
        )
        queue = SimpleNamespace(index=0, size=256, in_flight=1, kicks=5, interrupts=4, full=0, poller="poller_0")
        bdev = FakeBdev(name, self._pollers, described)
        self._controllers[request.name] = SimpleNamespace(
            name=request.name,
            dev_type=request.dev_type,
            trtype=request.trtype,
            traddr=request.traddr,
            state=State.UP,
            shown_state=State.UP,
            last_error="",
            reconnects=0,
            unused=[],
            waits_for="",
            fixed_queues=0,
            queues=[queue],
            description=lambda: described,
            request=request,
            kept_counters=lambda: KeptCounters(0, 0, 0, 0, 0),
            bdevs=[bdev],
        )
        self._bdevs.register(bdev)  # type: ignore[arg-type]
        return [name]

    async def detach(self, name: str) -> None:
        if name not in self._controllers:
            raise NotFound(f"controller '{name}' does not exist")
        if self._controllers[name].state is State.DETACHING:
            raise Busy(f"controller '{name}' is being detached")
        controller = self._controllers.pop(name)
        await self._bdevs.unregister(self._bdevs.get(name if controller.dev_type == "blk" else f"{name}t0"))

    def list(self) -> list[Any]:
        return list(self._controllers.values())


class FakeHotplug(Hotplug):
    def __init__(self) -> None:
        self._asked = {}

    @property
    def now(self) -> dict[str, object]:
        return self._asked

    def set(self, enable: bool, period_us: int | None = None) -> None:
        self._asked = {"enable": enable, "period_us": period_us}


class FakeExports(NbdExports):
    """Without listeners. Once it is told to hang its stop() never ends."""

    def __init__(self, bdevs: BdevRegistry, ended: list[str]) -> None:
        super().__init__(ExportContext(bdevs, ()))
        self._ended = ended
        self.hang = False

    async def listen(self, address: ListenAddress) -> None:
        pass

    def uris(self, export: NbdExport) -> Sequence[str]:
        return [f"nbd+unix:///{export.name}?socket=/nbd.sock"]

    async def stop(self, deadline_s: float = 0) -> None:
        try:
            if self.hang:
                await asyncio.sleep(3600)
        finally:
            self._ended.append("exports")


class FakeLoad:
    """Notes what it was asked for, and reports `report`."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], Workload, Sequence[int] | None, bool]] = []
        nothing = figures(LoadCounters(0, 0, NO_IO, [], 0, 0))
        self.report = LoadReport(results=[], core_count=0, totals=nothing)

    async def run(self, bdevs: list[str], workload: Workload, cpus: Sequence[int] | None, force: bool) -> LoadReport:
        self.asked.append((bdevs, workload, cpus, force))
        return self.report


class FakeSystem(System):
    """Two pollers, and controllers without devices. `ended` lists what was ended, in order."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.fail_start: Exception | None = None
        pollers = [FakePoller(0), FakePoller(1)]
        self.started_ns = now_ns()
        self.pollers = cast(list[Poller], pollers)
        self.bdevs = BdevRegistry()
        self.bdev_options = BdevOptions()
        self.notifications = Notifications()
        self.bdevs.on_event(self.notifications.add)
        self.iostats = IoStats(self.bdevs)
        self.histograms = Histograms()
        self.nulls = NullBdevs((), self.bdevs)
        self.fake_controllers = FakeControllers(self.bdevs, pollers)
        self.controllers = cast(ControllerManager, self.fake_controllers)
        self.hotplug = self.fake_hotplug = FakeHotplug()
        self.fake_exports = FakeExports(self.bdevs, self.ended)
        self.exports = Kinds([self.fake_exports])
        self.fake_load = FakeLoad()
        self.load = cast(LoadGenerator, self.fake_load)

    def start(self) -> None:
        if self.fail_start is not None:
            raise self.fail_start

    async def stop(self) -> None:
        self.ended.append("system")


class FakeDaemon(Daemon):
    """A daemon on fakes."""

    @property
    def fakes(self) -> FakeSystem:
        assert isinstance(self.system, FakeSystem)
        return self.system

    def bdev(self, name: str) -> FakeBdev:
        found: object = self.system.bdevs.get(name)
        assert isinstance(found, FakeBdev)
        return found


@contextlib.asynccontextmanager
async def running(run_dir: Path, *, system: FakeSystem | None = None, **options: Any) -> AsyncIterator[FakeDaemon]:
    """A daemon on fakes that listens at run_dir/rpc."""
    settings = Options(rpc_socket=str(run_dir / "rpc"), http=None, **options)
    daemon = FakeDaemon(settings, build=lambda _: system or FakeSystem())
    daemon.rpc.strict = True
    await daemon.start()
    try:
        yield daemon
    finally:
        await daemon.stop(5)
