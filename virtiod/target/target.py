"""Several disks with their sockets and pollers: what `virtiod target` runs, and the demo and tests too."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from virtiod.dataplane.poller import Control, Poller
from virtiod.target.backend import Backend
from virtiod.target.blk import BlkDevice, DiskSpec


class Target:
    """Serves a disk at each socket path. start() once, then stop(). Event-loop thread only.

    cpus: a poller for each (-1: not pinned).
    """

    def __init__(
        self,
        disks: Mapping[str, DiskSpec],
        cpus: Sequence[int] = (-1,),
        poll_mode: str = "adaptive",
        poll_us: int = 200,
    ) -> None:
        self._control = Control()
        self.pollers = [Poller(self._control, i, cpu, poll_mode, poll_us) for i, cpu in enumerate(cpus)]
        self.devices: dict[str, BlkDevice] = {}
        self._backends: dict[str, Backend] = {}
        try:
            for number, (path, spec) in enumerate(disks.items()):
                start = number % len(self.pollers)  # disks of one queue each use all pollers too
                self.devices[path] = BlkDevice(spec, [*self.pollers[start:], *self.pollers[:start]])
        except BaseException:
            self._close_devices()
            raise

    async def start(self) -> None:
        """Listen; raises VirtiodError, and leaves nothing behind then."""
        self._control.attach(asyncio.get_running_loop())
        for poller in self.pollers:
            poller.start()
        try:
            for path, device in self.devices.items():
                backend = Backend(path, device)
                await backend.start()
                self._backends[path] = backend
        except BaseException:
            await self.stop()
            raise

    def resize(self, path: str, size: int | None = None) -> None:
        """Change a disk's size (bytes; None: to its file's) and tell its front-end."""
        self.devices[path].resize(size)
        self._backends[path].config_changed()

    async def stop(self) -> None:
        """Hang up, stop, remove the sockets."""
        await asyncio.gather(*(backend.stop() for backend in self._backends.values()))
        self._backends.clear()
        for poller in self.pollers:
            poller.stop()
        self._control.detach()
        self._close_devices()

    def _close_devices(self) -> None:
        for device in self.devices.values():
            device.close()
