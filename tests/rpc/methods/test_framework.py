"""What can be called when: states, allowed methods, names."""

from __future__ import annotations

from pathlib import Path

from tests.support.daemon import FakeDaemon
from tests.support.rpc_peer import Peer, talk
from virtiod.rpc.methods import METHODS


def test_before_initialisation_only_some_methods_can_be_called(run_dir: Path) -> None:
    async def ask(peer: Peer, daemon: FakeDaemon) -> None:
        code, message = await peer.error("bdev_get_bdevs")
        assert (code, message) == (-1, "Method may only be called after framework_start_init: bdev_get_bdevs")
        current = await peer.result("rpc_get_methods", current=True)
        assert "framework_start_init" in current
        assert "bdev_get_bdevs" not in current
        assert await peer.result("bdev_set_options", bdev_io_pool_size=65535) is True
        await peer.send({"method": "framework_wait_init", "id": "wait"})
        await peer.send({"method": "framework_start_init", "id": "start"})
        answers = [await peer.receive(), await peer.receive()]
        assert {answer["id"]: answer["result"] for answer in answers} == {"wait": True, "start": True}
        assert (await peer.error("framework_start_init"))[0] == -1
        assert (await peer.error("bdev_set_options"))[0] == -1
        assert "framework_start_init" not in await peer.result("rpc_get_methods", current=True)
        assert await peer.result("framework_wait_init") is True

    talk(run_dir, ask, wait_for_rpc=True)


def test_only_allowed_methods_exist(run_dir: Path) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        assert await peer.result("rpc_get_methods") == ["bdev_get_bdevs", "rpc_get_methods"]
        assert await peer.error("log_get_level") == (-32601, "Method not found")

    talk(run_dir, ask, rpcs_allowed=frozenset({"rpc_get_methods", "bdev_get_bdevs"}))


def test_aliases_are_methods_that_are_listed_on_demand(run_dir: Path) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        names = await peer.result("rpc_get_methods")
        assert names == sorted(METHODS)
        more = await peer.result("rpc_get_methods", include_aliases=True)
        assert set(more) - set(names) == {"virtiod_get_version"}
        assert await peer.result("virtiod_get_version") == await peer.result("spdk_get_version")

    talk(run_dir, ask)


def test_a_method_that_breaks_is_an_internal_error_and_nothing_else_stops(run_dir: Path) -> None:
    async def ask(peer: Peer, daemon: FakeDaemon) -> None:
        del daemon.fakes.load
        code, message = await peer.error("perform_tests", bdevs=["B0"])
        assert (code, "perform_tests: AttributeError" in message) == (-32603, True)
        assert await peer.result("log_get_level") == "INFO"

    talk(run_dir, ask)


def test_the_registry_tells_observers_how_calls_went(run_dir: Path) -> None:
    async def ask(peer: Peer, daemon: FakeDaemon) -> None:
        seen: list[tuple[str, int]] = []
        daemon.rpc.observers.append(lambda name, seconds, code: seen.append((name, code)))
        await peer.result("log_get_level")
        await peer.error("bdev_get_bdevs", name="x")
        await peer.error("no_such_method")
        assert seen == [("log_get_level", 0), ("bdev_get_bdevs", -19)]

    talk(run_dir, ask)
