"""A function for each method, of both clients: arguments, results, documentation."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from rpc_client import AsyncClient, BadReply, Client, MethodError, results
from rpc_client.async_methods import AsyncMethods
from rpc_client.description import Description, Method, installed
from rpc_client.methods import Methods
from tests.rpc.methods.conversation import converse
from tests.support.daemon import running
from virtiod.rpc.methods import METHODS

DESCRIPTION: Description = installed()


class Recorded(Methods):
    """Answers each call with `result`, and notes what was sent."""

    def __init__(self, result: object) -> None:
        self.result = result
        self.sent: list[tuple[str, Mapping[str, Any] | None, float | None]] = []

    def call(self, method: str, params: Mapping[str, Any] | None = None, *, timeout_s: float | None = None) -> Any:
        self.sent.append((method, params, timeout_s))
        return self.result


class AsyncRecorded(AsyncMethods):
    def __init__(self, result: object) -> None:
        self.recorded = Recorded(result)

    async def call(
        self, method: str, params: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> Any:
        return self.recorded.call(method, params, timeout_s=timeout_s)


def python_name(method: str) -> str:
    return method.replace(".", "_")


@pytest.mark.parametrize("method", DESCRIPTION.methods, ids=lambda method: method.name)
@pytest.mark.parametrize("kind", [Methods, AsyncMethods])
def test_every_method_has_a_documented_function_with_required_arguments_first(kind: type, method: Method) -> None:
    function = getattr(kind, python_name(method.name))
    parameters = list(inspect.signature(function).parameters.values())[1:]
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in parameters)
    assert [parameter.name for parameter in parameters] == [param.name for param in method.parameters] + ["timeout_s"]
    optional = [parameter.default is None for parameter in parameters]
    assert optional == sorted(optional) == [not param.required for param in method.parameters] + [True]
    assert (function.__doc__ or "").startswith(method.summary)
    assert all(f"{param.name}: {param.type.help}"[:60] in function.__doc__ for param in method.parameters)
    assert "return" in get_type_hints(function)


def test_no_method_is_missing_or_too_much() -> None:
    functions = {name for name in vars(Methods) if not name.startswith("_")}
    assert functions == {python_name(name) for name in METHODS}
    assert {name for name in vars(AsyncMethods) if not name.startswith("_")} == functions


def test_what_is_not_given_is_not_sent() -> None:
    client = Recorded(True)
    assert client.bdev_enable_histogram(name="B0", enable=False, granularity=0) is True
    assert client.bdev_wait_for_examine(timeout_s=3) is True
    assert client.sent == [
        ("bdev_enable_histogram", {"name": "B0", "enable": False, "granularity": 0}, None),
        ("bdev_wait_for_examine", {}, 3),
    ]


def test_every_answer_of_a_daemon_has_the_type_that_its_function_names(run_dir: Path) -> None:
    for method, params, line in converse(run_dir):
        answer = json.loads(line)["result"]
        client, async_client = Recorded(answer), AsyncRecorded(answer)
        typed = getattr(client, python_name(method))(**params)
        assert client.sent == [(method, params, None)]
        assert asyncio.run(getattr(async_client, python_name(method))(**params)) == typed
        assert async_client.recorded.sent == client.sent


NOTIFICATION = {"type": "bdev_register", "ctx": "B0", "id": 7}


def test_members_of_a_newer_daemon_are_left_out_and_choices_it_added_are_taken() -> None:
    (found,) = Recorded([{**NOTIFICATION, "when": 5}]).notify_get_notifications()
    assert found == results.Notification(type="bdev_register", ctx="B0", id=7)
    queue = {"index": 0, "size": 1, "in_flight": 0, "kicks": 0, "interrupts": 0, "full": 0, "poller": "poller_0"}
    controller: dict[str, object] = {
        "name": "B0",
        "dev_type": "blk",
        "trtype": "user",
        "traddr": "/x",
        "state": "quiesced",
    }
    virtio = {"vq_count": 1, "vq_size": 1, "type": "user", "socket": "/x"}
    kept = {"records": 0, "bytes": 0, "flushes": 0, "repeated": 0, "losses": 0}
    controller |= {"state": "quiesced", "on_loss": "keep", "kept": kept}
    answer = [{**controller, "reconnects": 0, "virtio": virtio, "queues": [queue]}]
    (one,) = Recorded(answer).virtiod_get_controllers()
    assert (one.state, one.virtio.socket, one.virtio.pci_address) == ("quiesced", "/x", None)


def test_a_member_that_an_older_daemon_does_not_have_yet_is_none() -> None:
    virtio = {"vq_count": 1, "vq_size": 1, "type": "user", "socket": "/x"}
    old = {"name": "B0", "dev_type": "scsi", "trtype": "user", "traddr": "/x", "state": "up", "reconnects": 0}
    old |= {"on_loss": "keep", "kept": {"records": 0, "bytes": 0, "flushes": 0, "repeated": 0, "losses": 0}}
    (one,) = Recorded([{**old, "virtio": virtio, "queues": []}]).virtiod_get_controllers()
    assert one.unused is None
    (one,) = Recorded([{**old, "virtio": virtio, "queues": [], "unused": ["x"]}]).virtiod_get_controllers()
    assert one.unused == ["x"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({}, "notify_get_notifications: the result is not as described: Expected `array`, got `object`"),
        ([{**NOTIFICATION, "id": "7"}], "Expected `int`, got `str` - at `$[0].id`"),
        ([{"type": "x", "ctx": "B0"}], "Object missing required field `id` - at `$[0]`"),
    ],
)
def test_a_result_that_is_not_as_described_is_a_bad_reply(answer: object, message: str) -> None:
    with pytest.raises(BadReply) as caught:
        Recorded(answer).notify_get_notifications()
    assert message in str(caught.value)


def test_there_are_no_functions_by_any_other_name() -> None:
    for client in (Client("/nobody"), AsyncClient("/nobody")):
        assert not hasattr(client, "bdev_get_bdevz")


def test_both_clients_work_on_a_daemon(run_dir: Path) -> None:
    attach = {"name": "B0", "trtype": "user", "traddr": "/x.sock", "dev_type": "blk"}

    def use(path: str) -> None:
        with Client(path) as client:
            (bdev,) = client.bdev_get_bdevs(name="B0")
            assert (bdev.name, bdev.block_size, bdev.driver_specific.blk) == ("B0", 512, None)
            stat = client.bdev_get_iostat(names=["B0"])
            assert stat.bdevs is not None and stat.channels is None
            assert (stat.bdevs[0].num_read_ops, stat.bdevs[0].io_error) == (0, None)
            with pytest.raises(MethodError) as caught:
                client.bdev_null_delete(name="B9")
            assert caught.value.code == -19

    async def run() -> None:
        async with running(run_dir) as daemon, AsyncClient(str(run_dir / "rpc")) as client:
            await daemon.rpc.call("bdev_virtio_attach_controller", dict(attach))
            exports, level = await asyncio.gather(client.nbd_get_exports(), client.log_get_level())
            assert (exports, level) == ([], "INFO")
            export = await client.nbd_create_export(bdev_name="B0", name="disk", read_only=True)
            assert (export.name, export.size) == ("disk", 1 << 30)
            await asyncio.to_thread(use, str(run_dir / "rpc"))

    asyncio.run(run())
