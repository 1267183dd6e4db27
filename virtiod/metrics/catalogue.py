"""Every metric that /metrics shows: its name, type, labels and help, and how its value is read.

Units are in the names; counters only ever grow while their labels exist. The metrics that are read from the same kind
of thing are a group, in which a new one is a line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from virtiod.bdev.bdev import Bdev
from virtiod.bdev.counters import ERRORS, BdevCounters, OpCounters
from virtiod.bdev.keeping import KeptCounters
from virtiod.controllers.controller import State
from virtiod.controllers.manager import AnyController
from virtiod.controllers.quarantine import InQuarantine
from virtiod.core.memory import DmaMemory
from virtiod.core.ticks import NS_PER_S
from virtiod.exports.interface import Export, ExportCounters, Exports
from virtiod.exports.table import EXPORTS
from virtiod.rpc.protocol.timing import BOUNDS_S as RPC_BOUNDS_S
from virtiod.rpc.protocol.timing import Timing
from virtiod.virtqueue.handle import QueueCounters

Sort = Literal["counter", "gauge", "histogram", "info"]
T = TypeVar("T")  # what a metric is read from

IO_BOUNDS_NS = (*(m * 10**e for e in range(3, 10) for m in (1, 2, 5)), 10 * NS_PER_S)  # 1 us to 10 s
STATES = tuple(state.value for state in State if state is not State.GONE)


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One metric. name: as in a query; a histogram's without _bucket, _sum and _count."""

    name: str
    kind: Sort
    labels: tuple[str, ...]
    help: str


@dataclass(frozen=True)
class Value(Entry[T]):
    """A metric with one number for each thing of its group."""

    read: Callable[[T], float]


@dataclass(frozen=True)
class Info(Entry[T]):
    """A metric that describes a thing: its labels are read, and its value is 1."""

    read: Callable[[T], tuple[str, ...]]


@dataclass(frozen=True)
class Series(Entry[T]):
    """A metric with one count for each of `lasts`, the values of the last label, which need no escape."""

    lasts: tuple[str, ...]
    read: Callable[[T], list[int]]


@dataclass(frozen=True)
class Histogram(Entry[T]):
    """A metric with the observations up to each of bounds_s (without the infinite one), all of them, and their sum."""

    bounds_s: tuple[float, ...]
    read: Callable[[T], tuple[list[int], float]]


@dataclass(frozen=True, eq=False)
class Group(Generic[T]):
    """The metrics that are read from things of one kind, and share their first labels."""

    entries: tuple[Entry[T], ...]


# ---- what metrics are read from


class Process(NamedTuple):
    """The daemon. started_s: Unix time. dropped: messages of the log."""

    version: str
    python: str
    started_s: float
    healthy: bool
    saved: bool
    dropped: int


class CountedBdev(NamedTuple):
    """A bdev and what it counted, read once. controller: the name of its controller, or ""."""

    bdev: Bdev
    controller: str
    counted: BdevCounters


class CountedExport(NamedTuple):
    """An export and what it counted, read once."""

    export: Export
    counted: ExportCounters


# ---- the groups

_BDEV = ("bdev",)
_CONTROLLER = ("controller",)
_QUEUE = ("controller", "queue")
_EXPORT = ("export",)
_THREAD = ("thread",)

PROCESS = Group[Process](
    (
        Info(
            "virtiod_build_info",
            "info",
            ("version", "python"),
            "Versions of virtiod and of its Python. Always 1.",
            lambda p: (p.version, p.python),
        ),
        Value(
            "virtiod_start_time_seconds", "gauge", (), "When the daemon started, as Unix time.", lambda p: p.started_s
        ),
        Value("virtiod_healthy", "gauge", (), "1 while /healthz says ok, else 0.", lambda p: int(p.healthy)),
        Value(
            "virtiod_state_saved",
            "gauge",
            (),
            "0 while the file of --state could not be written, else 1.",
            lambda p: int(p.saved),
        ),
        Value(
            "virtiod_log_messages_dropped_total",
            "counter",
            (),
            "Messages of the log that were dropped, because nobody read it or it could not be written.",
            lambda p: p.dropped,
        ),
    )
)


def _counter(name: str, help_text: str, read: Callable[[CountedBdev], float]) -> Value[CountedBdev]:
    return Value(f"virtiod_bdev_{name}_total", "counter", _BDEV, help_text, read)


def _completed(op: str, plural: str, title: str) -> Value[CountedBdev]:
    text = f"{title} completed with success."
    return _counter(f"{plural}_completed", text, lambda b: b.counted.ops[op].completed)


def _moved(op: str, done: str) -> Value[CountedBdev]:
    return _counter(f"{done}_bytes", f"Bytes {done} with success.", lambda b: b.counted.ops[op].bytes)


