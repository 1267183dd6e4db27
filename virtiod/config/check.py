"""Checks calls against what the methods take, before any call is made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from rpc_client.config import is_foreign
from virtiod.api.params import ParamError, check_params
from virtiod.api.registry import Method
from virtiod.config.document import Call
from virtiod.core.errors import VirtiodError
from virtiod.core.names import quoted


@dataclass
class Checked:
    """`problems` are messages by their call; `ignored` are calls about things that virtiod does not have."""

    calls: list[Call] = field(default_factory=list)
    ignored: list[Call] = field(default_factory=list)
    problems: list[tuple[Call, str]] = field(default_factory=list)

    def warnings(self) -> list[str]:
        """The ignored calls, a line for each subsystem."""
        return [f"{where}: {what}" for where, what in _warnings(self.ignored)]


def check_calls(calls: Iterable[Call], methods: Mapping[str, Method], at_start: bool = False) -> Checked:
    """Sorts the calls into those to make, those to ignore, and those that are not valid.

    at_start: nothing exists but what the calls before make.
    """
    aliases = {alias: entry for entry in methods.values() for alias in entry.aliases}
    checked = Checked()
    seen: dict[tuple[str, str], Call] = {}
    made = _Things()
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
        if not problem and entry:
            problem = made.problem(call, entry, at_start)
        if problem:
            checked.problems.append((call, problem))
        else:
            checked.calls.append(call)
    return checked


class _Things:
    """What the calls so far make."""

    def __init__(self) -> None:
        self._unique: dict[str, tuple[str, Call]] = {}  # by key, the parameter and its call
        self._bdevs: list[str] = []  # patterns of their names

    def problem(self, call: Call, entry: Method, at_start: bool) -> str:
        """Why the call can't be made after those before; "" if it can, and then what it makes is counted."""
        name = call.params.get(entry.uses) if entry.uses else None
        if at_start and name is not None and not any(re.fullmatch(one, str(name)) for one in self._bdevs):
            return f"{call.where_param(entry.uses)} ({call.method}): no call before makes a bdev {quoted(str(name))}"
        if entry.makes is None:
            return ""
        made = entry.makes(call.params)
        for param, key in made.unique.items():
            if key in self._unique:
                other, first = self._unique[key]
                value = quoted(str(call.params[param]))
                return f"{call.where_param(param)} ({call.method}): {value} is taken by {first.where_param(other)}"
        self._unique |= {key: (param, call) for param, key in made.unique.items()}
        self._bdevs += [made.bdevs] if made.bdevs else []
        return ""


def _problem(call: Call, entry: Method | None) -> str:
    """What is wrong with it, and where; "" for nothing."""
    if entry is None:
        return f"{call.source.at((*call.place, 'method'))} ({call.method}): there is no method {call.method!r}"
    if not entry.in_files:
        return f"{call.source.at((*call.place, 'method'))} ({call.method}): it is for RPC, and can't be in a file"
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
