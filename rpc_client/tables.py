"""Results as text that people read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rpc_client.printing import cut, pad, printable, width

KIB = 1024.0
GAP = 2  # between columns
LEAST = 4  # a column's width when there is too little room

Table = tuple[Sequence[str], list[tuple[Any, ...]]]  # header, rows
# What reading the answer of a daemon raises that is not as described.
MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], columns: int | None = None) -> str:
    """Columns as wide as they need to be, numbers to the right; one line for each row, whatever its cells hold.

    columns: how wide it may be (None: any width); the widest cells are cut then.
    """
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    numbers = [_is_number_column(column) for column in zip(*cells, strict=True)] or [False] * len(header)
    widths = [max(map(width, column)) for column in zip(header, *cells, strict=True)]
    if columns is not None:
        room = _most(widths, columns - GAP * (len(widths) - 1))
        widths = [min(one, room) for one in widths]
    lines = []
    for row in [header, *cells]:
        fields = [
            pad(cut(cell, wide), wide, right=number) for cell, wide, number in zip(row, widths, numbers, strict=True)
        ]
        line = (" " * GAP).join(fields).rstrip()
        lines.append(line if columns is None else cut(line, columns))
    return "\n".join(lines)


def _most(widths: Sequence[int], columns: int) -> int:
    """How wide the widest of these may be for all to fit."""
    left, rest = columns, len(widths)
    for one in sorted(widths):
        if one * rest > left:
            return max(LEAST, left // rest)
        left, rest = left - one, rest - 1
    return max(widths)


def size(count: float) -> str:
    """Bytes in the largest fitting unit of 1024: "1.5 GiB"."""
    units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while count >= KIB and len(units) > 1:
        count /= KIB
        units.pop(0)
    return f"{count:.4g} {units[0]}"


def duration(nanoseconds: float) -> str:
    """Time in the largest fitting unit: "1.23 ms"."""
    for unit, factor in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if nanoseconds >= factor:
            return f"{nanoseconds / factor:.3g} {unit}"
    return f"{nanoseconds:.0f} ns" if nanoseconds else "-"


def render(method: str, result: Any, columns: int | None = None) -> str:
    """The result of a method as a table if there is one for it, else as JSON; "" when it only says that it is done.

    columns: as of table().
    """
    if result is True:
        return ""
    if found := _table_of(method, result):
        return table(*found, columns)
    if isinstance(result, str):
        return printable(result)
    if isinstance(result, list) and all(isinstance(item, str) for item in result):
        return "\n".join(map(printable, result))
    return as_json(result, indent=2)


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON that can be printed anywhere: in ASCII, without control characters."""
    return json.dumps(value, indent=indent).replace("\x7f", r"\u007f")


def _table_of(method: str, result: Any) -> Table | None:
    """The table of a method's result; None if there is none, or the result is not what it is made of."""
    try:
        return _TABLES[method](result) if method in _TABLES else None
    except MALFORMED:
        return None


def render_each(
    method: str,
    results: Sequence[tuple[str, Any]],
    errors: Sequence[tuple[str, str]],
    columns: int | None = None,
) -> str:
    """The results of several hosts as one table, with a row for each host that failed. columns: as of table()."""
    header: Sequence[str] = ("RESULT",)
    rows: list[tuple[Any, ...]] = []
    for host, result in results:
        if method in _TABLES:
            made = _table_of(method, result)
            if made is None:
                errors = [*errors, (host, f"{method}: the result is not as described")]
                continue
            header, found = made
        else:
            found = _rows(result)
        rows += [(host, *row) for row in found or [tuple("-" for _ in header)]]
    if errors:
        rows = [(*row, "") for row in rows]
        rows += [(host, *("-" for _ in header), message) for host, message in errors]
    return table(("HOST", *header, *(("ERROR",) if errors else ())), rows, columns)


def _rows(result: Any) -> list[tuple[Any, ...]]:
    if result is True:
        return [("done",)]
    if isinstance(result, list) and all(isinstance(item, str) for item in result):
        return [(item,) for item in result]
    return [(result if isinstance(result, str) else as_json(result),)]


def _is_number_column(cells: Sequence[str]) -> bool:
    return all((cell[:1].isdigit() and ":" not in cell) or cell in {"-", ""} for cell in cells)


def _yes(value: Any) -> str:
    return "yes" if value else "no"


