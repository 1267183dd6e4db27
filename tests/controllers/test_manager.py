"""DMA memory that grows, as the manager tells controllers of it."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.rig import in_loop
from virtiod.bdev import BdevRegistry
from virtiod.controllers import AttachRequest, ControllerManager
from virtiod.controllers.blk.controller import BlkController
from virtiod.controllers.device import Context
from virtiod.controllers.quarantine import Quarantine
from virtiod.core.errors import DeviceError, NotFound
from virtiod.core.memory import MIB, DmaMemory


@in_loop
async def test_a_device_that_could_not_be_told_of_memory_is_named_and_told_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []
    gone = asyncio.Event()

    async def attach(controller: BlkController) -> list[str]:
        return []

    async def detach(controller: BlkController) -> None:
        gone.set()

    async def share_memory(controller: BlkController) -> None:
        told.append(controller.name)
        if controller.name == "A":
            assert controller.on_removed is not None
            controller.on_removed(controller)
            return
        await gone.wait()
        if told.count("B") == 1:
            raise DeviceError("no room for another region")

    monkeypatch.setattr(BlkController, "attach", attach)
    monkeypatch.setattr(BlkController, "detach", detach)
    monkeypatch.setattr(BlkController, "share_memory", share_memory)
    memory = DmaMemory(2 * MIB)
    manager = ControllerManager(Context(memory, [], [], BdevRegistry(), Quarantine(memory, []), 0))
    for name in ("A", "B"):
        await manager.attach(AttachRequest(name, "user", f"/none/{name}", "blk"))

    await manager.publish_memory()
    with pytest.raises(NotFound):
        manager.get("A")  # it was removed meanwhile
    assert caplog.messages[-1:] == ["controller B: share memory: no room for another region"]
    await manager.publish_memory()
    await manager.publish_memory()  # nothing is new
    assert told == ["A", "B", "B"]
    memory.close()
