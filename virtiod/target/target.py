"""Disks and SCSI hosts with their sockets and pollers: what `virtiod target` runs, and the demo and tests too."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from virtiod.poller.poller import Control, Poller
from virtiod.target.backend import Backend
from virtiod.target.blk.device import BlkDevice, DiskSpec
from virtiod.target.interface import TargetDevice
from virtiod.target.scsi.device import HostSpec, ScsiDevice
from virtiod.target.session import OFFERED, RING_FEATURES
from virtiod.transports.vhost_user.wire import ProtocolFeature

_CONFIG = 1 << ProtocolFeature.CONFIG


class Target:
    """Serves a disk or a SCSI host at each socket path. start() once, then stop(). Event-loop thread only.

    cpus: a poller for each (-1: not pinned). ring_features: what the rings of all can do.
    """

    def __init__(
        self,
        specs: Mapping[str, DiskSpec | HostSpec],
        cpus: Sequence[int] = (-1,),
        poll_mode: str = "adaptive",
        poll_us: int = 200,
        ring_features: int = RING_FEATURES,
    ) -> None:
        self._ring_features = ring_features
        self._control = Control()
        self.pollers = [Poller(self._control, i, cpu, poll_mode, poll_us) for i, cpu in enumerate(cpus)]
        self.devices: dict[str, BlkDevice] = {}
        self.hosts: dict[str, ScsiDevice] = {}
        self._backends: dict[str, Backend] = {}
        try:
            for number, (path, spec) in enumerate(specs.items()):
                start = number % len(self.pollers)  # disks of one queue each use all pollers too
                pollers = [*self.pollers[start:], *self.pollers[:start]]
                if isinstance(spec, HostSpec):
                    self.hosts[path] = ScsiDevice(spec, pollers)
                else:
                    self.devices[path] = BlkDevice(spec, pollers)
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
                await self._listen(path, device, OFFERED)
            for path, host in self.hosts.items():
                await self._listen(path, host, OFFERED if host.spec.config else OFFERED & ~_CONFIG)
        except BaseException:
            await self.stop()
            raise

    async def _listen(self, path: str, device: TargetDevice, protocol_features: int) -> None:
        backend = Backend(path, device, protocol_features, self._ring_features)
        await backend.start()
        self._backends[path] = backend

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
        for host in self.hosts.values():
            host.close()
