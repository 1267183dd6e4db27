"""From a JSON value that a client sent to the value that answers it.

jsonrpcserver dispatches: it finds methods, runs a batch side by side and makes responses of results. It is handed
values instead of text, since a stream is cut and parsed by the framer. Where SPDK's clients expect what it does not do:

- "jsonrpc" may be left out, and an error says what is wrong with a request. Its own validator allows neither.
- A bad element of a batch spoils only its own answer: in its place stands a call that answers with the error. The
  library would refuse the whole batch.
- Errors of notifications are answered, with a null id: they are given an id that is taken off again. The library
  would drop them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any

import msgspec
from jsonrpcserver import Error, Result, Success
from jsonrpcserver.async_main import dispatch_to_response
from jsonrpcserver.response import Response, to_serializable

from virtiod.api.caller import Caller, Role
from virtiod.api.errors import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    INVALID_STATE,
    METHOD_NOT_FOUND,
    NotSaved,
    RpcError,
)
from virtiod.api.params import ParamError, check_params
from virtiod.api.registry import Method, State
from virtiod.core.errors import VirtiodError
from virtiod.core.tasks import spawn
from virtiod.rpc.protocol.audit import audit
from virtiod.rpc.protocol.timing import Timings

MAX_RESPONSE_BYTES = 32 * 1024 * 1024

# Called after each call of a known method with its name, how long it took (s) and its error code (0 for none).
Observer = Callable[[str, float, int], None]

_MEMBERS = frozenset({"jsonrpc", "method", "params", "id"})
_NO_ID = object()  # of notifications
_REFUSED = "\ud800"  # the method that refuses; no client can name it, as the framer takes no lone surrogate

logger = logging.getLogger(__name__)


class Dispatcher:
    """The methods that clients may call now.

    allowed: names of the only methods there are (--rpcs-allowed); None for all. strict: check that results and codes
    of errors are as methods describe them.
    """

    def __init__(
        self, methods: dict[str, Method], allowed: Collection[str] | None = None, strict: bool = sys.flags.dev_mode
    ) -> None:
        self.state = State.STARTUP
        self.strict = strict
        self.timings = Timings()
        self.observers: list[Observer] = [self.timings.add]
        self.on_change: Callable[[], Awaitable[None]] | None = None
        self._services: Mapping[type, object] = {}
        self._methods = {name: entry for name, entry in methods.items() if allowed is None or entry.name in allowed}
        self._aliases = {
            alias: entry
            for entry in methods.values()
            for alias in entry.aliases
            if allowed is None or alias in allowed or entry.name in allowed
        }
        self._callables: dict[str, Callable[..., Awaitable[Result]]] = {
            _REFUSED: _refuse,
            **{name: partial(self._answer, entry) for name, entry in {**self._methods, **self._aliases}.items()},
        }
        self._running: set[asyncio.Task[object]] = set()
        self._closed = False

    def provide(self, services: Mapping[type, object]) -> None:
        """Sets what methods need, by type; before the first call."""
        self._services = services

    def _needed(self, entry: Method) -> Iterator[object]:
        return (self._services[need] for need in entry.needs)

    @property
    def methods(self) -> Mapping[str, Method]:
        """All methods, by name."""
        return self._methods

    def names(self, *, current: bool = False, include_aliases: bool = False) -> list[str]:
        """Names of the methods, only those of the current state if asked."""
        entries = {**self._methods, **(self._aliases if include_aliases else {})}
        return sorted(name for name, entry in entries.items() if not current or self.state in entry.states)

    def callable_now(self, name: str) -> bool:
        """Whether the method exists and may be called in the current state."""
        return self.state in self._find(name).states

    async def call(self, name: str, params: Mapping[str, object], caller: Caller | None = None) -> Any:
        """Calls one method as a client would: the result is a JSON value. Raises RpcError.

        caller: None for the daemon itself, which may call anything and is not audited.
        """
        entry = self._find(name)
        started = time.monotonic()
        code, outcome = INTERNAL_ERROR, "the caller disconnected"
        try:
            result = await self._run(entry, params, caller)
            code, outcome = 0, "ok"
        except RpcError as error:
            code, outcome = error.code, f"{error.message} ({error.code})"
            logger.info("%s: %s (%d)", entry.name, error.message, error.code)
            raise
        finally:
            seconds = time.monotonic() - started
            for observer in self.observers:
                observer(entry.name, seconds, code)
            if caller is not None and entry.changes(params):
                audit(caller, entry.name, params, outcome, seconds)
        return result

    async def handle(self, value: object, caller: Caller) -> dict[str, object] | list[dict[str, object]] | None:
        """The response to a request or a batch; None when there is nothing to answer."""
        if value == []:
            return _error(INVALID_REQUEST, "Invalid Request: the batch is empty", None)
        requests = [_request(one) for one in value] if isinstance(value, list) else _request(value)
        answered = await dispatch_to_response(
            "",
            self._callables,
            context=caller,
            deserializer=lambda _: requests,
            validator=lambda checked: checked,
            post_process=_response,
        )
        if isinstance(answered, list):
            return [response for response in answered if response is not None] or None
        assert isinstance(answered, dict | None)
        return answered

    def close(self) -> None:
        """Has every later call refused."""
        self._closed = True

    async def stop(self, timeout_s: float) -> None:
        """Waits for the calls that run, and cancels them at the deadline."""
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _find(self, name: str) -> Method:
        entry = self._methods.get(name) or self._aliases.get(name)
        if entry is None:
            raise RpcError(METHOD_NOT_FOUND, "Method not found")
        return entry

    async def _answer(self, entry: Method, caller: Caller, /, **params: object) -> Result:
        try:
            return Success(await self.call(entry.name, params, caller))
        except RpcError as error:
            return Error(code=error.code, message=error.message)

    async def _run(self, entry: Method, params: Mapping[str, object], caller: Caller | None) -> object:
        if self._closed:
            raise RpcError(INVALID_STATE, f"{entry.name}: the daemon is stopping")
        if caller is not None and caller.role is not Role.ADMIN and entry.changes(params):
            raise RpcError(-errno.EACCES, f"{entry.name}: needs the role admin, {caller.name} is {caller.role.value}")
        if self.state not in entry.states:
            when = "before" if State.RUNTIME not in entry.states else "after"
            raise RpcError(INVALID_STATE, f"Method may only be called {when} framework_start_init: {entry.name}")
        if entry.foreign:
            params = entry.known(params)
        try:
            check_params(entry.params, params)
        except ParamError as error:
            raise RpcError(entry.bad_params, f"{entry.name}: {error}") from None
        try:
            result = msgspec.to_builtins(await self._run_as_described(entry, params, caller))
            if self.strict:
                msgspec.convert(result, entry.result)
            return result
        except RpcError:
            raise
        except Exception as error:
            logger.exception("%s failed", entry.name)
            raise RpcError(INTERNAL_ERROR, f"{entry.name}: {type(error).__name__}: {error}") from error

    async def _run_as_described(self, entry: Method, params: Mapping[str, object], caller: Caller | None) -> object:
        """Runs a method. Raises RpcError for the method's own errors."""
        try:
            if entry.passive:
                return await entry.handler(*self._needed(entry), **params)
            return await self._run_to_its_end(entry, params, changes=caller is not None and entry.changes(params))
        except VirtiodError as error:
            self._check_error(entry, -error.errno)
            raise RpcError(-error.errno, str(error)) from error
        except NotSaved:  # which any change may be answered with
            raise
        except RpcError as error:
            self._check_error(entry, error.code)
            raise

    def _check_error(self, entry: Method, code: int) -> None:
        if self.strict and not entry.describes(code):
            raise LookupError(f"{code} is not among the errors of {entry.name}")

    async def _run_to_its_end(self, entry: Method, params: Mapping[str, object], *, changes: bool) -> object:
        # A client that disconnects must not leave a change half made, nor one that is not saved.
        task = spawn(self._run_and_tell(entry, params, changes), entry.name, awaited=True)
        self._running.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    async def _run_and_tell(self, entry: Method, params: Mapping[str, object], changes: bool) -> object:
        result = await entry.handler(*self._needed(entry), **params)
        if changes and self.on_change is not None:
            await self.on_change()
        return result

    def _forget(self, task: asyncio.Task[object]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, should nobody be waiting any more


def encode(response: dict[str, object] | list[dict[str, object]]) -> bytes:
    """The response as one line."""
    try:
        line = json.dumps(response, separators=(",", ":"), allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        logger.exception("the result cannot be encoded as JSON")
        return _encode_failure(response, str(error))
    if len(line) > MAX_RESPONSE_BYTES:
        return _encode_failure(response, f"the response of {len(line)} bytes is too long")
    return line


def _encode_failure(response: dict[str, object] | list[dict[str, object]], message: str) -> bytes:
    request_id = response.get("id") if isinstance(response, dict) else None
    return json.dumps(_error(INTERNAL_ERROR, message, request_id)).encode() + b"\n"


def error_line(code: int, message: str) -> bytes:
    """An error that no request can be named for, as one line."""
    return encode(_error(code, message, None))


def _error(code: int, message: str, request_id: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "error": {"code": code, "message": message}, "id": request_id}


async def _refuse(_caller: Caller, /, code: int, message: str) -> Result:
    return Error(code=code, message=message)


def _response(answered: Response) -> dict[str, object] | None:
    """The response as JSON; None for a notification that went well."""
    response = to_serializable(answered)
    assert isinstance(response, dict)  # of one request
    if response["id"] is _NO_ID:
        return None if "result" in response else {**response, "id": None}
    return response


def _request(value: object) -> dict[str, object]:
    """The request in the form that jsonrpcserver expects, always with an id; one that refuses in place of a bad one."""
    given = value.get("id", _NO_ID) if isinstance(value, dict) else None
    request_id = given if given is _NO_ID or _is_id(given) else None
    try:
        method, params = _checked(value)
    except RpcError as error:
        method, params = _REFUSED, {"code": error.code, "message": error.message}
    return {"jsonrpc": "2.0", "method": method, "params": params, "id": request_id}


def _checked(value: object) -> tuple[str, dict[str, object]]:
    """The method and the parameters of a request. Raises RpcError."""
    wrong = ""
    if not isinstance(value, dict):
        raise RpcError(INVALID_REQUEST, "Invalid Request: it must be an object")
    with contextlib.suppress(StopIteration):
        wrong = f"unknown member {next(name for name in value if name not in _MEMBERS)[:64]!r}"
    if value.get("jsonrpc", "2.0") != "2.0":
        wrong = '"jsonrpc" must be "2.0"'
    elif not isinstance(value.get("method"), str):
        wrong = '"method" must be a string'
    elif not _is_id(value.get("id")):
        wrong = '"id" must be a string, a number or null'
    elif not isinstance(value.get("params"), dict | list | None):
        wrong = '"params" must be an object'
    if wrong:
        raise RpcError(INVALID_REQUEST, f"Invalid Request: {wrong}")
    params = value.get("params") or {}
    if isinstance(params, list):
        raise RpcError(INVALID_PARAMS, "params must be an object: parameters are passed by name")
    return value["method"], params


def _is_id(value: object) -> bool:
    return value is None or (isinstance(value, str | int | float) and not isinstance(value, bool))