def _took(op: str, plural: str) -> Value[CountedBdev]:
    text = f"Sum of the latencies of {plural} completed with success."
    return _counter(f"{op}_time_seconds", text, lambda b: b.counted.ops[op].completed_ns / NS_PER_S)


BDEV = Group[CountedBdev](
    (
        Info(
            "virtiod_bdev_info",
            "info",
            ("bdev", "uuid", "product", "controller"),
            "What a bdev is. Always 1.",
            lambda b: (b.bdev.name, b.bdev.uuid, b.bdev.product_name, b.controller),
        ),
        Value("virtiod_bdev_capacity_bytes", "gauge", _BDEV, "Size of the bdev.", lambda b: b.bdev.size),
        _completed("read", "reads", "Reads"),
        _completed("write", "writes", "Writes"),
        _completed("unmap", "unmaps", "Unmaps (discards)"),
        _completed("flush", "flushes", "Flushes"),
        _completed("write_zeroes", "write_zeroes", "Write zeroes"),
        _moved("read", "read"),
        _moved("write", "written"),
        _moved("unmap", "unmapped"),
        _took("read", "reads"),
        _took("write", "writes"),
        _took("unmap", "unmaps"),
        _took("flush", "flushes"),
        Value("virtiod_bdev_io_now", "gauge", _BDEV, "I/Os in flight.", lambda b: b.counted.in_flight),
        Value(
            "virtiod_bdev_oldest_io_seconds",
            "gauge",
            _BDEV,
            "Age of the oldest I/O in flight, 0 for none.",
            lambda b: b.counted.oldest_ns / NS_PER_S,
        ),
        _counter(
            "io_time_seconds",
            "Time with I/O in flight on the busiest poller; its rate is the utilisation.",
            lambda b: b.counted.busy_ns / NS_PER_S,
        ),
        _counter(
            "io_time_weighted_seconds",
            "Sum of the latencies of all I/Os that ended, failed ones too; its rate is the mean queue depth.",
            lambda b: b.counted.weighted_ns / NS_PER_S,
        ),
    )
)
BDEV_KEPT = Group[KeptCounters](
    (
        Value(
            "virtiod_bdev_kept_bytes",
            "gauge",
            _BDEV,
            "Bytes of acknowledged writes that are kept until a flush.",
            lambda kept: kept.bytes,
        ),
        Value(
            "virtiod_bdev_kept_writes",
            "gauge",
            _BDEV,
            "Acknowledged writes, in parts of up to 256 KiB, that are kept until a flush.",
            lambda kept: kept.records,
        ),
        Value(
            "virtiod_bdev_own_flushes_total",
            "counter",
            _BDEV,
            "Flushes that virtiod did by itself, to keep no more than may be kept.",
            lambda kept: kept.flushes,
        ),
        Value(
            "virtiod_bdev_repeated_writes_total",
            "counter",
            _BDEV,
            "Kept writes that were written again to a device that came back.",
            lambda kept: kept.repeated,
        ),
        Value(
            "virtiod_bdev_losses_total",
            "counter",
            _BDEV,
            "Times that acknowledged writes were lost; each user's next flush failed.",
            lambda kept: kept.losses,
        ),
    )
)
BDEV_OP = Group[OpCounters](
    (
        Series(
            "virtiod_bdev_io_errors_total",
            "counter",
            ("bdev", "op", "status"),
            "I/Os that failed.",
            ERRORS,
            lambda op: op.errors,
        ),
        Histogram(
            "virtiod_bdev_io_duration_seconds",
            "histogram",
            ("bdev", "op"),
            "Latencies of I/Os that ended, failed ones too; bounds are accurate within 1 %.",
            tuple(bound / NS_PER_S for bound in IO_BOUNDS_NS),
            lambda op: (op.below, op.time_ns / NS_PER_S),
        ),
    )
)
CONTROLLER = Group[AnyController](
    (
        Info(
            "virtiod_controller_info",
            "info",
            ("controller", "type", "transport", "address"),
            "What a controller is, and how it is reached. Always 1.",
            lambda c: (c.name, c.dev_type, c.trtype, c.traddr),
        ),
        Value(
            "virtiod_controller_up",
            "gauge",
            _CONTROLLER,
            "1 while the controller is up, else 0.",
            lambda c: int(c.state is State.UP),
        ),
        Series(
            "virtiod_controller_state",
            "gauge",
            ("controller", "state"),
            "1 for the state it is in, 0 for others.",
            STATES,
            lambda c: [int(c.shown_state == state) for state in STATES],
        ),
        Value(
            "virtiod_controller_reconnects_total",
            "counter",
            _CONTROLLER,
            "Times that it came back after a loss.",
            lambda c: c.reconnects,
        ),
        Value(
            "virtiod_controller_io_timeouts_total",
            "counter",
            _CONTROLLER,
            "Requests that failed by timeout.",
            lambda c: c.io_timeouts,
        ),
    )
)
QUARANTINE = Group[InQuarantine](
    (
        Value(
            "virtiod_controller_old_sessions",
            "gauge",
            _CONTROLLER,
            "Sessions that ended, and whose device may still use memory.",
            lambda kept: kept.sessions,
        ),
        Series(
            "virtiod_controller_quarantined_bytes",
            "gauge",
            ("controller", "kind"),
            "Memory that the device of an old session may still use, by kind of memory.",
            ("small", "large", "memory"),
            lambda kept: [kept.small, kept.large, kept.memory],
        ),
    )
)
QUEUE = Group[QueueCounters](
    (
        Value("virtiod_queue_size", "gauge", _QUEUE, "Entries of the virtqueue.", lambda q: q.size),
        Value("virtiod_queue_depth", "gauge", _QUEUE, "Requests in flight on the virtqueue.", lambda q: q.in_flight),
        Value("virtiod_queue_kicks_total", "counter", _QUEUE, "Notifications sent to the device.", lambda q: q.kicks),
        Value(
            "virtiod_queue_interrupts_total",
            "counter",
            _QUEUE,
            "Notifications of the device that ended a sleep.",
            lambda q: q.interrupts,
        ),
        Value(
            "virtiod_queue_full_total",
            "counter",
            _QUEUE,
            "I/Os that had to wait for room on the virtqueue.",
            lambda q: q.full,
        ),
    )
)


