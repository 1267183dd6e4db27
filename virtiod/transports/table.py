"""All kinds of transports, by the name that RPC and configurations give them (trtype).

To add one, add a package beside these two, its name to Trtype, and a line to TRANSPORTS.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from virtiod.core.errors import InvalidArgument
from virtiod.core.memory import DmaMemory
from virtiod.core.names import quoted, unprintable
from virtiod.pci.devices import is_address, parse_address
from virtiod.transports.interface import Transport
from virtiod.transports.pci.context import PciContext
from virtiod.transports.pci.transport import MAX_RING, PciTransport
from virtiod.transports.vhost_user.transport import VhostUserTransport
from virtiod.transports.vhost_user.wire import BACKEND_QUEUE_SIZE

MAX_PATH = 107  # bytes of a Unix socket's path
Trtype = Literal["pci", "user"]  # as parameters have it


@dataclass(frozen=True)
class DeviceKind:
    """What a transport must know of a kind of device.

    config_sizes: bytes that its configuration space may have, in the order to try them. fixed_queues: how many
    virtqueues each such device has before its request queues.
    """

    dev_type: str
    config_sizes: Sequence[int]
    fixed_queues: int


class TransportKind(ABC):
    """A kind of transport, with what its transports share. One object for each daemon."""

    title: ClassVar[str]  # for people
    max_vq_size: ClassVar[int]  # the largest ring that may be asked for, in entries
    takes_queue_options: ClassVar[bool]  # whether vq_count and vq_size can be chosen

    @abstractmethod
    def __init__(self, memory: DmaMemory, allow_unbind: bool, peer_grace_s: float) -> None:
        """allow_unbind: devices may be taken from the kernel's driver. peer_grace_s: after so long a device counts as
        gone that has ended its session, and whose process can't be seen."""

    @staticmethod
    @abstractmethod
    def check_address(traddr: str) -> str:
        """The address in its usual form. Raises InvalidArgument for what can't be one."""

    @abstractmethod
    def transport(self, traddr: str, device: DeviceKind) -> Transport:
        """Makes a transport to the device at that address, not connected yet."""


class VhostUser(TransportKind):
    """Devices that other processes serve at Unix sockets."""

    title = "vhost-user"
    max_vq_size = BACKEND_QUEUE_SIZE
    takes_queue_options = True

    def __init__(self, memory: DmaMemory, allow_unbind: bool, peer_grace_s: float) -> None:
        self._memory = memory
        self._peer_grace_s = peer_grace_s

    @staticmethod
    def check_address(traddr: str) -> str:
        if found := unprintable(traddr):
            raise InvalidArgument(f"traddr {quoted(traddr)}: holds {found}, which can't be printed")
        if not 1 <= len(os.fsencode(traddr)) <= MAX_PATH:
            raise InvalidArgument(f"traddr {quoted(traddr)}: the path of a socket has 1 to {MAX_PATH} bytes")
        return traddr

    def transport(self, traddr: str, device: DeviceKind) -> Transport:
        return VhostUserTransport(
            traddr,
            self._memory,
            config_sizes=device.config_sizes,
            queues_without_mq=device.fixed_queues + 1,
            peer_grace=self._peer_grace_s,
        )


class Pci(TransportKind):
    """PCI devices of this machine."""

    title = "PCI"
    max_vq_size = MAX_RING
    takes_queue_options = False

    def __init__(self, memory: DmaMemory, allow_unbind: bool, peer_grace_s: float) -> None:
        self._context = PciContext(memory, allow_unbind)

    @staticmethod
    def check_address(traddr: str) -> str:
        return parse_address(traddr)

    def transport(self, traddr: str, device: DeviceKind) -> Transport:
        return PciTransport(traddr, self._context, device.dev_type)


TRANSPORTS: dict[str, type[TransportKind]] = {"user": VhostUser, "pci": Pci}


def trtype_of(traddr: str) -> Trtype:
    """The kind of transport to an address that was given without one."""
    return "pci" if is_address(traddr) else "user"
