"""A client of JSON-RPC storage daemons: virtiod, and others that speak SPDK's JSON-RPC. Needs nothing of virtiod.

from rpc_client import Client

with Client("/run/virtiod/virtiod.sock") as client:
    client.call("bdev_get_bdevs", {"name": "VirtioBlk0"})
"""

from __future__ import annotations

from rpc_client.client import DEFAULT_ADDRESS, Client
from rpc_client.errors import BadReply, ClientError, ConnectFailed, ConnectionLost, MethodError, TimedOut
from rpc_client.http import Access

__all__ = [
    "DEFAULT_ADDRESS",
    "Access",
    "BadReply",
    "Client",
    "ClientError",
    "ConnectFailed",
    "ConnectionLost",
    "MethodError",
    "TimedOut",
]
