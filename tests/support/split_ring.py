"""A split ring as the compiled code keeps it, called function by function, without a poller.

The functions are those that virtiod/virtqueue/split.py puts into VirtqOps; the structure is read from layout.pxd, so
that it is the one that was compiled.
"""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

from virtiod.virtqueue import split

LAYOUT = Path(__file__).parents[2] / "virtiod" / "virtqueue" / "layout.pxd"
NEXT, WRITE, INDIRECT = 1, 2, 4  # §2.7.5
MASK = 0xFFFF

Desc = tuple[int, int, int, int]  # address, length, flags, next


class Seg(ctypes.Structure):
    _fields_ = (("addr", ctypes.c_uint64), ("len", ctypes.c_uint32))


def _members(name: str) -> str:
    """The lines of a structure in layout.pxd."""
    found = re.search(rf"^cdef struct {name}:\n((?:    .*\n|\n)+)", LAYOUT.read_text(), re.MULTILINE)
    assert found is not None, name
    return found[1]


OPS = re.findall(r"\(\*(\w+)\)\(", _members("VirtqOps"))
NUMBERS = {f"uint{n}_t": getattr(ctypes, f"c_uint{n}") for n in (8, 16, 32, 64)} | {"int64_t": ctypes.c_int64}


class Virtq(ctypes.Structure):
    """struct Virtq; pointers are numbers."""

    _fields_ = [
        (name, ctypes.c_void_p * len(OPS) if kind == "VirtqOps" else NUMBERS.get(kind + star, ctypes.c_void_p))
        for kind, star, name in re.findall(r"^    (\w+) (\*?)(\w+)", _members("Virtq"), re.MULTILINE)
    ]


def _function(name: str, result: type | None, *arguments: type) -> Callable[..., int]:
    """A C function that split.pxd declares."""
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype = ctypes.c_char_p
    api.PyCapsule_GetName.argtypes = [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    capsule = vars(split)["__pyx_capi__"][name]
    pointer = api.PyCapsule_GetPointer(capsule, api.PyCapsule_GetName(capsule))
    return ctypes.CFUNCTYPE(result, *arguments)(pointer)


_Q = ctypes.POINTER(Virtq)
_U16, _U32, _INT = ctypes.c_uint16, ctypes.c_uint32, ctypes.c_int
_footprint = _function("footprint", ctypes.c_uint64, _U16, _U32, _U32)
_init = _function("init", _INT, _Q, ctypes.c_void_p, _U16, _U32, _U32, _INT, _INT)
_destroy = _function("_destroy", None, _Q)
_add = ctypes.CFUNCTYPE(_INT, _Q, _U32, ctypes.POINTER(Seg), _U32, _U32)
_pop = ctypes.CFUNCTYPE(_INT, _Q, ctypes.POINTER(_U32))
_simple = ctypes.CFUNCTYPE(_INT, _Q)


class SplitRing:
    """Both sides' view of a ring of so many descriptors. close() it."""

    def __init__(self, size: int, indirect: bool, event_idx: bool = True, at: int = 0) -> None:
        """at: the index that everything begins at."""
        self.size = size
        bytes_ = _footprint(size, 0, size)
        self._memory = ctypes.create_string_buffer(bytes_ + 64)
        base = (ctypes.addressof(self._memory) + 63) & ~63
        self.q = Virtq()
        assert _init(self.q, base, size, 0, size, indirect, event_idx) == 0
        self._shared = (ctypes.c_char * bytes_).from_address(base)
        ops = dict(zip(OPS, self.q.ops, strict=True))
        self._add, self._pop = _add(ops["add"]), _pop(ops["pop"])
        self._publish, self._arm = _simple(ops["publish"]), _simple(ops["arm"])
        self._written = _U32()
        self.jump(at)

    def close(self) -> None:
        _destroy(self.q)

    def jump(self, at: int) -> None:
        """As if `at` requests had come and gone."""
        self.q.avail_idx = self.q.published = self.q.used_idx = self.q.last_used = self.device_used = at
        self._word(self.q.avail, 1).value = at
        self.publish_used(at)

    @staticmethod
    def _word(base: int, index: int) -> ctypes.c_uint16:
        return ctypes.c_uint16.from_address(base + 2 * index)

    # ---- driver

    def add(self, slot: int, segs: Sequence[tuple[int, int]], n_out: int) -> int:
        array = (Seg * len(segs))(*(Seg(*seg) for seg in segs))
        return int(self._add(self.q, slot, array, n_out, len(segs) - n_out))

    def pop(self) -> int:
        return int(self._pop(self.q, self._written))

    def publish(self) -> bool:
        """Whether the device is to be kicked."""
        return bool(self._publish(self.q))

    def arm(self) -> bool:
        return bool(self._arm(self.q))

    def chain_lengths(self) -> list[int]:
        """Private: by head, 0 where none is in flight."""
        return [self._word(self.q.chain, i).value for i in range(self.size)]

    def free_list(self) -> list[int]:
        """Private: the free descriptors, in the order in which they will be taken."""
        found = []
        at = self.q.free_head
        for _ in range(self.q.n_free):
            found.append(at)
            at = self._word(self.q.next, at).value
        return found

    # ---- device

    def avail_idx(self) -> int:
        return self._word(self.q.avail, 1).value

    def avail_entry(self, index: int) -> int:
        return self._word(self.q.avail, 2 + index % self.size).value

    def desc(self, index: int, table: int | None = None) -> Desc:
        raw = ctypes.string_at((table or self.q.desc) + 16 * index, 16)
        addr, length, flags, after = struct.unpack("<QIHH", raw)
        return addr, length, flags, after

    def publish_used(self, index: int) -> None:
        self._word(self.q.used, 1).value = index & MASK

    def used(self, id_: int, written: int = 0) -> None:
        """One more entry of the used ring, true or not; seen after publish_used(device_used)."""
        entry = self.q.used + 4 + 8 * (self.device_used % self.size)
        ctypes.memmove(entry, struct.pack("<II", id_, written), 8)
        self.device_used = (self.device_used + 1) & MASK

    def want_kick_at(self, event: int) -> None:
        self._word(self.q.avail_event, 0).value = event

    # ---- both

    def save(self) -> tuple[bytes, ...]:
        arrays = (ctypes.string_at(at, 2 * self.size) for at in (self.q.next, self.q.chain, self.q.slot_of))
        return (bytes(self.q), bytes(self._shared), struct.pack("<H", self.device_used), *arrays)

    def restore(self, saved: tuple[bytes, ...]) -> None:
        ctypes.memmove(ctypes.addressof(self.q), saved[0], len(saved[0]))
        ctypes.memmove(self._shared, saved[1], len(saved[1]))
        (self.device_used,) = struct.unpack("<H", saved[2])
        for at, data in zip((self.q.next, self.q.chain, self.q.slot_of), saved[3:], strict=True):
            ctypes.memmove(at, data, len(data))
