"""Results of the methods about notifications: what happened to bdevs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from virtiod.core.described import Member


@dataclass(kw_only=True)
class NotificationDescription:
    """Something that happened."""

    type: Annotated[str, Member("what, as notify_get_types lists it")]
    ctx: Annotated[str, Member("name of the bdev")]
    id: Annotated[int, Member("counts up from 0, and is never used twice")]
