"""Results and errors that are not as their method describes them, where that is checked."""

from __future__ import annotations

import asyncio
import errno
import sys
from dataclasses import dataclass
from typing import Annotated

import pytest

from virtiod.api.errors import RpcError
from virtiod.api.params import Arg
from virtiod.api.registry import State, method
from virtiod.core.described import Member
from virtiod.core.errors import NotFound, VirtiodError
from virtiod.rpc.protocol.dispatcher import Dispatcher


@dataclass(kw_only=True)
class Disk:
    """A disk."""

    size: Annotated[int, Member("capacity", "bytes")]


@method(State.ANY)
async def wrong_result() -> Disk:
    """Answers with a member that is of another type."""
    return Disk(size="1 GiB")  # type: ignore[arg-type]


@method(State.ANY)
async def not_json() -> object:
    """Answers with what JSON has no form for."""
    return object()


@method(State.ANY, errors={-errno.ENODEV: "there is none"})
async def failing(code: Annotated[int, Arg("errno to fail with")]) -> bool:
    """Fails."""
    raise NotFound("gone") if code == errno.ENODEV else VirtiodError("broken", code)


@method(State.ANY, errors={-errno.EIO: "it failed; also any other -errno"})
async def failing_in_any_way(code: Annotated[int, Arg("errno to fail with")]) -> bool:
    """Fails."""
    raise VirtiodError("broken", code)


METHODS = {entry.name: entry for entry in (wrong_result, not_json, failing, failing_in_any_way)}


def call(name: str, strict: bool, **params: int) -> object:
    """The result, or the error's code and message."""
    try:
        return asyncio.run(Dispatcher(METHODS, strict=strict).call(name, dict(params)))
    except RpcError as error:
        return error.code, error.message


def test_results_and_errors_are_checked_only_where_that_is_asked_for() -> None:
    assert Dispatcher(METHODS).strict == sys.flags.dev_mode
    assert call("wrong_result", strict=False) == {"size": "1 GiB"}
    assert call("failing", strict=False, code=errno.EPERM) == (-errno.EPERM, "broken")


def test_a_result_that_is_not_as_described_is_an_internal_error() -> None:
    message = "wrong_result: ValidationError: Expected `int`, got `str` - at `$.size`"
    assert call("wrong_result", strict=True) == (-32603, message)


@pytest.mark.parametrize("strict", [True, False])
def test_a_result_that_is_no_json_is_an_internal_error(strict: bool) -> None:
    found = call("not_json", strict)
    assert isinstance(found, tuple)
    assert (found[0], found[1].startswith("not_json: TypeError: ")) == (-32603, True)


def test_an_error_that_is_not_described_is_an_internal_error() -> None:
    assert call("failing", strict=True, code=errno.ENODEV) == (-errno.ENODEV, "gone")
    message = "failing: LookupError: -1 is not among the errors of failing"
    assert call("failing", strict=True, code=errno.EPERM) == (-32603, message)
    assert call("failing_in_any_way", strict=True, code=errno.EPERM) == (-errno.EPERM, "broken")
