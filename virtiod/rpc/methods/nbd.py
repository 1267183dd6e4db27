"""Methods about NBD exports."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Annotated

from virtiod.api.params import Arg, Name
from virtiod.api.registry import method
from virtiod.core.described import Member
from virtiod.core.errors import NotFound
from virtiod.exports.nbd.export import NbdExportDescription
from virtiod.exports.nbd.exports import DEFAULT_CONNECTIONS, MAX_CONNECTIONS, NbdExports, validate

NO_EXPORT = {-errno.ENODEV: "there is no such export"}


def _check_export(params: Mapping[str, object]) -> None:
    name, connections = params.get("name", params["bdev_name"]), params.get("max_connections", DEFAULT_CONNECTIONS)
    assert isinstance(connections, int)
    validate(str(name), str(params.get("description", "")), connections)


@method(
    undo="nbd_delete_export",
    precheck=_check_export,
    uses="bdev_name",
    errors={
        -errno.ENODEV: "there is no such bdev",
        -errno.EEXIST: "an export has that name, and is not the same",
        -errno.EINVAL: "a name, description or number that is not valid",
        -errno.EBUSY: "there are too many exports",
    },
)
async def nbd_create_export(
    exports: NbdExports,
    bdev_name: Annotated[str, Name("bdev to export", "bdev_name")],
    name: Annotated[str | None, Name("export name (default: what bdev_name says)", "-n/--name")] = None,
    read_only: Annotated[bool, Arg("refuse writes", "-r/--read-only")] = False,
    description: Annotated[str, Arg("shown to clients that list exports", "-d/--description")] = "",
    max_connections: Annotated[
        int, Arg("most connections at the same time", "--max-connections", 1, MAX_CONNECTIONS)
    ] = DEFAULT_CONNECTIONS,
) -> NbdExportDescription:
    """Offers a bdev to NBD clients.

    If the same export exists already, it stays.
    """
    export = await exports.create(
        bdev_name, name, read_only=read_only, description=description, max_connections=max_connections
    )
    return export.description()


@method(ends="export", errors=NO_EXPORT)
async def nbd_delete_export(exports: NbdExports, name: Annotated[str, Name("export", "name")]) -> bool:
    """Ends an export: requests in flight are answered, then its connections are closed; the log says whose."""
    await exports.delete(name)
    return True


@method(reads=True, errors=NO_EXPORT)
async def nbd_get_exports(
    exports: NbdExports, name: Annotated[str | None, Name("only this export", "-n/--name")] = None
) -> Annotated[list[NbdExportDescription], Member("in the order of creation")]:
    """Lists the NBD exports, with the addresses that clients connect to."""
    found = [export for export in exports.list() if name is None or export.name == name]
    if name is not None and not found:
        raise NotFound(f"no NBD export {name!r}")
    return [export.description() for export in found]
