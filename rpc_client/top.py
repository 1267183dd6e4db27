"""A live view of controllers, bdevs and pollers, made of the differences between two reads of their counters."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TextIO

from rpc_client.client import Client
from rpc_client.errors import BadReply
from rpc_client.printing import counted, cut, pad, printable, show
from rpc_client.tables import MALFORMED, duration, table

MIB = 1 << 20
HUNG_NS = 1e9  # an I/O that takes longer is worth red
_LATENCY_OPS = ("read", "write", "unmap")
_DOWN_ROWS = 5  # of controllers that are down, if there are so many that others have no room
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # another screen, no cursor
_HOME, _LINE_END, _REST = "\x1b[H", "\x1b[K\n", "\x1b[J"
_STYLES = {"title": "\x1b[1m", "head": "\x1b[7m", "bad": "\x1b[1;31m", "idle": "\x1b[2m"}
_PLAIN = "\x1b[0m"

Line = tuple[str, str]  # text, and a style or ""


@dataclass(frozen=True)
class Sample:
    """Answers of the methods that the view is made of."""

    iostat: dict[str, Any]
    pollers: dict[str, Any]
    controllers: list[dict[str, Any]]


def sample(client: Client) -> Sample:
    """Reads the present counters."""
    return Sample(
        client.call("bdev_get_iostat"), client.call("virtiod_get_pollers"), client.call("virtiod_get_controllers")
    )


def view(before: Sample, now: Sample, height: int | None = None, columns: int | None = None) -> list[Line]:
    """What happened between two samples. Raises BadReply if they are not as described.

    height: lines there is room for; the busiest bdevs are shown then. columns: how wide a line may be.
    """
    try:
        return _view(before, now, height, columns)
    except MALFORMED as error:
        raise BadReply(f"the answers are not those of a virtiod: {error!r}") from error


def _view(before: Sample, now: Sample, height: int | None, columns: int | None) -> list[Line]:
    bdevs = _bdevs(before.iostat, now.iostat)
    pollers = [*_table(_POLLERS, _pollers(before.pollers, now.pollers), columns)]
    controllers = [_controller(one) for one in now.controllers]
    if height is not None:
        bdevs.sort(key=lambda row: row.order, reverse=True)
        controllers.sort(key=lambda row: row.style != "bad")
        room = max(4, height - len(pollers) - 6)  # empty lines and heads
        controllers = _first(min(max(_DOWN_ROWS, room - len(bdevs)), room - 2), controllers, _CONTROLLERS)
        bdevs = _first(room - len(controllers), bdevs, _BDEVS)
    parts = [[_summary(now)]]
    if controllers:
        parts.append([*_table(_CONTROLLERS, controllers, columns)])
    parts += [[*_table(_BDEVS, bdevs, columns)], pollers]
    return [line for part in parts for line in (("", ""), *part)][1:]


def top(client: Client, interval_s: float, count: int | None, out: TextIO | None = None) -> None:
    """Shows a view each interval, `count` times, or (None) for ever, on a terminal each in the place of the last.

    Raises ClientError, OSError; ValueError if there is nothing to show it on.
    """
    out = out or sys.stdout
    if out is None:
        raise ValueError("top: standard output is closed")
    live = out.isatty() and count is None
    before = sample(client)
    with _screen(out) if live else nullcontext():
        for number in itertools.count(1):
            time.sleep(interval_s)
            now = sample(client)
            title = f"virtiod at {printable(client.address)}, {time.strftime('%H:%M:%S')}, every {interval_s:g} s"
            size = shutil.get_terminal_size()
            lines = view(before, now, *((size.lines - 2, size.columns) if live else ()))
            _show([(title, "title"), *lines], out, size.columns if live else None)
            if number == count:
                return
            before = now


# ---- what it is made of


@dataclass
class Row:
    cells: Sequence[Any]
    style: str = ""
    order: float = 0.0


_CONTROLLERS = ("CONTROLLER", "TYPE", "STATE", "RECONNECTS", "QUEUES", "DEPTH", "ADDRESS")
_BDEVS = ("BDEV", "READS/S", "WRITES/S", "READ MIB/S", "WRITE MIB/S", "LATENCY", "DEPTH", "OLDEST", "ERRORS/S")
_POLLERS = ("POLLER", "CORE", "MODE", "BUSY %", "IDLE %", "SLEEP %", "DEPTH")


def _summary(now: Sample) -> Line:
    up = sum(one["state"] == "up" for one in now.controllers)
    total = len(now.controllers)
    depth = sum(bdev.get("queue_depth", 0) for bdev in now.iostat["bdevs"])
    bdevs = len(now.iostat["bdevs"])
    text = f"{up} of {total} controllers up, {counted(bdevs, 'bdev')}, {counted(depth, 'I/O')} in flight"
    return text, "" if up == total else "bad"


def _controller(one: dict[str, Any]) -> Row:
    depth = sum(queue["in_flight"] for queue in one["queues"])
    cells = (one["name"], one["dev_type"], one["state"], one["reconnects"], len(one["queues"]), depth, one["traddr"])
    return Row(cells, "" if one["state"] == "up" else "bad")


def _bdevs(before: dict[str, Any], now: dict[str, Any]) -> list[Row]:
    seconds = max(now["ticks"] - before["ticks"], 1) / now["tick_rate"]
    earlier = {bdev["name"]: bdev for bdev in before["bdevs"]}
    rows = []
    for bdev in now["bdevs"]:
        rates = _Rates(earlier.get(bdev["name"], {}), bdev)
        latency = rates.of(*(f"{op}_latency_ticks" for op in _LATENCY_OPS)) * 1e9 / now["tick_rate"]
        ops = rates.of(*(f"num_{op}_ops" for op in _LATENCY_OPS))
        errors = _Rates(earlier.get(bdev["name"], {}).get("io_error", {}), bdev.get("io_error", {}))
        failed = errors.of(*bdev.get("io_error", {}))
        oldest = bdev.get("driver_specific", {}).get("oldest_io_ticks", 0) * 1e9 / now["tick_rate"]
        cells = (
            bdev["name"],
            f"{rates.of('num_read_ops') / seconds:.0f}",
            f"{rates.of('num_write_ops') / seconds:.0f}",
            f"{rates.of('bytes_read') / seconds / MIB:.1f}",
            f"{rates.of('bytes_written') / seconds / MIB:.1f}",
            duration(latency / max(1, ops)),
            bdev.get("queue_depth", "-"),
            duration(oldest),
            f"{failed / seconds:.0f}",
        )
        hangs = bool(failed) or oldest > HUNG_NS
        rows.append(Row(cells, "bad" if hangs else "" if ops or oldest else "idle", ops + failed + oldest / HUNG_NS))
    return rows


def _pollers(before: dict[str, Any], now: dict[str, Any]) -> Iterator[Row]:
    earlier = {poller["id"]: poller for poller in before["pollers"]}
    for poller in now["pollers"]:
        rates = _Rates(earlier.get(poller["id"], {}), poller)
        total = max(1, rates.of("busy", "idle", "sleep"))
        shares = (f"{100 * rates.of(kind) / total:.1f}" for kind in ("busy", "idle", "sleep"))
        yield Row((poller["name"], poller["cpu"], poller["mode"], *shares, poller["in_flight"]))


def _first(room: int, rows: list[Row], header: Sequence[str]) -> list[Row]:
    """As many rows as there is room for; the last one says how many more there are."""
    if len(rows) <= room:
        return rows
    shown = rows[: max(1, room - 1)]
    return [*shown, Row((f"and {len(rows) - len(shown)} more", *[""] * (len(header) - 1)), "idle")]


def _table(header: Sequence[str], rows: Iterable[Row], columns: int | None) -> Iterator[Line]:
    rows = list(rows)
    head, *lines = table(header, [row.cells for row in rows], columns).split("\n")
    yield head, "head"
    yield from ((line, row.style) for line, row in zip(lines, rows, strict=True))


class _Rates:
    """Differences of members. A counter that decreased was reset: it counts from 0."""

    def __init__(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        self._before = before
        self._now = now

    def of(self, *names: str) -> float:
        total = 0.0
        for name in names:
            now, before = self._now.get(name, 0), self._before.get(name, 0)
            total += now - before if now >= before else now
        return total


# ---- the terminal


def _show(lines: list[Line], out: TextIO, columns: int | None) -> None:
    """Prints lines. columns: those of a screen, whose lines are cut, styled and replaced; None: plain text."""
    if columns is None:
        show("\n".join(text for text, _ in lines), out, end="\n\n")
    else:
        styled = os.environ.get("NO_COLOR", "") == ""
        shown = [_styled(cut(text, columns), style if styled else "", columns) for text, style in lines]
        show(_HOME + _LINE_END.join(shown) + _LINE_END + _REST, out, end="")


def _styled(text: str, style: str, columns: int) -> str:
    if style == "head":
        text = pad(text, columns)
    return f"{_STYLES[style]}{text}{_PLAIN}" if style else text


@contextmanager
def _screen(out: TextIO) -> Iterator[None]:
    """Leaves the terminal as it was, with what was on it."""
    print(_ENTER, end="", file=out, flush=True)
    try:
        yield
    finally:
        print(_LEAVE, end="", file=out, flush=True)
