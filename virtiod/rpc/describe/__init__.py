"""The methods as files: for people, for the command line and for clients.

python -m virtiod.rpc.describe     # writes them; a test fails when they are out of date

All are made of the OpenRPC document that rpc.discover answers too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from rpc_client.description import Description, description_of
from virtiod.api.openrpc import document
from virtiod.rpc.describe import python
from virtiod.rpc.describe.page import page
from virtiod.rpc.methods import METHODS

ROOT = Path(__file__).parents[3]


def openrpc(_: Description | None = None) -> str:
    """The OpenRPC document of all methods."""
    return json.dumps(document(METHODS.values()), indent=1) + "\n"


def description() -> Description:
    return description_of(json.loads(openrpc()))


FILES: dict[Path, Callable[[Description], str]] = {
    ROOT / "docs" / "rpc.md": page,
    ROOT / "rpc_client" / "openrpc.json": openrpc,
    ROOT / "rpc_client" / "results.py": python.results,
    ROOT / "rpc_client" / "methods.py": python.methods,
    ROOT / "rpc_client" / "async_methods.py": python.async_methods,
}
