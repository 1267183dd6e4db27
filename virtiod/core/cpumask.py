"""Sets of cores as operators of SPDK write them."""

from __future__ import annotations

import os
import re

from virtiod.core.errors import InvalidArgument

MAX_CPUS = 256


def parse_cpumask(text: str) -> tuple[int, ...]:
    """The cores of "0x3", "3" (also hexadecimal) or "[0,2-3]", ascending. Each must be allowed to this process."""
    cpus: set[int] = set()
    if re.fullmatch(r"(0[xX])?[0-9a-fA-F]+", text):
        mask = int(text, 16)
        cpus = {cpu for cpu in range(mask.bit_length()) if mask >> cpu & 1}
    elif re.fullmatch(r"\[\s*\d{1,4}(-\d{1,4})?(\s*,\s*\d{1,4}(-\d{1,4})?)*\s*\]", text):
        for part in text.strip("[]").split(","):
            first, _, last = part.strip().partition("-")
            cpus |= set(range(int(first), int(last or first) + 1))
    else:
        raise InvalidArgument(f"cpumask {text!r}: neither a hexadecimal mask nor a list like [0,2-3]")
    if not cpus:
        raise InvalidArgument(f"cpumask {text!r}: names no core")
    if len(cpus) > MAX_CPUS:
        raise InvalidArgument(f"cpumask {text!r}: names more than {MAX_CPUS} cores")
    refused = sorted(cpus - os.sched_getaffinity(0))
    if refused:
        allowed = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
        raise InvalidArgument(f"cpumask {text!r}: core {refused[0]} is not one of those allowed ({allowed})")
    return tuple(sorted(cpus))


def cpumask_of(cpu: int) -> str:
    """The mask with this core alone, in hexadecimal; "0" for none (-1)."""
    return f"{1 << cpu:x}" if cpu >= 0 else "0"
