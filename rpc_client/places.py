"""Where a daemon's RPC socket is, unless an address is given."""

from __future__ import annotations

import os

DEFAULT_ADDRESS = "/run/virtiod/virtiod.sock"


def own_socket() -> str:
    """The socket of a daemon that a user runs who may not write to /run; "" without a runtime directory."""
    folder = os.environ.get("XDG_RUNTIME_DIR", "")
    return f"{folder}/virtiod/virtiod.sock" if folder.startswith("/") else ""


def found(address: str) -> str:
    """The address, but in the place of the default: the user's own daemon, if there is one and no other can be used."""
    if address != DEFAULT_ADDRESS or os.access(address, os.W_OK):
        return address
    own = own_socket()
    return own if own and os.path.exists(own) else address  # noqa: PTH110
