"""Several daemons at once: each in a thread of its own, so that none waits for another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpc_client.client import Client
from rpc_client.errors import ClientError, TimedOut
from rpc_client.printing import printable

MAX_HOSTS = 1000
_GRACE_S = 1.0  # more than each call's own deadline


@dataclass(frozen=True)
class Host:
    """A daemon. `name` is how it is shown."""

    name: str
    address: str


@dataclass
class Outcome:
    """The answer of a host: a result, or an error."""

    host: Host
    result: Any = None
    error: Exception | None = None


def read_hosts(path: str) -> list[Host]:
    """A line for each host: its address, before it a name if it is to be shown by one. # begins a comment.

    Raises ValueError naming the line, or OSError.
    """
    found: list[Host] = []
    for number, line in enumerate(Path(path).read_text().splitlines(), 1):
        words = line.partition("#")[0].split()
        if len(words) > 2:
            raise ValueError(f"{path}:{number}: must be [NAME] ADDRESS")
        for word in words:
            if not word.isprintable():
                raise ValueError(f"{path}:{number}: '{printable(word)}' holds characters that can't be printed")
        if words:
            found.append(Host(words[0], words[-1]))
    if not found:
        raise ValueError(f"{path}: holds no address")
    if len(found) > MAX_HOSTS:
        raise ValueError(f"{path}: holds more than {MAX_HOSTS} addresses")
    return found


def on_each(
    hosts: Sequence[Host], connect: Callable[[Host], Client], work: Callable[[Client], Any], timeout_s: float
) -> list[Outcome]:
    """Runs work(client) on all hosts side by side; returns outcomes in their order. A late host has timed out."""
    outcomes = [
        Outcome(host, error=TimedOut(f"no answer from {host.address} within {timeout_s:g} s")) for host in hosts
    ]

    def run(index: int) -> None:
        host = hosts[index]
        try:
            with connect(host) as client:
                outcomes[index] = Outcome(host, work(client))
        except (ClientError, OSError, ValueError) as error:
            outcomes[index] = Outcome(host, error=error)

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(hosts))]
    deadline = time.monotonic() + timeout_s + _GRACE_S
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return list(outcomes)
