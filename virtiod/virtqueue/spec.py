"""What a split virtqueue is to be, and the memory that its parts take (virtio 1.2 §2.7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class RingSpec:
    """A ring to make, as driver and device agreed on it.

    index: the queue's number in the device. size: descriptors, a power of two. max_segments: of data, in one request.
    name: for statistics.
    """

    index: int
    size: int
    indirect: bool = True
    event_idx: bool = True
    max_segments: int = 1
    name: str = ""


class Part(NamedTuple):
    """Bytes of a part of a ring, and what its address is a multiple of."""

    size: int
    align: int


def parts(size: int) -> tuple[Part, Part, Part]:
    """The descriptor table, the available and the used ring of a queue of `size` descriptors."""
    return Part(16 * size, 16), Part(4 + 2 * size + 2, 2), Part(4 + 8 * size + 2, 4)
