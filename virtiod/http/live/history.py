"""The last minutes of cells, in bounded memory: the total always, single bdevs for as long as there is room.

A hundred busy bdevs fit with all their minutes. With more of them the oldest seconds of all single bdevs are dropped
first; an idle bdev takes no room.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from virtiod.http.live.cells import IDLE, Cell

SECONDS = 300
MAX_CELLS = 100 * SECONDS  # of single bdevs, some 300 bytes each


class History:
    """Seconds in their order. at: Unix time of each."""

    def __init__(self, seconds: int = SECONDS, max_cells: int = MAX_CELLS) -> None:
        self._seconds = seconds
        self._max_cells = max_cells
        self._totals: deque[tuple[float, Cell]] = deque(maxlen=seconds)
        self._singles: deque[tuple[float, Mapping[str, Cell]]] = deque()
        self._cells = 0

    def add(self, at: float, total: Cell, singles: Mapping[str, Cell]) -> None:
        """Adds the newest second; singles: by bdev, those that were not idle."""
        self._totals.append((at, total))
        self._singles.append((at, singles))
        self._cells += len(singles)
        while len(self._singles) > self._seconds or (self._cells > self._max_cells and len(self._singles) > 1):
            self._cells -= len(self._singles.popleft()[1])

    def of(self, bdev: str | None) -> list[tuple[float, Cell]]:
        """The cells that are kept of a bdev, or of the total."""
        if bdev is None:
            return list(self._totals)
        return [(at, singles.get(bdev, IDLE)) for at, singles in self._singles]
