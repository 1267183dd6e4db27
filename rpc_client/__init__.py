"""A client of JSON-RPC storage daemons: virtiod, and others that speak SPDK's JSON-RPC. Needs nothing of virtiod.

from rpc_client import Client

with Client("/run/virtiod/virtiod.sock") as client:
    for bdev in client.bdev_get_bdevs():
        print(bdev.name, bdev.num_blocks * bdev.block_size)
    client.call("any_method", {"name": "value"})  # one that it has no function for

AsyncClient is the same for asyncio.
"""

from __future__ import annotations

from rpc_client.aio import AsyncClient
from rpc_client.client import Client
from rpc_client.errors import BadReply, ClientError, ConnectFailed, ConnectionLost, MethodError, TimedOut
from rpc_client.places import DEFAULT_ADDRESS
from rpc_client.url import Access

__all__ = [
    "DEFAULT_ADDRESS",
    "Access",
    "AsyncClient",
    "BadReply",
    "Client",
    "ClientError",
    "ConnectFailed",
    "ConnectionLost",
    "MethodError",
    "TimedOut",
]
