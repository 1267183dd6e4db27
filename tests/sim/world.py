"""A small world of one seed: memory, pollers, controllers, disks and users."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest import mock

from tests.sim import plan as plans
from tests.sim.engine import Engine, Violation
from tests.sim.handles import Client, Device
from tests.sim.history import Blocks
from tests.sim.loop import SimLoop
from tests.sim.plan import Plan
from tests.sim.transport import FEATURES, LINGER_S, Disk, SimTransport, kind_of
from tests.sim.trouble import Trouble
from tests.support.uses import somebody
from virtiod.bdev import Bdev, BdevHandle, BdevRegistry
from virtiod.controllers import repeat
from virtiod.controllers.controller import State
from virtiod.controllers.device import Context
from virtiod.controllers.manager import ControllerManager
from virtiod.controllers.quarantine import Quarantine
from virtiod.controllers.request import AttachRequest
from virtiod.core.errors import VirtiodError
from virtiod.core.memory import MIB, DmaMemory
from virtiod.core.tasks import spawn
from virtiod.poller.buffers import PollerBuffers
from virtiod.poller.poller import Control, Poller
from virtiod.transports.table import TRANSPORTS

PATIENCE_S = 200.0  # for an I/O without a timeout: whatever happens, controllers come back sooner
SLACK_S = 20.0  # after which a timeout must have been noticed, even by a controller that is being detached
STANDSTILL_S = 300.0  # with nothing done: users wait for what does not come
LINES = 12  # of what happened last
BLOCKS = plans.SHARED + plans.EXCLUSIVE


@dataclass
class Report:
    """What a run was. seconds are simulated; trace: a number that all that happened went into."""

    seed: int
    ios: int = 0
    failed: int = 0
    happened: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    trace: int = 0


class _Log(logging.Handler):
    """What the control plane says. An exception in it is what it could not foresee."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self._tell = tell
        self.records: list[str] = []
        self.given_up: set[str] = set()  # bdevs that were left with acknowledged writes that were not stable

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        self._tell(message)
        if record.exc_info:
            self.records.append(self.format(record))
        if left := re.match(r"bdev (\w+): (gave up|acknowledged writes could not)", message):
            self.given_up.add(left[1])

    def check(self) -> None:
        if self.records:
            raise Violation(self.records[0])


