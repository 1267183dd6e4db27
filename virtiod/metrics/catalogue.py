"""Every metric that /metrics shows. Units are in the names; counters only ever grow while their labels exist."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from virtiod.exports.interface import Exports
from virtiod.exports.table import EXPORTS

Sort = Literal["counter", "gauge", "histogram", "info"]


@dataclass(frozen=True)
class Entry:
    """One metric. name: as in a query; a histogram's without _bucket, _sum and _count."""

    name: str
    kind: Sort
    labels: tuple[str, ...]
    help: str


_BDEV = ("bdev",)
_QUEUE = ("controller", "queue")
_CONTROLLER = ("controller",)
_EXPORT = ("export",)
_THREAD = ("thread",)


def _of_exports(kind: type[Exports]) -> Iterator[Entry]:
    """The same for each kind of exports."""
    described: tuple[tuple[str, Sort, str], ...] = (
        ("connections", "gauge", "{} clients connected to the export."),
        ("requests_in_flight", "gauge", "{} requests that were not answered yet."),
        ("requests_total", "counter", "{} requests."),
        ("request_errors_total", "counter", "{} requests answered by an error."),
        ("received_bytes_total", "counter", "Bytes received from {} clients."),
        ("sent_bytes_total", "counter", "Bytes sent to {} clients."),
    )
    for name, sort, help_text in described:
        yield Entry(f"virtiod_{kind.kind}_{name}", sort, _EXPORT, help_text.format(kind.title))


ENTRIES = (
    Entry("virtiod_build_info", "info", ("version", "python"), "Versions of virtiod and of its Python. Always 1."),
    Entry("virtiod_start_time_seconds", "gauge", (), "When the daemon started, as Unix time."),
    Entry("virtiod_healthy", "gauge", (), "1 while /healthz says ok, else 0."),
    # bdevs
    Entry("virtiod_bdev_info", "info", ("bdev", "uuid", "product", "controller"), "What a bdev is. Always 1."),
    Entry("virtiod_bdev_capacity_bytes", "gauge", _BDEV, "Size of the bdev."),
    Entry("virtiod_bdev_reads_completed_total", "counter", _BDEV, "Reads completed with success."),
    Entry("virtiod_bdev_writes_completed_total", "counter", _BDEV, "Writes completed with success."),
    Entry("virtiod_bdev_unmaps_completed_total", "counter", _BDEV, "Unmaps (discards) completed with success."),
    Entry("virtiod_bdev_flushes_completed_total", "counter", _BDEV, "Flushes completed with success."),
    Entry("virtiod_bdev_write_zeroes_completed_total", "counter", _BDEV, "Write zeroes completed with success."),
    Entry("virtiod_bdev_read_bytes_total", "counter", _BDEV, "Bytes read with success."),
    Entry("virtiod_bdev_written_bytes_total", "counter", _BDEV, "Bytes written with success."),
    Entry("virtiod_bdev_unmapped_bytes_total", "counter", _BDEV, "Bytes unmapped with success."),
    Entry("virtiod_bdev_read_time_seconds_total", "counter", _BDEV, "Sum of the latencies of reads that ended."),
    Entry("virtiod_bdev_write_time_seconds_total", "counter", _BDEV, "Sum of the latencies of writes that ended."),
    Entry("virtiod_bdev_unmap_time_seconds_total", "counter", _BDEV, "Sum of the latencies of unmaps that ended."),
    Entry("virtiod_bdev_flush_time_seconds_total", "counter", _BDEV, "Sum of the latencies of flushes that ended."),
    Entry("virtiod_bdev_io_now", "gauge", _BDEV, "I/Os in flight."),
    Entry("virtiod_bdev_oldest_io_seconds", "gauge", _BDEV, "Age of the oldest I/O in flight, 0 for none."),
    Entry(
        "virtiod_bdev_io_time_seconds_total",
        "counter",
        _BDEV,
        "Time with I/O in flight on the busiest poller; its rate is the utilisation.",
    ),
    Entry(
        "virtiod_bdev_io_time_weighted_seconds_total",
        "counter",
        _BDEV,
        "Sum of the latencies of all I/Os that ended; its rate is the mean queue depth.",
    ),
    Entry("virtiod_bdev_io_errors_total", "counter", ("bdev", "op", "status"), "I/Os that failed."),
    Entry(
        "virtiod_bdev_io_duration_seconds",
        "histogram",
        ("bdev", "op"),
        "Latencies of I/Os that ended; bounds are met within 1 %.",
    ),
    # controllers
    Entry(
        "virtiod_controller_info",
        "info",
        ("controller", "type", "transport", "address"),
        "What a controller is, and how it is reached. Always 1.",
    ),
    Entry("virtiod_controller_up", "gauge", _CONTROLLER, "1 while the controller is up, else 0."),
    Entry("virtiod_controller_state", "gauge", ("controller", "state"), "1 for the state it is in, 0 for others."),
    Entry("virtiod_controller_reconnects_total", "counter", _CONTROLLER, "Times that it came back after a loss."),
    Entry("virtiod_controller_io_timeouts_total", "counter", _CONTROLLER, "Requests that failed by timeout."),
    Entry("virtiod_queue_size", "gauge", _QUEUE, "Entries of the virtqueue."),
    Entry("virtiod_queue_depth", "gauge", _QUEUE, "Requests in flight on the virtqueue."),
    Entry("virtiod_queue_kicks_total", "counter", _QUEUE, "Notifications sent to the device."),
    Entry("virtiod_queue_interrupts_total", "counter", _QUEUE, "Notifications of the device that ended a sleep."),
    Entry("virtiod_queue_full_total", "counter", _QUEUE, "I/Os that had to wait for room on the virtqueue."),
    # exports
    *(entry for kind in EXPORTS for entry in _of_exports(kind)),
    # the daemon
    Entry(
        "virtiod_poller_seconds_total",
        "counter",
        ("thread", "mode"),
        "Where a poller's time went: busy (there was work), idle (spinning without) or sleep.",
    ),
    Entry("virtiod_buffers_exhausted_total", "counter", _THREAD, "Times that a poller had too few buffers."),
    Entry("virtiod_buffers_lost_total", "counter", _THREAD, "Buffers given up, as a lost device might write to them."),
    Entry("virtiod_dma_memory_bytes", "gauge", (), "DMA memory mapped."),
    Entry("virtiod_dma_memory_used_bytes", "gauge", (), "DMA memory allocated."),
    Entry("virtiod_rpc_duration_seconds", "histogram", ("method",), "How long RPC calls took, failed ones too."),
)
