"""A daemon's configuration, saved and loaded by calls: the format is that of SPDK's save_config and load_config."""

from __future__ import annotations

from typing import Any

from rpc_client.client import Client

_START = "framework_start_init"


def save_config(client: Client) -> dict[str, Any]:
    """The configuration that brings another daemon into the state of this one. Raises ClientError."""
    names = [entry["subsystem"] for entry in client.call("framework_get_subsystems")]
    configs = ({"subsystem": name, "config": client.call("framework_get_config", {"name": name})} for name in names)
    return {"subsystems": list(configs)}


def load_config(client: Client, document: Any) -> list[str]:
    """Makes the calls of a configuration, those for the time before initialisation first, and initialises.

    Returns the methods that were not called, as it is too late for them. Raises ValueError for what is no
    configuration, before anything is called, and ClientError for the first call that fails.
    """
    left = calls_of(document)
    unknown = {method for method, _ in left} - set(client.call("rpc_get_methods", {"include_aliases": True}))
    if unknown:
        raise ValueError(f"the daemon does not have these methods of the configuration: {', '.join(sorted(unknown))}")
    while True:
        now = set(client.call("rpc_get_methods", {"current": True, "include_aliases": True}))
        later = [call for call in left if call[0] not in now]
        for method, params in left:
            if method in now:
                client.call(method, params)
        left = later
        if _START not in now:
            return [method for method, _ in left]
        client.call(_START)


def calls_of(document: Any) -> list[tuple[str, dict[str, Any]]]:
    """Method and parameters of each call, in order. Raises ValueError."""
    found: list[tuple[str, dict[str, Any]]] = []
    subsystems = document.get("subsystems") if isinstance(document, dict) else None
    if not isinstance(subsystems, list):
        raise ValueError("not a configuration: it has no array 'subsystems'")
    for subsystem in subsystems:
        entries = subsystem.get("config") if isinstance(subsystem, dict) else ""
        if not isinstance(entries, list | None):
            raise ValueError("not a configuration: 'config' of a subsystem must be an array")
        for entry in entries or []:
            found += [_call(one) for one in (entry if isinstance(entry, list) else [entry])]
    return found


def _call(entry: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(entry, dict) or not isinstance(entry.get("method"), str):
        raise ValueError("not a configuration: a call has no 'method'")
    params = entry.get("params") or {}
    if not isinstance(params, dict):
        raise ValueError(f"not a configuration: 'params' of {entry['method']} must be an object")
    return entry["method"], params
