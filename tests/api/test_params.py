"""From a function's signature to schema and checks."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest

from virtiod.api.params import Arg, ParamError, check_params, params_of
from virtiod.api.registry import Method, State
from virtiod.rpc.methods import METHODS
from virtiod.system import System


async def example(
    daemon: System,
    name: Annotated[str, Arg("a name", "name")],
    level: Annotated[Literal["low", "high"], Arg("a level", "-l/--level")] = "low",
    count: Annotated[int | None, Arg("a count", minimum=1, maximum=9)] = None,
    share: Annotated[float, Arg("a share", maximum=1)] = 0.5,
    names: Annotated[list[str] | None, Arg("names")] = None,
    borders: Annotated[list[int] | None, Arg("borders")] = None,
    force: Annotated[bool, Arg("whether")] = False,
) -> None:
    """Example."""


NEEDS, PARAMS = params_of(example)


@pytest.mark.parametrize(
    "given",
    [
        {"name": ""},
        {"name": "n", "level": "high", "count": 9, "share": 1, "force": True},
        {"name": "n", "share": 0.25, "names": [], "borders": [1, 2]},
        {"name": "é", "names": ["a", "b"]},
    ],
)
def test_what_fits_is_accepted(given: dict[str, object]) -> None:
    check_params(PARAMS, given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "missing parameter 'name'"),
        ({"name": "n", "nmae": 1}, "unknown parameter 'nmae' (known: name, level,"),
        ({"name": None}, "'name' must be a string, not null"),
        ({"name": ["n"]}, "'name' must be a string, not an array"),
        ({"name": {}}, "'name' must be a string, not an object"),
        ({"name": "n", "level": "mid"}, "'level' must be one of low, high, not 'mid'"),
        ({"name": "n", "count": 0}, "'count' must be from 1 to 9, not 0"),
        ({"name": "n", "count": 1.0}, "'count' must be an integer, not a number"),
        ({"name": "n", "share": 1.1}, "'share' must be from 0 to 1, not 1.1"),
        ({"name": "n", "share": True}, "'share' must be a number, not a boolean"),
        ({"name": "n", "names": "a"}, "'names' must be an array, not a string ('a')"),
        ({"name": "n", "names": ["a", 2]}, "'names[1]' must be a string, not an integer"),
        ({"name": "n", "borders": [-1]}, "'borders[0]' must be from 0"),
        ({"name": "n", "force": 1}, "'force' must be a boolean, not an integer"),
        ({"name": "n", "force": "true"}, "'force' must be a boolean, not a string ('true')"),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, object], message: str) -> None:
    with pytest.raises(ParamError) as caught:
        check_params(PARAMS, given)
    assert message in str(caught.value)


def test_the_schema_says_the_same() -> None:
    schemas = {param.name: param.schema() for param in PARAMS}
    assert [param.name for param in PARAMS if param.required] == ["name"]
    assert schemas["level"] == {"type": "string", "enum": ["low", "high"], "default": "low"}
    assert schemas["count"] == {"type": "integer", "minimum": 1, "maximum": 9}
    assert schemas["names"]["items"] == {"type": "string"}


def test_a_parameter_must_be_described() -> None:
    async def bare(daemon: System, name: str) -> None: ...

    with pytest.raises(TypeError, match="name: no Arg"):
        params_of(bare)


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_every_method_is_documented(method: Method) -> None:
    assert method.summary.endswith(".")
    assert method.states & State.ANY
    assert all(param.arg.help for param in method.params)
