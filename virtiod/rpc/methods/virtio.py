"""Methods about virtio controllers."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

from virtiod.api.errors import INTERNAL_ERROR, INVALID_PARAMS, RpcError
from virtiod.api.params import MAX_UINT32, Arg, Name
from virtiod.api.registry import Made, method
from virtiod.api.results.virtio import (
    ControllerDescription,
    KeptDescription,
    QuarantineDescription,
    QueueDescription,
    ScsiControllerDescription,
)
from virtiod.bdev.keeping import OnLoss
from virtiod.bdev.registry import bdev_key
from virtiod.controllers.controller import State
from virtiod.controllers.hotplug import PERIOD_US
from virtiod.controllers.manager import AnyController, check_request, place_of
from virtiod.controllers.quarantine import InQuarantine
from virtiod.controllers.request import AttachRequest
from virtiod.core.described import Member
from virtiod.core.errors import AlreadyAttached, Busy, InvalidArgument, NotFound, VirtiodError
from virtiod.core.names import MAX_CONTROLLER_NAME
from virtiod.system import System
from virtiod.transports.table import TRANSPORTS, Trtype
from virtiod.virtio.features import DevType

HOTPLUG_PERIODS_US = (PERIOD_US, 10_000_000)
_UUID = r"(?i:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})"


def _check_attach(params: Mapping[str, object]) -> None:
    request = msgspec.convert(params, AttachRequest)
    check_request(request)
    if not TRANSPORTS[request.trtype].takes_queue_options and (given := {"vq_count", "vq_size"} & params.keys()):
        raise InvalidArgument(f"{min(given)} is not allowed for {TRANSPORTS[request.trtype].title} transport type")


def _made(params: Mapping[str, object]) -> Made:
    request = msgspec.convert(params, AttachRequest)
    place = ":".join(place_of(request.trtype, request.traddr))
    name = re.escape(request.name)
    names = f"{name}|{_UUID}" if request.dev_type == "blk" else f"{name}t[0-9]+(l[0-9]+)?|{_UUID}|[a-z0-9]+[.].*"
    return Made({"name": bdev_key(request.name), "traddr": place}, names)


def _check_hotplug(params: Mapping[str, object]) -> None:
    low, high = HOTPLUG_PERIODS_US
    period = params.get("period_us")
    if isinstance(period, int) and not low <= period <= high:
        raise InvalidArgument(f"period_us must be from {low} to {high}, not {period}")


def _made_by_hotplug(params: Mapping[str, object]) -> Made:
    return Made({}, f"VirtioBlk[0-9]+|{_UUID}" if params["enable"] else "")


@method(
    bad_params=INTERNAL_ERROR,
    undo="bdev_virtio_detach_controller",
    errors={
        -errno.EINVAL: "an address that is not valid, or options that the transport does not take",
        -errno.EEXIST: "another controller drives the device already",
        INVALID_PARAMS: "the device could not be attached, or parameters that are not valid",
    },
    precheck=_check_attach,
    makes=_made,
    in_config={"wait_for_device": True},  # a device that is not there yet is no reason to refuse the rest
)
async def bdev_virtio_attach_controller(
    system: System,
    name: Annotated[
        str, Name("name of the controller; its bdevs' names begin with it", "name", longest=MAX_CONTROLLER_NAME)
    ],
    trtype: Annotated[Trtype, Arg("transport", "-t/--trtype")],
    traddr: Annotated[str, Arg("socket path, or PCI address", "-a/--traddr")],
    dev_type: Annotated[DevType, Arg("kind of device", "-d/--dev-type")],
    vq_count: Annotated[
        int | None, Arg("request queues, with user only (default: one for each poller)", "--vq-count", 0, MAX_UINT32)
    ] = None,
    vq_size: Annotated[
        int | None, Arg("entries of a virtqueue, a power of two, with user only", "--vq-size", 0, MAX_UINT32)
    ] = None,
    wait_for_device: Annotated[bool, Arg("if nothing is there, attach it when it appears")] = False,
    on_loss: Annotated[
        Literal["keep", "report", "ignore"],
        Arg(
            "what becomes of writes that were acknowledged but not flushed when the device is lost: keep (virtiod "
            "keeps and writes them again), report (the next flush of each user fails) or ignore",
            "--on-loss",
        ),
    ] = "keep",
) -> Annotated[list[str], Member("names of its bdevs")]:
    """Attaches a virtio controller and registers its bdevs.

    An attach that fails leaves nothing behind. If the same controller exists already, it stays. With wait_for_device,
    an absent or silent device is no failure: the answer has no names, and the controller keeps trying, in state
    "attaching", until the device is there or it is detached.
    """
    transport = TRANSPORTS[trtype]
    if not transport.takes_queue_options and (vq_count is not None or vq_size is not None):
        raise RpcError(-errno.EINVAL, f"vq_count or vq_size is not allowed for {transport.title} transport type.")
    traddr = transport.check_address(traddr)  # what is no address is EINVAL
    request = AttachRequest(name, trtype, traddr, dev_type, vq_count, vq_size, wait_for_device, OnLoss(on_loss))
    try:
        return await system.controllers.attach(request)
    except AlreadyAttached:
        raise
    except VirtiodError as error:
        raise RpcError(INVALID_PARAMS, str(error)) from error


@method(
    bad_params=INTERNAL_ERROR,
    ends="controller",
    errors={-errno.ENODEV: "there is no such controller", INVALID_PARAMS: "it is being detached already"},
)
async def bdev_virtio_detach_controller(system: System, name: Annotated[str, Name("controller", "name")]) -> bool:
    """Detaches a controller and deletes its bdevs. What uses them is ended first; the log says what that was."""
    try:
        await system.controllers.detach(name)
    except Busy as error:
        raise RpcError(INVALID_PARAMS, f"Device or resource busy: {error}") from error
    return True


@method(reads=True)
async def bdev_virtio_scsi_get_devices(
    system: System,
) -> Annotated[list[ScsiControllerDescription], Member("in the order of their attach")]:
    """Lists the virtio-scsi controllers."""
    return [
        ScsiControllerDescription(name=controller.name, virtio=controller.description())
        for controller in system.controllers.list()
        if controller.dev_type == "scsi"
    ]


@method(errors={-errno.EINVAL: "a period that is not valid"}, precheck=_check_hotplug, makes=_made_by_hotplug)
async def bdev_virtio_blk_set_hotplug(
    system: System,
    enable: Annotated[bool, Arg("whether to attach new PCI devices", "--hotplug")],
    period_us: Annotated[int | None, Arg("microseconds between checks", "-r/--period-us")] = None,
) -> bool:
    """Sets whether PCI virtio-blk devices that arrive are attached, as VirtioBlk0, VirtioBlk1 and so on.

    One that the kernel's driver has is taken from it only with --allow-unbind, and if its disk is not in use. The
    kernel reports arrivals at once; the period, by default 100 ms, is how often virtiod checks for missed ones. Removed
    devices are noticed whether this is enabled or not.
    """
    _check_hotplug({"period_us": period_us})
    system.hotplug.set(enable, period_us)
    return True


@method(reads=True, errors={-errno.ENODEV: "there is no such controller"})
async def virtiod_get_controllers(
    system: System, name: Annotated[str | None, Name("only this controller", "-n/--name")] = None
) -> Annotated[list[ControllerDescription], Member("in the order of their attach")]:
    """Lists the controllers with their state and queues."""
    found = [one for one in system.controllers.list() if name is None or one.name == name]
    if name is not None and not found:
        raise NotFound(f"controller '{name}' does not exist")
    kept = system.controllers.quarantine.kept()
    return [_describe(controller, kept.get(controller.name)) for controller in found]


def _quarantine(kept: InQuarantine | None) -> QuarantineDescription | UnsetType:
    if kept is None:
        return UNSET
    return QuarantineDescription(
        sessions=kept.sessions, small_bytes=kept.small, large_bytes=kept.large, memory_bytes=kept.memory
    )


def _describe(controller: AnyController, kept: InQuarantine | None) -> ControllerDescription:
    return ControllerDescription(
        name=controller.name,
        dev_type=controller.dev_type,
        trtype=controller.trtype,
        traddr=controller.traddr,
        state=controller.shown_state,
        reconnects=controller.reconnects,
        on_loss=controller.request.on_loss,
        kept=KeptDescription(**asdict(controller.kept_counters())),
        waits_for=controller.waits_for or UNSET,
        quarantine=_quarantine(kept),
        virtio=controller.description(),
        queues=[
            QueueDescription(
                index=queue.index,
                size=queue.size,
                in_flight=queue.in_flight,
                kicks=queue.kicks,
                interrupts=queue.interrupts,
                full=queue.full,
                poller=queue.poller,
            )
            for queue in controller.queues
        ],
        bdevs=[bdev.name for bdev in controller.bdevs] or UNSET,
        why=UNSET if controller.state is State.UP else controller.last_error or UNSET,
        unused=controller.unused or UNSET,
    )
