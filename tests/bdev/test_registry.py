"""Bdevs by name: they are found, waited for, told of, and go only after their users."""

from __future__ import annotations

import asyncio
import errno
import re
from typing import Any

import pytest

from tests.support.rig import in_loop
from tests.support.uses import somebody
from tests.support.waiting import soon, until
from virtiod.bdev import Bdev, BdevInfo, BdevRegistry
from virtiod.bdev import bdev as bdev_module
from virtiod.bdev.channel import BdevChannels
from virtiod.core import lograte
from virtiod.core.errors import AlreadyExists, DeadlineError, InvalidArgument, NotFound


def null(name: str, **more: object) -> Bdev:
    return Bdev(name, BdevInfo(512, 100), BdevChannels([]), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["B0", "alias", "0b25d5a4-5a1b-4a0e-a1d8-1f1f0b0a0c0d"])
def test_a_bdev_is_found_by_name_alias_and_uuid(key: str) -> None:
    registry = BdevRegistry()
    bdev = null("B0", aliases=["alias"], uuid="0b25d5a4-5a1b-4a0e-a1d8-1f1f0b0a0c0d")
    registry.register(null("B1"))
    registry.register(bdev)
    assert registry.get(key) is bdev
    assert [b.name for b in registry.list()] == ["B1", "B0"]


def test_an_unknown_name_is_told() -> None:
    with pytest.raises(NotFound, match="'nope'") as caught:
        BdevRegistry().get("nope")
    assert caught.value.errno == errno.ENODEV


def test_a_name_is_taken_once() -> None:
    registry = BdevRegistry()
    registry.register(null("B0"))
    with pytest.raises(AlreadyExists, match="B0"):
        registry.register(null("B0"))
    assert len(registry.list()) == 1


U1, U2 = "0b25d5a4-5a1b-4a0e-a1d8-1f1f0b0a0c0d", "11111111-5a1b-4a0e-a1d8-1f1f0b0a0c0d"
TAKEN = {
    "name is a name": ({"name": "B0"}, "bdev 'B0' already exists"),
    "name is an alias": ({"name": "naa.1"}, "'naa.1' is an alias of bdev 'B0' already"),
    "name is a UUID": ({"name": U1}, f"'{U1}' is the UUID of bdev 'B0' already"),
    "name is a UUID in capitals": ({"name": U1.upper()}, f"'{U1.upper()}' is the UUID of bdev 'B0' already"),
    "UUID is a UUID": ({"uuid": U1}, f"'{U1}' is the UUID of bdev 'B0' already"),
    "UUID is a name": ({"uuid": U2}, f"'{U2}' is the name of bdev '{U2.upper()}' already"),
    "UUID is an alias": ({"uuid": "33333333-5a1b-4a0e-a1d8-1f1f0b0a0c0d"}, "is an alias of bdev 'B0' already"),
    "alias is an alias": ({"aliases": ["x", "naa.1"]}, "'naa.1' is an alias of bdev 'B0' already"),
    "alias is a name": ({"aliases": ["B0"]}, "bdev 'B0' already exists"),
    "alias is a UUID": ({"aliases": [U1]}, "is the UUID of bdev 'B0' already"),
}


@pytest.mark.parametrize(("new", "why"), TAKEN.values(), ids=TAKEN)
def test_whatever_finds_one_bdev_finds_no_other(new: dict[str, Any], why: str) -> None:
    registry = BdevRegistry()
    first = null("B0", aliases=["naa.1", "33333333-5a1b-4a0e-a1d8-1f1f0b0a0c0d"], uuid=U1)
    second = null(U2.upper())  # a name may have the form of a UUID
    for bdev in (first, second):
        registry.register(bdev)
    with pytest.raises(AlreadyExists, match=re.escape(why)) as caught:
        registry.register(null(**{"name": "new", **new}))
    assert caught.value.errno == errno.EEXIST
    assert registry.list() == [first, second]
    assert registry.get("naa.1") is registry.get(U1) is registry.get(U1.upper()) is first
    assert registry.get(U2) is registry.get(U2.upper()) is second


def test_a_bdev_may_have_one_identity_twice() -> None:
    registry = BdevRegistry()
    bdev = null(U1, aliases=["naa.1", "naa.1", U1], uuid=U1)
    registry.register(bdev)
    assert registry.get(U1) is bdev


@in_loop
async def test_what_a_bdev_was_found_by_is_free_when_it_has_gone() -> None:
    registry = BdevRegistry()
    for _ in range(2):
        bdev = null("B0", aliases=["naa.1", "naa.1"], uuid=U1, unit="u")
        registry.register(bdev)
        assert list(registry.free(["B0", "naa.1", U1.upper(), "naa.2"])) == ["naa.2"]
        assert registry.paths("u") == (bdev,)
        await registry.unregister(bdev)
        assert list(registry.free(["B0", "naa.1", U1])) == ["B0", "naa.1", U1]
        assert registry.paths("u") == ()
        for name in ("B0", "naa.1", U1):
            with pytest.raises(NotFound):
                registry.get(name)


