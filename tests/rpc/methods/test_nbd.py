"""NBD exports by RPC."""

from __future__ import annotations

from pathlib import Path

from tests.support.daemon import FakeDaemon
from tests.support.rpc_peer import Peer, attach, talk


def test_nbd_exports(run_dir: Path) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        await attach(peer)
        export = await peer.result("nbd_create_export", bdev_name="B0", name="disk", read_only=True)
        assert (export["name"], export["bdev_name"], export["size"]) == ("disk", "B0", 1 << 30)
        assert await peer.result("nbd_get_exports") == [export]
        assert await peer.result("nbd_get_exports", name="disk") == [export]
        assert (await peer.error("nbd_get_exports", name="x"))[0] == -19
        assert (await peer.error("nbd_create_export", bdev_name="B0", name="disk"))[0] == -17
        assert (await peer.error("nbd_create_export", bdev_name="B9"))[0] == -19
        assert await peer.result("nbd_delete_export", name="disk") is True
        assert (await peer.error("nbd_delete_export", name="disk"))[0] == -19

    talk(run_dir, ask)
