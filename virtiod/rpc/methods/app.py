"""Methods about the daemon itself."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Annotated, Literal

from virtiod import __version__
from virtiod.api.openrpc import document
from virtiod.api.params import Arg
from virtiod.api.registry import State, method
from virtiod.api.results.app import Version, VersionFields
from virtiod.api.services import Calls
from virtiod.core.described import Member

Signal = Literal["SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGKILL", "SIGUSR1"]


@method(State.ANY, reads=True)
async def rpc_get_methods(
    calls: Calls,
    current: Annotated[bool, Arg("only those that can be called in the current state", "-c/--current")] = False,
    include_aliases: Annotated[bool, Arg("other names of methods too", "-i/--include-aliases")] = False,
) -> Annotated[list[str], Member("names of methods, sorted")]:
    """Lists the names of the methods."""
    return calls.names(current=current, include_aliases=include_aliases)


@method(State.ANY, name="rpc.discover", reads=True)
async def rpc_discover(calls: Calls) -> Annotated[dict[str, object], Member("an OpenRPC document")]:
    """Describes the methods: their parameters, results and errors.

    The document follows https://spec.open-rpc.org, version 1.3. Tools make clients and documentation of it.
    """
    return document(calls.methods.values())


@method(State.ANY, aliases=["virtiod_get_version"], reads=True)
async def spdk_get_version() -> Version:
    """Returns the version of virtiod."""
    major, minor, patch = (int(part) for part in __version__.split(".")[:3])
    fields = VersionFields(major=major, minor=minor, patch=patch, suffix="")
    return Version(version=f"virtiod v{__version__}", fields=fields)


@method(State.ANY, in_files=False)
async def spdk_kill_instance(sig_name: Annotated[Signal, Arg("signal to send", "sig_name")]) -> bool:
    """Sends the daemon a signal.

    SIGTERM, SIGINT and SIGQUIT end it in an orderly way, a second one at once; SIGHUP has it read its configuration
    again, SIGUSR1 log its Python stacks; SIGKILL kills it.
    """
    # From the loop's next round on, so that the answer can leave first.
    asyncio.get_running_loop().call_later(0.01, os.kill, os.getpid(), getattr(signal, sig_name))
    return True
