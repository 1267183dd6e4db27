"""A daemon's configuration, saved and loaded by calls: the format is that of SPDK's save_config and load_config."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rpc_client.client import Client
from rpc_client.description import installed

SUBSYSTEMS = ("bdev", "nbd")  # those of a daemon
_START = "framework_start_init"
# Methods of SPDK that set up what a daemon doesn't have, in the subsystems that it does have.
_SETTINGS = re.compile(r"bdev_\w+_set_(options|hotplug|params)")


@dataclass(frozen=True)
class Entry:
    """A call of a configuration."""

    subsystem: str
    method: str
    params: dict[str, Any]


@dataclass
class Loaded:
    """What was not called: as a daemon has nothing of that kind, and as it was too late, the methods."""

    foreign: list[Entry] = field(default_factory=list)
    late: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """What is to be told of them."""
        lines = []
        for subsystem in dict.fromkeys(one.subsystem for one in self.foreign):
            methods = dict.fromkeys(one.method for one in self.foreign if one.subsystem == subsystem)
            lines.append(f"{subsystem}: left out, virtiod does not have this: {', '.join(methods)}")
        if self.late:
            lines.append(f"not called, because the daemon is already initialised: {', '.join(self.late)}")
        return lines


def is_foreign(subsystem: str, method: str) -> bool:
    """Whether a method that a daemon doesn't have is of SPDK, about something that the daemon neither has nor needs.

    So are all calls of other subsystems, and settings of other kinds of bdevs.
    """
    return subsystem not in SUBSYSTEMS or bool(_SETTINGS.fullmatch(method))


def save_config(client: Client) -> dict[str, Any]:
    """The configuration that brings another daemon into the state of this one. Raises ClientError."""
    names = [entry["subsystem"] for entry in client.call("framework_get_subsystems")]
    configs = ({"subsystem": name, "config": client.call("framework_get_config", {"name": name})} for name in names)
    return {"subsystems": list(configs)}


def load_config(client: Client, document: Any) -> Loaded:
    """Makes the calls of a configuration, those for the time before initialisation first, and initialises.

    Calls about what only SPDK has are left out, as a daemon does with its own configuration. Raises ValueError for what
    is no configuration, before anything is called, and ClientError for the first call that fails.
    """
    known = set(client.call("rpc_get_methods", {"include_aliases": True}))
    loaded = Loaded()
    left: list[Entry] = []
    for entry in calls_of(document):
        (loaded.foreign if _left_out(entry, known) else left).append(entry)
    unknown = {entry.method for entry in left} - known
    if unknown:
        raise ValueError(f"the daemon does not have these methods of the configuration: {', '.join(sorted(unknown))}")
    while True:
        now = set(client.call("rpc_get_methods", {"current": True, "include_aliases": True}))
        for entry in left:
            if entry.method in now:
                client.call(entry.method, entry.params)
        left = [entry for entry in left if entry.method not in now]
        if _START not in now:
            loaded.late = [entry.method for entry in left if not _is_so(client, entry)]
            return loaded
        client.call(_START)


def _left_out(entry: Entry, known: set[str]) -> bool:
    if entry.method in known:
        return any(one.foreign for one in installed().methods if one.name == entry.method)
    return is_foreign(entry.subsystem, entry.method)


def _is_so(client: Client, entry: Entry) -> bool:
    """Whether the daemon's own configuration says what a call does that comes too late."""
    if entry.subsystem not in SUBSYSTEMS:
        return False
    config = client.call("framework_get_config", {"name": entry.subsystem})
    return any(_within(entry.params, one.get("params", {})) for one in config if one["method"] == entry.method)


def _within(given: Mapping[str, Any], has: Mapping[str, Any]) -> bool:
    return all(name in has and has[name] == value for name, value in given.items())


def calls_of(document: Any) -> list[Entry]:
    """The calls, in order. Raises ValueError."""
    found: list[Entry] = []
    subsystems = document.get("subsystems") if isinstance(document, dict) else None
    if not isinstance(subsystems, list):
        raise ValueError("not a configuration: it has no array 'subsystems'")
    for subsystem in subsystems:
        entries = subsystem.get("config") if isinstance(subsystem, dict) else ""
        if not isinstance(entries, list | None):
            raise ValueError("not a configuration: 'config' of a subsystem must be an array")
        for entry in entries or []:
            name = str(subsystem.get("subsystem", SUBSYSTEMS[0]))
            found += [_call(name, one) for one in (entry if isinstance(entry, list) else [entry])]
    return found


def _call(subsystem: str, entry: Any) -> Entry:
    if not isinstance(entry, dict) or not isinstance(entry.get("method"), str):
        raise ValueError("not a configuration: a call has no 'method'")
    params = entry.get("params") or {}
    if not isinstance(params, dict):
        raise ValueError(f"not a configuration: 'params' of {entry['method']} must be an object")
    return Entry(subsystem, entry["method"], params)
