"""Methods that set up what only SPDK has, and that its clients call when they load a configuration that it saved.

SPDK's load_config begins only if all methods of a configuration exist, and it saves the settings of all its parts, used
or not. So these are taken. They change nothing, as there is nothing that they could change.
"""

from __future__ import annotations

import errno
from typing import Annotated, Literal

from virtiod.api.params import Arg
from virtiod.api.registry import Method, State, method
from virtiod.core.errors import NotSupported


def _settings(name: str, what: str) -> Method:
    async def handler() -> bool:
        return True

    handler.__doc__ = f"Takes settings of {what}, which virtiod does not have. Changes nothing."
    return method(State.ANY, name=name, foreign=True)(handler)


accel_set_options = _settings("accel_set_options", "SPDK's accel framework")
bdev_examine = _settings("bdev_examine", "bdevs that SPDK finds on others")
bdev_iscsi_set_options = _settings("bdev_iscsi_set_options", "iSCSI bdevs")
bdev_nvme_set_hotplug = _settings("bdev_nvme_set_hotplug", "NVMe bdevs")
bdev_nvme_set_options = _settings("bdev_nvme_set_options", "NVMe bdevs")
bdev_raid_set_options = _settings("bdev_raid_set_options", "RAID bdevs")
fsdev_set_opts = _settings("fsdev_set_opts", "SPDK's file system devices")
iobuf_set_options = _settings("iobuf_set_options", "SPDK's pools of buffers")
iscsi_set_options = _settings("iscsi_set_options", "SPDK's iSCSI target")
keyring_linux_set_options = _settings("keyring_linux_set_options", "keys of the kernel")
nvmf_set_config = _settings("nvmf_set_config", "SPDK's NVMe-oF target")
nvmf_set_crdt = _settings("nvmf_set_crdt", "SPDK's NVMe-oF target")
nvmf_set_max_subsystems = _settings("nvmf_set_max_subsystems", "SPDK's NVMe-oF target")
sock_impl_set_options = _settings("sock_impl_set_options", "SPDK's sockets")
sock_set_default_impl = _settings("sock_set_default_impl", "SPDK's sockets")


@method(State.ANY, foreign=True, errors={-errno.EOPNOTSUPP: "mappings were given"})
async def framework_set_scheduler(
    name: Annotated[Literal["static"], Arg("only static: each poller stays on its core", "name")],
    mappings: Annotated[str, Arg("of SPDK's; only an empty one")] = "",
) -> bool:
    """Takes the scheduler that virtiod has: the option -m says which cores have pollers. Changes nothing."""
    if mappings:
        raise NotSupported(f"mappings {mappings!r}: pollers stay on the cores of the option -m")
    return True
