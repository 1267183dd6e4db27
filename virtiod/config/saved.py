"""The present state of a daemon, as the calls of a configuration."""

from __future__ import annotations

from collections.abc import Collection

from virtiod.config.document import Call, Identity, identity
from virtiod.core.saved import SavedCall
from virtiod.system import SUBSYSTEMS, System


def running_identities(system: System) -> set[Identity]:
    """The identities of the calls that would create what exists."""
    return {_identity(call) for name in SUBSYSTEMS for call in system.saved_calls(name)}


def saved_document(
    system: System, leave_out: Collection[Identity] = (), more: Collection[Call] = ()
) -> dict[str, list[dict[str, object]]]:
    """The configuration of the system as it is, without the calls of some identities, and with more that wait."""
    subsystems: list[dict[str, object]] = []
    for name in SUBSYSTEMS:
        config = [call.entry() for call in system.saved_calls(name) if _identity(call) not in leave_out]
        config += [{"method": call.method, "params": call.params} for call in more if call.subsystem == name]
        subsystems.append({"subsystem": name, "config": config})
    return {"subsystems": subsystems}


def _identity(call: SavedCall) -> Identity:
    return identity(call.method, call.params)
