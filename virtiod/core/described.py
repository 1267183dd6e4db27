"""What RPC methods show: dataclasses whose members say what they are.

A member is `size: Annotated[int, Member("capacity", "bytes")]`; one that may be absent is `X | UnsetType = UNSET`. They
are shown in their order. They are dataclasses, so that two objects can share members in their middle: msgspec's
Structs inherit members from one class only. In descriptions, BdevDescription is called Bdev.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Member:
    """What the type of a member, or of a whole result, does not say. minimum: the least value of a number."""

    help: str
    unit: str = ""
    minimum: int | None = 0