def _in_use(bdev: dict[str, Any]) -> str:
    """What its users may do now; open: only by exports that have no client."""
    found = {user["access"] for user in bdev.get("users", ())}
    if not found:
        return _yes(bdev["claimed"])
    return next((access for access in ("write", "read") if access in found), "open")


def _bdevs(bdevs: list[dict[str, Any]]) -> Table:
    rows = [
        (
            bdev["name"],
            bdev["product_name"],
            size(bdev["num_blocks"] * bdev["block_size"]),
            bdev["block_size"],
            _in_use(bdev),
            " ".join(name for name, supported in bdev["supported_io_types"].items() if supported),
        )
        for bdev in bdevs
    ]
    return ("NAME", "PRODUCT", "SIZE", "BLOCK SIZE", "IN USE", "I/O TYPES"), rows


def _controllers(controllers: list[dict[str, Any]]) -> Table:
    rows = [
        (
            one["name"],
            one["dev_type"],
            one["trtype"],
            one["traddr"],
            one["state"],
            one["virtio"]["vq_count"],
            one["virtio"]["vq_size"],
            sum(queue["in_flight"] for queue in one["queues"]),
            one["reconnects"],
        )
        for one in controllers
    ]
    header = ("NAME", "TYPE", "TRANSPORT", "ADDRESS", "STATE", "QUEUES", "QUEUE SIZE", "DEPTH", "RECONNECTS")
    return header, rows


def _iostat(answer: dict[str, Any]) -> Table:
    if "channels" in answer:
        stats = [(f"thread {channel['thread_id']}", channel) for channel in answer["channels"]]
    else:
        stats = [(bdev["name"], bdev) for bdev in answer["bdevs"]]
    to_ns = 1e9 / answer["tick_rate"]
    rows = [
        (
            name,
            stat["num_read_ops"],
            size(stat["bytes_read"]),
            duration(_mean(stat, "read") * to_ns),
            stat["num_write_ops"],
            size(stat["bytes_written"]),
            duration(_mean(stat, "write") * to_ns),
            stat["num_unmap_ops"],
            stat.get("queue_depth", "-"),
            sum(stat.get("io_error", {}).values()),
        )
        for name, stat in stats
    ]
    header = ("NAME", "READS", "READ", "LATENCY", "WRITES", "WRITTEN", "LATENCY", "UNMAPS", "DEPTH", "ERRORS")
    return header, rows


def _mean(stat: dict[str, Any], op: str) -> float:
    ticks, count = stat[f"{op}_latency_ticks"], stat[f"num_{op}_ops"]
    return float(ticks / count) if count else 0.0


def _exports(exports: list[dict[str, Any]]) -> Table:
    rows = [
        (
            one["name"],
            one["bdev_name"],
            size(one["size"]),
            _yes(one["read_only"]),
            one["connections"],
            " ".join(one["uris"]),
        )
        for one in exports
    ]
    return ("NAME", "BDEV", "SIZE", "READ-ONLY", "CONNECTIONS", "ADDRESS"), rows


def _pollers(answer: dict[str, Any]) -> Table:
    rows = []
    for one in answer["pollers"]:
        total = max(1, one["busy"] + one["idle"] + one["sleep"])
        shares = [f"{100 * one[kind] / total:.1f}" for kind in ("busy", "idle", "sleep")]
        rows.append((one["name"], one["cpu"], one["mode"], *shares, one["in_flight"], one["sleeps"]))
    return ("NAME", "CORE", "MODE", "BUSY %", "IDLE %", "SLEEP %", "DEPTH", "SLEEPS"), rows


def _load(answer: dict[str, Any]) -> Table:
    rows = [
        (
            one["job"],
            one["core_mask"],
            one["workload"],
            one["status"],
            f"{one['iops']:.0f}",
            f"{one['mibps']:.1f}",
            *(duration(one[f"{quantity}_latency_us"] * 1000) for quantity in ("avg", "p50", "p99", "p99_9", "max")),
            one["io_failed"] + one["io_mismatched"],
        )
        for one in answer["results"]
    ]
    header = (
        *("BDEV", "CORES", "PATTERN", "STATUS", "IOPS", "MIB/S"),
        *("MEAN", "P50", "P99", "P99.9", "MAX", "ERRORS"),
    )
    return header, rows


_TABLES: dict[str, Callable[[Any], Table]] = {
    "bdev_get_bdevs": _bdevs,
    "bdev_get_iostat": _iostat,
    "nbd_get_exports": _exports,
    "perform_tests": _load,
    "virtiod_get_controllers": _controllers,
    "virtiod_get_pollers": _pollers,
}
