"""Results of the methods about the daemon's log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from virtiod.core.described import Member


@dataclass(kw_only=True)
class LogState:
    """Whether what is logged can be written."""

    dropping: Annotated[bool, Member("whether messages are dropped now: nobody reads the log, or its disk is full")]
    dropped: Annotated[int, Member("messages that were dropped since the start")]