class World:
    """Runs a plan once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.chance = random.Random(plan.seed ^ 0x5EED)
        self.engine = Engine(plan.seed, plan.io_timeout_s + SLACK_S if plan.io_timeout_s else PATIENCE_S)
        self.control = Control()
        self.memory = DmaMemory(64 * MIB, page_size=4096)
        self.pollers = [Poller(self.control, i, -1) for i in range(plan.pollers)]
        # Of I/O that timed out the buffers are lost; of kept writes they stay for a while.
        sizes = (12, 3) if plan.small_pool else (8192, 2048) if plan.io_timeout_s else (1024, 256)
        self.pools = [PollerBuffers(self.memory, *sizes) for _ in self.pollers]
        self.quarantined = list(zip(self.pollers, self.pools, strict=True))
        for poller in self.pollers:
            self.engine.add_poller(poller)
        self.bdevs = BdevRegistry()
        self.disks = {f"d{i}": self._make_disk(i) for i in range(len(plan.disks))}
        self.transports: dict[str, SimTransport] = {}
        self.clients = [self._make_client(i) for i in range(len(plan.users))]
        self.manager: ControllerManager
        self.story: deque[str] = deque(maxlen=LINES)
        self._handles: dict[str, BdevHandle] = {}
        self._log = _Log(self.tell)

    def tell(self, what: str) -> None:
        """Remember it for whoever looks at a failure."""
        self.story.append(f"{self.engine.seconds():12.6f} {what}")

    def _make_disk(self, i: int) -> Disk:
        p = self.plan.disks[i]
        blocks = Blocks(BLOCKS, plans.SHARED, 16 * self.plan.ios, p.goes_back, p.unkept, self.plan.lingers)
        device = Device(self.engine, blocks, f"serial-{i}", p.write_back, p.delay_ns, self.plan.flaw)
        device.set_errors(p.errors)
        if self.plan.lingers:
            device.linger()
        features = p.features | sum(1 << bit for bit in FEATURES)
        return Disk(
            device, BLOCKS, features, p.queues, p.max_ring, p.seg_max, p.size_max, p.hot_add, p.write_back,
            step_s=self.plan.step_s, lingers=self.plan.lingers,
        )  # fmt: skip

    def _make_client(self, i: int) -> Client:
        u = self.plan.users[i]
        disk = self.disks[f"d{u.disk}"].device
        return Client(
            disk, self.pollers[u.poller], self.pools[u.poller], u.depth, u.shares, u.fua, u.think_ns, u.hands_over
        )

    # ---- the run

    def run(self) -> Report:
        """Raises Violation."""
        report = Report(self.plan.seed)
        with self._surroundings() as (loop, errors):
            try:
                loop.run_until_complete(self._live(report, errors))
                self.engine.check()
                errors.check()
                self._check_registers()
            except Violation as violation:
                loop.abandon()
                raise Violation("\n".join([str(violation), *self.story])) from violation
            except BaseException:
                loop.abandon()
                raise
        report.ios = sum(client.done for client in self.clients)
        report.failed = sum(client.failed for client in self.clients)
        report.seconds = self.engine.seconds()
        report.trace = self.engine.trace()
        return report

    @contextmanager
    def _surroundings(self) -> Iterator[tuple[SimLoop, _Log]]:
        """Simulated time, a loop, a transport to the disks, and a log that says nothing but remembers errors."""
        loop = SimLoop(self.engine)
        errors = self._log
        log = logging.getLogger("virtiod")
        level = log.level
        log.addHandler(errors)
        log.setLevel(logging.INFO)
        log.propagate = False
        TRANSPORTS["sim"] = kind_of(self.disks, self.chance, self.transports)
        asyncio.set_event_loop(loop)
        self.control.attach(loop)
        self.engine.begin(self.control)
        try:
            with (
                mock.patch.object(repeat, "GRAIN", self.plan.grain),
                mock.patch.object(repeat, "FLUSH_EVERY", self.plan.flush_every),
            ):
                yield loop, errors
        finally:
            self.engine.end()
            self.control.detach()
            asyncio.set_event_loop(None)
            del TRANSPORTS["sim"]
            log.propagate = True
            log.setLevel(level)
            log.removeHandler(errors)
            loop.close()
            for transport in self.transports.values():
                transport.drop()
            self.memory.close()

    async def _live(self, report: Report, errors: _Log) -> None:
        used = self.memory.used
        quarantine = Quarantine(self.memory, self.quarantined)
        pools = self.pools[: len(self.pollers)]
        context = Context(self.memory, self.pollers, pools, self.bdevs, quarantine, self.plan.io_timeout_s)
        self.manager = ControllerManager(context)
        self.manager.start()
        for name in self.disks:
            await self.attach(name)
        trouble = Trouble(self, report.happened)
        making = spawn(trouble.run(), "trouble", awaited=True)
        making.add_done_callback(lambda task: task.cancelled() or task.exception())  # should nobody ask for it
        for client in self.clients:
            client.start(self.plan.ios // len(self.clients))
        await self._until_done(self.clients, making, errors)
        trouble.over.set()
        await making
        await self._all_well()
        await self._sweep(making, errors)
        await asyncio.sleep(1)  # virtiod's own flushes end
        self._check_counters()
        for name in self.disks:
            await self.detach(name)
        await asyncio.sleep(LINGER_S + 1)  # until nothing is in quarantine any more
        await self.manager.stop()
        trouble.tidy_up()
        self._check_the_end(used)

    async def _until_done(self, clients: Iterable[Client], making: asyncio.Task[None], errors: _Log) -> None:
        """No more I/O is to be begun, and all has ended."""
        done, since = 0, self.engine.seconds()
        while any(client.left or client.in_flight for client in clients):
            if making.done():
                making.result()
            errors.check()
            await asyncio.sleep(0.01)
            now = sum(client.done for client in clients)
            if now != done:
                done, since = now, self.engine.seconds()
            _must(self.engine.seconds() - since < STANDSTILL_S, f"no I/O has ended for {STANDSTILL_S:g} s")

    async def _all_well(self) -> None:
        """All devices are, and all controllers are up."""
        for name, disk in self.disks.items():
            disk.device.set_errors(0)
            since = self.engine.seconds()
            while self.manager.get(name).state is not State.UP:
                _must(
                    self.engine.seconds() - since < STANDSTILL_S,
                    f"{name} is not up, {STANDSTILL_S:g} s after all is well",
                )
                await asyncio.sleep(0.1)

    async def _sweep(self, making: asyncio.Task[None], errors: _Log) -> None:
        """Read each block of each disk once more."""
        sweepers = {u.disk: client for u, client in zip(self.plan.users, self.clients, strict=True)}
        for client in sweepers.values():
            client.sweep()
        await self._until_done(sweepers.values(), making, errors)

    # ---- controllers and users come and go

    async def attach(self, name: str) -> None:
        """Until it works."""
        plan = self.plan
        on_loss = plan.disks[list(self.disks).index(name)].on_loss
        request = AttachRequest(name, "sim", name, "blk", plan.vq_count, plan.vq_size, on_loss=on_loss)
        while True:
            try:
                await self.manager.attach(request)
                break
            except VirtiodError:
                await asyncio.sleep(0.05)
        self._open(self.bdevs.get(name))

    def _open(self, bdev: Bdev) -> None:
        users = [
            (client, self.pollers[u.poller])
            for client, u in zip(self.clients, self.plan.users, strict=True)
            if f"d{u.disk}" == bdev.name
        ]

        async def leave() -> None:
            for client, _ in users:
                client.stop()
            try:
                while any(client.in_flight for client, _ in users):  # noqa: ASYNC110  # they are compiled: no event
                    await asyncio.sleep(0.001)
            finally:  # it may last longer than a user is waited for
                self._handles.pop(bdev.name).close()

        self._handles[bdev.name] = bdev.open(somebody, on_remove=leave)
        for client, poller in users:
            client.open(bdev.channels, poller)
            if client.left:
                client.start(client.left)

    async def detach(self, name: str) -> None:
        await self.manager.detach(name)
        if name in self._log.given_up:
            self._log.given_up.remove(name)
            self.disks[name].device.write_off()
        for client, u in zip(self.clients, self.plan.users, strict=True):
            if f"d{u.disk}" == name:
                _must(client.in_flight == 0, f"{name} is detached, and {client.in_flight} I/Os are not answered")
                client.close()

    # ---- what must hold

    def _check_registers(self) -> None:
        for name, disk in self.disks.items():
            why = disk.device.blocks.disorder()
            if why:
                raise Violation(f"{name}: {why}")

    def _check_counters(self) -> None:
        """At rest, whatever was submitted has ended, once."""
        calm = not any(self.plan.events.values())
        for bdev in self.bdevs.list():
            stats = bdev.stats()
            _must(stats.in_flight == 0, f"{bdev.name}: {stats.in_flight} I/Os are in flight at rest")
            for op, s in stats.ops.items():
                _must(s.submitted == s.completed + s.failed, f"{bdev.name}: {op}: {s} does not balance")
        for name in self.disks:
            controller = self.manager.get(name)
            _must(not calm or controller.reconnects == 0, f"{name}: lost without a reason: {controller.last_error}")
            for q in controller.queues:
                _must(q.in_flight == 0 and q.submitted == q.completed, f"{name}: {q} does not balance")
        for poller in self.pollers:
            _must(poller.stats().in_flight == 0, f"{poller.name} has I/Os in flight at rest")
        clean = calm and not any(disk.errors for disk in self.plan.disks)
        failed = sum(client.failed for client in self.clients)
        _must(not clean or failed == 0, f"{failed} I/Os failed without a reason")

    def _check_the_end(self, used: int) -> None:
        for pool in self.pools:
            s = pool.stats()
            free = s["small_free"] + s["large_free"]
            _must(free == s["small"] + s["large"], f"buffers are missing: {s}")
        for pool in self.pools[len(self.pollers) :]:
            pool.close()
        for poller in self.pollers:
            _must(not poller.sources(), f"{poller.name} still polls {poller.sources()}")
        _must(self.memory.used == used, f"{self.memory.used - used} bytes of DMA memory were not given back")


def _must(holds: bool, what: str) -> None:
    if not holds:
        raise Violation(what)
