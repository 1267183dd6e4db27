"""Notifications tell what happened to bdevs."""

from __future__ import annotations

from pathlib import Path

from tests.support.daemon import FakeDaemon
from tests.support.rpc_peer import Peer, attach, talk


def test_notifications_tell_what_happened_to_bdevs(run_dir: Path) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        types = ["bdev_register", "bdev_unregister", "bdev_resize", "bdev_writes_lost"]
        assert await peer.result("notify_get_types") == types
        assert await peer.result("notify_get_notifications") == []
        await attach(peer)
        await peer.result("bdev_virtio_detach_controller", name="B0")
        both = await peer.result("notify_get_notifications")
        assert both == [
            {"type": "bdev_register", "ctx": "B0", "id": 0},
            {"type": "bdev_unregister", "ctx": "B0", "id": 1},
        ]
        assert await peer.result("notify_get_notifications", id=1) == both[1:]
        assert await peer.result("notify_get_notifications", max=1) == both[:1]
        assert await peer.result("notify_get_notifications", id=2) == []

    talk(run_dir, ask)


def test_the_last_1024_notifications_are_kept(run_dir: Path) -> None:
    async def ask(peer: Peer, daemon: FakeDaemon) -> None:
        for number in range(1500):
            daemon.system.notifications.add("bdev_resize", f"B{number}")
        kept = await peer.result("notify_get_notifications")
        assert [kept[0]["id"], kept[-1]["id"], len(kept)] == [476, 1499, 1024]
        assert (await peer.result("notify_get_notifications", id=1400, max=2))[0]["ctx"] == "B1400"

    talk(run_dir, ask)
