"""Attaches virtio-blk PCI devices that arrive, as SPDK's bdev_virtio_blk_set_hotplug has its daemon do.

A device that arrives while hotplug is enabled is attached as soon as that needs no permission: bound to vfio-pci or a
UIO driver, or still without a driver after a while. If it is bound to the kernel's driver, that takes --allow-unbind
and a disk that is not in use. The operator attaches devices that were there before. Each transport tells its
controller of a removal, whether hotplug is enabled or not.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

from virtiod.controllers.manager import ControllerManager
from virtiod.controllers.request import AttachRequest
from virtiod.core.errors import VirtiodError
from virtiod.core.saved import SavedCall
from virtiod.core.tasks import cancel, spawn
from virtiod.pci.checks import KERNEL_DRIVER
from virtiod.pci.devices import find
from virtiod.pci.host import Host, entries
from virtiod.pci.uevents import Monitor, Uevent, identity

log = logging.getLogger(__name__)

PERIOD_US = 100_000  # between looks for arrivals that were missed, unless another is asked for
SETTLE_S = 1.0  # for the kernel's driver to take a device that has none
RETRY_S = 1.0  # between attempts to attach a device


@dataclass
class _Arrival:
    """A device that is not attached yet; attaching it is tried again at retry_at (time.monotonic)."""

    address: str
    seen_at: float
    retry_at: float = 0.0
    said: str = ""  # why it can't be attached, as logged


class Hotplug:
    """Watches for devices that arrive; off until set(). Event-loop thread only."""

    def __init__(self, controllers: ControllerManager, allow_unbind: bool, host: Host | None = None) -> None:
        self._controllers = controllers
        self._allow_unbind = allow_unbind
        self._host = host or Host()
        self._monitor: Monitor | None = None
        self._known: dict[str, int] = {}  # devices by address, and what tells each from a later one
        self._arrivals: dict[str, _Arrival] = {}
        self._attaching: dict[str, asyncio.Task[None]] = {}
        self._number = 0
        self._asked: dict[str, object] = {}  # what set() was given

    def saved_calls(self) -> Iterator[SavedCall]:
        if self._asked:
            yield SavedCall("bdev_virtio_blk_set_hotplug", self._asked)

    def set(self, enable: bool, period_us: int | None = None) -> None:
        """Starts or stops watching for arrivals, and looking each period (us) for those that were missed.

        None: PERIOD_US.
        """
        self._asked = {"enable": enable} if period_us is None else {"enable": enable, "period_us": period_us}
        was_enabled = self._monitor is not None
        self._close_monitor()
        if not enable:
            self._arrivals.clear()
            return
        if not was_enabled:
            self._known = dict(self._present())
        self._monitor = Monitor(self._look, (PERIOD_US if period_us is None else period_us) / 1e6)

    async def stop(self) -> None:
        """Stops watching, and gives up what is being attached."""
        self._close_monitor()
        await cancel(*self._attaching.values())

    def _close_monitor(self) -> None:
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None

    def _present(self) -> Iterator[tuple[str, int]]:
        for path in entries(self._host.sys / "bus/pci/devices"):
            yield path.name, identity(path)

    def _look(self, event: Uevent | None) -> None:
        """Finds devices that have come or gone; starts to attach those that can be attached."""
        now = time.monotonic()
        present = dict(self._present())
        for address in [a for a, known in self._known.items() if present.get(a) != known]:
            self._arrivals.pop(address, None)
        for address in [a for a, found in present.items() if self._known.get(a) != found]:
            self._arrivals[address] = _Arrival(address, now)
        self._known = present
        for arrival in list(self._arrivals.values()):
            told = event is not None and event.address == arrival.address  # perhaps bound just now
            if arrival.address not in self._attaching and (told or now >= arrival.retry_at):
                self._consider(arrival, now)

    def _consider(self, arrival: _Arrival, now: float) -> None:
        try:
            device = find(arrival.address, self._host)
        except VirtiodError:
            return  # removed again
        if device.virtio_type != "blk" or any(c.traddr == arrival.address for c in self._controllers.list()):
            del self._arrivals[arrival.address]
        elif device.driver is None and now < arrival.seen_at + SETTLE_S:
            return
        elif device.driver == KERNEL_DRIVER and not self._allow_unbind:
            arrival.retry_at = now + RETRY_S
            address = arrival.address
            self._say(
                arrival,
                f"{address} has arrived, bound to {device.driver}: not attached without --allow-unbind or "
                f"`virtiod pci bind {address}`",
            )
        else:
            self._attaching[arrival.address] = spawn(
                self._attach(arrival), f"attach {arrival.address}, which has arrived"
            )

    async def _attach(self, arrival: _Arrival) -> None:
        name = self._free_name()
        try:
            await self._controllers.attach(AttachRequest(name, "pci", arrival.address, "blk"))
            log.info("hotplug: %s has arrived and is now %s", arrival.address, name)
            if self._arrivals.get(arrival.address) is arrival:
                del self._arrivals[arrival.address]
        except VirtiodError as error:
            arrival.retry_at = time.monotonic() + RETRY_S
            self._say(arrival, f"{arrival.address} has arrived and can't be attached: {error}")
        except Exception:
            log.exception("hotplug: attach %s", arrival.address)
            arrival.retry_at = float("inf")
        finally:
            del self._attaching[arrival.address]

    def _free_name(self) -> str:
        """The next unused name of VirtioBlk0, VirtioBlk1, ..., as SPDK numbers them."""
        taken = {controller.name for controller in self._controllers.list()}
        while (name := f"VirtioBlk{self._number}") in taken:
            self._number += 1
        self._number += 1
        return name

    def _say(self, arrival: _Arrival, what: str) -> None:
        if what != arrival.said:
            log.warning("hotplug: %s", what)
        arrival.said = what
