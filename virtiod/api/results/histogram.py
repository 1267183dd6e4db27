"""Counts of latencies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from virtiod.core.described import Member


@dataclass(kw_only=True)
class BorderCounts:
    """How many I/Os took up to each border."""

    borders_count: Annotated[list[int], Member("I/Os up to each border, and last all of them")]