def _of_exports(kind: type[Exports]) -> Group[CountedExport]:
    """The same for each kind of exports."""

    def entry(name: str, sort: Sort, text: str, read: Callable[[CountedExport], int]) -> Value[CountedExport]:
        return Value(f"virtiod_{kind.kind}_{name}", sort, _EXPORT, text.format(kind.title), read)

    return Group(
        (
            entry("connections", "gauge", "{} clients connected to the export.", lambda e: e.export.connections),
            entry(
                "requests_in_flight", "gauge", "{} requests that were not answered yet.", lambda e: e.counted.in_flight
            ),
            entry("requests_total", "counter", "{} requests.", lambda e: e.counted.requests),
            entry("request_errors_total", "counter", "{} requests answered by an error.", lambda e: e.counted.errors),
            entry("received_bytes_total", "counter", "Bytes received from {} clients.", lambda e: e.counted.received),
            entry("sent_bytes_total", "counter", "Bytes sent to {} clients.", lambda e: e.counted.sent),
        )
    )


EXPORT = {kind.kind: _of_exports(kind) for kind in EXPORTS}
POLLER_MODE = Group[int](
    (
        Value(
            "virtiod_poller_seconds_total",
            "counter",
            ("thread", "mode"),
            "How a poller spent its time: busy (there was work), idle (spinning without) or sleep.",
            lambda ns: ns / NS_PER_S,
        ),
    )
)
BUFFERS = Group[dict[str, int]](
    (
        Value(
            "virtiod_buffers_exhausted_total",
            "counter",
            _THREAD,
            "Times that a poller had too few buffers.",
            lambda pool: pool["exhausted"],
        ),
        Value(
            "virtiod_buffers_quarantined",
            "gauge",
            _THREAD,
            "Buffers that a lost device might still use.",
            lambda pool: pool["quarantined_small"] + pool["quarantined_large"],
        ),
    )
)
MEMORY = Group[DmaMemory](
    (
        Value("virtiod_dma_memory_bytes", "gauge", (), "DMA memory mapped.", lambda memory: memory.size),
        Value("virtiod_dma_memory_used_bytes", "gauge", (), "DMA memory allocated.", lambda memory: memory.used),
    )
)
RPC = Group[Timing](
    (
        Histogram(
            "virtiod_rpc_duration_seconds",
            "histogram",
            ("method",),
            "How long RPC calls took, failed ones too.",
            RPC_BOUNDS_S,
            lambda timing: (list(accumulate(timing.counts)), timing.total_s),
        ),
    )
)

# In the order of the page.
GROUPS: tuple[Group[Any], ...] = (
    PROCESS,
    BDEV,
    BDEV_KEPT,
    BDEV_OP,
    CONTROLLER,
    QUARANTINE,
    QUEUE,
    *EXPORT.values(),
    POLLER_MODE,
    BUFFERS,
    MEMORY,
    RPC,
)
ENTRIES: tuple[Entry[Any], ...] = tuple(entry for group in GROUPS for entry in group.entries)
