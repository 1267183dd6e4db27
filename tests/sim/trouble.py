"""What happens to a world while its users work: one thing after the other, chosen by the seed."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from tests.sim.handles import LIES
from tests.sim.transport import Disk
from virtiod.core.tasks import cancel
from virtiod.poller.buffers import PollerBuffers

if TYPE_CHECKING:
    from tests.sim.world import World


class Trouble:
    """happened counts what was done. over: makes no more."""

    def __init__(self, world: World, happened: dict[str, int]) -> None:
        self._world = world
        self._happened = happened
        self._chance: random.Random = world.chance
        self._allocated: list[int] = []
        self.over = asyncio.Event()
        self._kinds = {
            "die": self._die,
            "hang up": self._hang_up,
            "lie": self._lie,
            "silence": self._silence,
            "mute": self._mute,
            "leave": self._leave,
            "swap": self._swap,
            "shrink": self._shrink,
            "detach": self._detach,
            "grow": self._grow,
            "change": self._change,
        }

    async def run(self) -> None:
        plan = self._world.plan
        kinds = [kind for kind, weight in plan.events.items() if weight]
        while kinds:
            await self._some_ios(int(self._chance.expovariate(plan.troubles / plan.ios)))
            if self.over.is_set():
                return
            await asyncio.sleep(self._chance.random() * plan.pause_s)
            (kind,) = self._chance.choices(kinds, [plan.events[kind] for kind in kinds])
            name = self._chance.choice(list(self._world.disks))
            self._world.tell(f"{kind}: {name}")
            self._happened[kind] = self._happened.get(kind, 0) + 1
            await self._kinds[kind](name, self._world.disks[name])

    async def _some_ios(self, n: int) -> None:
        """Wait until so many have ended, or it is over."""
        done = asyncio.Event()
        self._world.engine.tell_after(n, done.set)
        either = [asyncio.create_task(event.wait()) for event in (done, self.over)]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        await cancel(*either)

    def tidy_up(self) -> None:
        for address in self._allocated:
            self._world.memory.free(address)

    async def _die(self, name: str, disk: Disk) -> None:
        """The device's process ends, and begins again a while later."""
        disk.up = False
        disk.device.die(self._chance.choice([0, 0, 500, 900]))
        disk.end_process()
        self._world.transports[name].die("it died")
        await asyncio.sleep(self._chance.choice([0.0, 0.001, 0.1]))
        disk.up = True

    async def _leave(self, name: str, disk: Disk) -> None:
        """The device is away for long."""
        disk.up = False
        self._end(name, disk)
        await asyncio.sleep(30)
        disk.up = True

    async def _swap(self, name: str, disk: Disk) -> None:
        """Another disk is there for a while."""
        self._end(name, disk)
        disk.device.set_foreign(True)
        await asyncio.sleep(1)
        self._end(name, disk)
        disk.device.set_foreign(False)

    async def _shrink(self, name: str, disk: Disk) -> None:
        """It comes back with lower limits for a while."""
        before = disk.seg_max, disk.size_max
        disk.seg_max, disk.size_max = max(1, disk.seg_max // 2), max(512, disk.size_max // 2)
        self._end(name, disk)
        await asyncio.sleep(1)
        disk.seg_max, disk.size_max = before
        self._end(name, disk)

    def _end(self, name: str, disk: Disk) -> None:
        disk.device.die(0)
        disk.end_process()
        self._world.transports[name].die("it died")

    async def _hang_up(self, name: str, disk: Disk) -> None:
        """The device ends the connection; it remains, and so does its cache."""
        disk.device.lost(False)
        self._world.transports[name].die("it hung up")

    async def _lie(self, name: str, disk: Disk) -> None:
        """It is cut off at once, while it has requests that are new."""
        disk.device.lie(self._chance.choice(LIES))
        if disk.lingers:
            disk.stops = False
            await asyncio.sleep(1)
            disk.stops = True

    async def _silence(self, name: str, disk: Disk) -> None:
        """It answers no I/O any more, until it is connected to again. Without a timeout only a detach helps."""
        disk.device.silence()
        disk.stops = not disk.lingers
        await asyncio.sleep(self._world.plan.io_timeout_s + 2)
        if not self._world.plan.io_timeout_s:
            await self._detach(name, disk)
        disk.stops = True

    async def _mute(self, name: str, disk: Disk) -> None:
        """It answers no step of the control plane for a while; I/O goes on."""
        disk.mute = True
        await asyncio.sleep(self._chance.random() * 5)
        disk.mute = False

    async def _detach(self, name: str, disk: Disk) -> None:
        await self._world.detach(name)
        await self._world.attach(name)

    async def _grow(self, name: str, disk: Disk) -> None:
        """DMA memory gets larger, and users take their buffers there."""
        world = self._world
        if len(self._allocated) == 5:
            return
        self._allocated.append(world.memory.allocate(world.memory.size))
        pools = [PollerBuffers(world.memory, 2048, 512) for _ in world.pollers]
        await world.manager.publish_memory()
        world.pools += pools
        world.quarantined += zip(world.pollers, pools, strict=True)
        for client, user in zip(world.clients, world.plan.users, strict=True):
            client.use(pools[user.poller])

    async def _change(self, name: str, disk: Disk) -> None:
        """The device says that its configuration has changed; it is the same."""
        transport = self._world.transports[name]
        if transport.on_config_change:
            transport.on_config_change()
