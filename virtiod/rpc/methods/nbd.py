"""Methods about NBD exports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from virtiod.api.params import Arg
from virtiod.api.registry import method
from virtiod.core.errors import NotFound

if TYPE_CHECKING:
    from virtiod.daemon.daemon import Daemon


@method()
async def nbd_create_export(
    daemon: Daemon,
    bdev_name: Annotated[str, Arg("bdev to export", "bdev_name")],
    name: Annotated[str | None, Arg("export name (default: the bdev's)", "-n/--name")] = None,
    read_only: Annotated[bool, Arg("refuse writes", "-r/--read-only")] = False,
    description: Annotated[str, Arg("shown to clients that list exports", "-d/--description")] = "",
    max_connections: Annotated[int, Arg("connections at one time", "--max-connections", 1, 1024)] = 64,
) -> dict[str, Any]:
    """Offers a bdev to NBD clients.

    The result describes the export as nbd_get_exports does.
    """
    export = await daemon.exports.create(
        bdev_name, name, read_only=read_only, description=description, max_connections=max_connections
    )
    return _describe(daemon, export)


@method()
async def nbd_delete_export(daemon: Daemon, name: Annotated[str, Arg("export", "name")]) -> bool:
    """Ends an export: what is in flight is answered, then its connections are closed."""
    await daemon.exports.delete(name)
    return True


@method(reads=True)
async def nbd_get_exports(
    daemon: Daemon, name: Annotated[str | None, Arg("only this export", "-n/--name")] = None
) -> list[dict[str, Any]]:
    """Lists the NBD exports, with the addresses that clients connect to."""
    exports = daemon.exports.get_exports()
    if name is not None:
        exports = [export for export in exports if export.name == name]
        if not exports:
            raise NotFound(f"no NBD export {name!r}")
    return [_describe(daemon, export) for export in exports]


def _describe(daemon: Daemon, export: Any) -> dict[str, Any]:
    return {
        "name": export.name,
        "bdev_name": export.bdev.name,
        "size": export.bdev.num_blocks * export.bdev.block_size,
        "block_size": export.bdev.block_size,
        "read_only": export.read_only,
        "description": export.description,
        "max_connections": export.max_connections,
        "connections": len(export.clients),
        "uris": daemon.exports.uris(export),
    }