def test_a_uuid_is_made_up_when_all_are_taken() -> None:
    registry = BdevRegistry()
    registry.register(null("B0", uuid=U1))
    assert registry.free_uuid([U1, U2]) == U2
    registry.register(null("B1", uuid=U2))
    made = {registry.free_uuid([U1, U2]) for _ in range(3)}
    assert len(made) == 3 and not made & {U1, U2}


@in_loop
async def test_who_waits_gets_the_bdev_when_it_comes() -> None:
    registry = BdevRegistry()
    waiting = [asyncio.create_task(registry.wait_for(name, 10)) for name in ("B0", "B1", "B0")]
    for name in ("other", "B1", "B0"):
        await asyncio.sleep(0)
        registry.register(null(name))
    assert [b.name for b in await asyncio.gather(*waiting)] == ["B0", "B1", "B0"]
    assert (await registry.wait_for("B1", 0)).name == "B1"


@in_loop
async def test_waiting_ends_at_its_deadline() -> None:
    with pytest.raises(DeadlineError, match=r"'B0' did not appear within 0\.01 s"):
        await BdevRegistry().wait_for("B0", 0.01)


@in_loop
async def test_events_are_told_in_order() -> None:
    registry = BdevRegistry()
    events: list[tuple[str, str]] = []
    registry.on_event(lambda kind, name: events.append((kind, name)))
    bdev = null("B0")
    registry.register(bdev)
    registry.update(bdev, BdevInfo(512, 200))
    registry.update(bdev, BdevInfo(512, 200, write_cache=True))
    await registry.unregister(bdev)
    await registry.unregister(bdev)
    assert events == [("bdev_register", "B0"), ("bdev_resize", "B0"), ("bdev_unregister", "B0")]


@in_loop
async def test_unregister_awaits_every_user() -> None:
    registry = BdevRegistry()
    bdev = null("B0")
    registry.register(bdev)
    left: list[int] = []

    async def leave(i: int) -> None:
        await asyncio.sleep(0.001 * i)
        assert registry.get("B0") is bdev
        left.append(i)

    for i in (3, 1, 2):
        bdev.open(somebody, on_remove=lambda i=i: leave(i))  # type: ignore[misc]
    closed = bdev.open(somebody, on_remove=lambda: leave(99))
    closed.close()
    closed.close()
    await registry.unregister(bdev)
    assert sorted(left) == [1, 2, 3]
    assert registry.list() == []
    with pytest.raises(NotFound):
        bdev.open(somebody)


@in_loop
async def test_a_user_that_fails_or_stays_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bdev_module, "REMOVE_DEADLINE_S", 0.02)
    registry = BdevRegistry()
    bdev = null("B0")
    registry.register(bdev)

    async def fail() -> None:
        raise RuntimeError("boom")

    async def stay() -> None:
        await asyncio.Event().wait()

    bdev.open(somebody, on_remove=fail)
    bdev.open(somebody, on_remove=stay)
    await soon(registry.unregister(bdev))
    assert registry.list() == []


def test_a_resize_reaches_every_user() -> None:
    bdev = null("B0")
    heard: list[int] = []
    bdev.open(somebody, on_resize=lambda: heard.append(bdev.num_blocks))
    handle = bdev.open(somebody, on_resize=lambda: heard.append(-bdev.num_blocks))
    assert bdev.claimed
    bdev.update(BdevInfo(512, 300))
    handle.close()
    bdev.update(BdevInfo(512, 300))
    bdev.update(BdevInfo(512, 400))
    assert heard == [300, -300, 400]
    assert bdev.size == 400 * 512


@pytest.mark.parametrize(
    ("block_size", "blocks", "says"),
    [
        (0, 1, "block size 0"),
        (256, 1, "block size 256"),
        (513, 1, "block size 513"),
        (131072, 1, "block size 131072"),
        (512, 0, "capacity is 0 blocks"),
        (512, 1 << 54, "too large"),
    ],
)
def test_what_no_block_device_can_be_is_refused(block_size: int, blocks: int, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        BdevInfo(block_size, blocks).check()


@pytest.mark.parametrize(("block_size", "blocks"), [(512, 1), (4096, 10), (65536, 1), (512, (1 << 54) - 1)])
def test_what_a_block_device_can_be_is_accepted(block_size: int, blocks: int) -> None:
    BdevInfo(block_size, blocks).check()


@in_loop
async def test_the_log_ends_with_the_size_as_it_is(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lograte, "INTERVAL_S", 0.2)
    registry = BdevRegistry()
    bdev = null("B0")
    registry.register(bdev)
    for blocks in (200, 100, 200):
        registry.update(bdev, BdevInfo(512, blocks))
    await until(lambda: caplog.records[-1].getMessage().startswith("bdev B0: it has 102400 bytes now"))
