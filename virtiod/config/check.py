"""Checks calls against what the methods take, before any call is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from rpc_client.config import is_foreign
from virtiod.api.params import ParamError, check_params
from virtiod.api.registry import Method
from virtiod.config.document import Call
from virtiod.core.errors import VirtiodError


@dataclass
class Checked:
    """`problems` are messages by their call; `ignored` are calls about things that virtiod does not have."""

    calls: list[Call] = field(default_factory=list)
    ignored: list[Call] = field(default_factory=list)
    problems: list[tuple[Call, str]] = field(default_factory=list)

    def warnings(self) -> list[str]:
        """The ignored calls, a line for each subsystem."""
        return [f"{where}: {what}" for where, what in _warnings(self.ignored)]


def check_calls(calls: Iterable[Call], methods: Mapping[str, Method]) -> Checked:
    """Sorts the calls into those to make, those to ignore, and those that are not valid."""
    aliases = {alias: entry for entry in methods.values() for alias in entry.aliases}
    checked = Checked()
    seen: dict[tuple[str, str], Call] = {}
    for call in calls:
        entry = methods.get(call.method) or aliases.get(call.method)
        if entry.foreign if entry else is_foreign(call.subsystem, call.method):
            checked.ignored.append(call)
            continue
        problem = _problem(call, entry)
        first = seen.setdefault(call.identity, call)
        if not problem and first is not call and entry and entry.undo:
            problem = (
                f"{call.where_param('name')} ({call.method}): "
                f"'{call.identity[1]}' is created twice, first by {first.where}"
            )
        if problem:
            checked.problems.append((call, problem))
        else:
            checked.calls.append(call)
    return checked


def _problem(call: Call, entry: Method | None) -> str:
    """What is wrong with it, and where; "" for nothing."""
    if entry is None:
        return f"{call.source.at((*call.place, 'method'))} ({call.method}): there is no method {call.method!r}"
    try:
        check_params(entry.params, call.params)
        if entry.precheck is not None:
            entry.precheck(call.params)
    except ParamError as error:
        return f"{call.where_param(error.param)} ({call.method}): {error}"
    except VirtiodError as error:
        named = str(error).partition(" ")[0]  # such messages begin with the parameter's name
        return f"{call.where_param(named)} ({call.method}): {error}"
    return ""


def _warnings(ignored: list[Call]) -> Iterator[tuple[str, str]]:
    for subsystem in dict.fromkeys(call.subsystem for call in ignored):
        calls = [call for call in ignored if call.subsystem == subsystem]
        names = ", ".join(dict.fromkeys(call.method for call in calls))
        yield calls[0].where, f"ignored, virtiod does not have this: {names}"
