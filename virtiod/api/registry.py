"""One description per method: its handler, parameters, result, errors, states and documentation."""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, get_type_hints

from virtiod.api.errors import INVALID_PARAMS
from virtiod.api.params import Param, params_of

Handler = Callable[..., Coroutine[Any, Any, object]]
Ends = Literal["", "bdev", "controller", "export"]


class State(enum.Flag):
    """When a method may be called: before framework_start_init has ended, after it, or both."""

    STARTUP = enum.auto()
    RUNTIME = enum.auto()
    ANY = STARTUP | RUNTIME


@dataclass(frozen=True)
class Made:
    """What a call makes, as far as its parameters tell.

    unique: what there can be but once, as {parameter: key}; bdevs: a pattern of the names that its bdevs can have.
    """

    unique: Mapping[str, str]
    bdevs: str


@dataclass(frozen=True)
class Method:
    name: str
    handler: Handler
    needs: tuple[type, ...]  # the types of the handler's first parameters: System, or a service
    params: tuple[Param, ...]
    result: object  # the type of its result, as virtiod/api/schema.py takes it
    errors: Mapping[int, str]  # by code, what they mean: those of its own, beside those of every method
    family: str
    doc: str
    states: State
    aliases: tuple[str, ...]
    bad_params: int  # code for parameters that do not fit
    passive: bool  # only waits or measures: cancelled when its client is gone
    reads: bool  # changes nothing, as long as none of `changing` is given another value than its default
    changing: tuple[str, ...]
    undo: str  # the method that, given the name, deletes what this one creates; "" if it creates nothing
    ends: Ends  # what the method deletes by its parameter `name`, with all that uses it; "" if it deletes nothing
    precheck: Callable[[Mapping[str, object]], None] | None  # what parameters show before the call: VirtiodError
    in_config: Mapping[str, object]  # parameters that a configuration gives unless it says otherwise
    in_files: bool  # makes sense in a configuration
    makes: Callable[[Mapping[str, object]], Made] | None  # what a call makes; its parameters are checked already
    uses: str  # the parameter that names a bdev which must exist; "" for none
    foreign: bool  # sets up what only SPDK has: takes other parameters too, changes nothing, and files leave it out

    @property
    def summary(self) -> str:
        return self.doc.partition("\n")[0]

    def describes(self, code: int) -> bool:
        """Whether the method may answer with this error code. EIO stands for every errno."""
        return code in self.errors or (-errno.EIO in self.errors and -4096 < code < 0)

    def known(self, params: Mapping[str, object]) -> dict[str, object]:
        """Those of the parameters that are described: all, unless the method is foreign."""
        names = {param.name for param in self.params}
        return {name: value for name, value in params.items() if name in names}

    def changes(self, params: Mapping[str, object]) -> bool:
        """Whether a call with these parameters, checked or not, may change something."""
        given = (param for param in self.params if param.name in self.changing and param.name in params)
        return not self.reads or any(params[param.name] != param.default for param in given)


def method(
    states: State = State.RUNTIME,
    *,
    name: str = "",
    errors: Mapping[int, str] | None = None,
    aliases: Iterable[str] = (),
    bad_params: int = INVALID_PARAMS,
    passive: bool = False,
    reads: bool = False,
    changing: Iterable[str] = (),
    undo: str = "",
    ends: Ends = "",
    precheck: Callable[[Mapping[str, object]], None] | None = None,
    in_config: Mapping[str, object] | None = None,
    in_files: bool = True,
    makes: Callable[[Mapping[str, object]], Made] | None = None,
    uses: str = "",
    foreign: bool = False,
) -> Callable[[Handler], Method]:
    """Makes a method of an async function (*needs, **params). Its name, docstring and types are the method's."""

    def describe(handler: Handler) -> Method:
        needs, params = params_of(handler)
        return Method(
            name=name or handler.__name__,
            handler=handler,
            needs=needs,
            params=params,
            result=get_type_hints(handler, include_extras=True)["return"],
            errors=errors or {},
            family=handler.__module__.rpartition(".")[2],
            doc=_dedent(handler.__doc__ or ""),
            states=states,
            aliases=tuple(aliases),
            bad_params=bad_params,
            passive=passive,
            reads=reads,
            changing=tuple(changing),
            undo=undo,
            ends=ends,
            precheck=precheck,
            in_config=in_config or {},
            in_files=in_files,
            makes=makes,
            uses=uses,
            foreign=foreign,
        )

    return describe


def collect(families: Iterable[ModuleType]) -> dict[str, Method]:
    """All methods of these modules by name, sorted."""
    found: dict[str, Method] = {}
    for family in families:
        for entry in vars(family).values():
            if isinstance(entry, Method):
                assert found.setdefault(entry.name, entry) is entry, f"{entry.name} is described twice"
    return dict(sorted(found.items()))


def _dedent(doc: str) -> str:
    return "\n".join(line.strip() for line in doc.strip().splitlines())
