"""Results of the methods about the daemon itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from virtiod.core.described import Member


@dataclass(kw_only=True)
class VersionFields:
    """The parts of a version."""

    major: Annotated[int, Member("first number")]
    minor: Annotated[int, Member("second number")]
    patch: Annotated[int, Member("third number")]
    suffix: Annotated[str, Member("what follows the numbers")]


@dataclass(kw_only=True)
class Version:
    """The version of virtiod."""

    version: Annotated[str, Member('for people: "virtiod v" and the numbers')]
    fields: Annotated[VersionFields, Member("its parts")]
