"""From a result's type to its schema."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from msgspec import UNSET, UnsetType

from virtiod.api.schema import components, schema_of
from virtiod.core.described import Member


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(kw_only=True)
class LampDescription:
    """A lamp."""

    colour: Annotated[Colour, Member("of its light")]
    watts: Annotated[float | UnsetType, Member("what it takes", "W")] = UNSET


@dataclass(kw_only=True)
class Room:
    """A room,
    with lamps.
    """

    lamps: Annotated[list[LampDescription], Member("what lights it")]
    best: Annotated[LampDescription | UnsetType, Member("the brightest")] = UNSET
    depth: Annotated[int, Member("below the street", "m", minimum=None)]


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (bool, {"type": "boolean"}),
        (list[str], {"type": "array", "items": {"type": "string"}}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (dict[str, object], {"type": "object"}),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Colour, {"type": "string", "enum": ["red", "blue"]}),
        (list[Room], {"type": "array", "items": {"$ref": "#/components/schemas/Room"}}),
        (LampDescription, {"$ref": "#/components/schemas/Lamp"}),
        (Annotated[int, Member("how many")], {"type": "integer", "minimum": 0, "description": "how many"}),
        (Annotated[str, Member("its name")], {"type": "string", "description": "its name"}),
    ],
)
def test_types_have_a_schema(hint: object, schema: object) -> None:
    assert schema_of(hint) == schema


@pytest.mark.parametrize("hint", [Any, bytes, set[str], tuple[int, ...]])
def test_what_has_no_form_in_json_is_named(hint: object) -> None:
    with pytest.raises(TypeError, match="has no form in JSON"):
        schema_of(hint)


def test_objects_are_found_wherever_they_are_and_name_their_members_in_their_order() -> None:
    lamp = "#/components/schemas/Lamp"
    found = components([list[Room]])
    assert list(found) == ["Lamp", "Room"]
    assert found["Room"] == {
        "title": "Room",
        "description": "A room, with lamps.",
        "type": "object",
        "properties": {
            "lamps": {"type": "array", "items": {"$ref": lamp}, "description": "what lights it"},
            "best": {"allOf": [{"$ref": lamp}], "description": "the brightest"},
            "depth": {"type": "integer", "description": "below the street", "x-unit": "m"},
        },
        "required": ["lamps", "depth"],
        "additionalProperties": False,
    }


def test_an_object_has_a_name_of_its_own() -> None:
    @dataclass
    class Lamp:
        """Another lamp."""

    with pytest.raises(TypeError, match="have the same name"):
        components([Room, Lamp])
