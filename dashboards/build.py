#!/usr/bin/env python3
"""Writes the Grafana dashboards, grafana/*.json. A test fails when they are not what this program writes.

    python dashboards/build.py

A dashboard is a list of rows, a row a title and panels.
"""

from __future__ import annotations

import json
from pathlib import Path

from panels import dashboard, heatmap, lines, stat, states, table, variable

FOLDER = Path(__file__).parent / "grafana"


def rate(metric: str, select: str, by: str | None = None) -> str:
    """Of a counter, per second; by: labels to sum by, "" for a single sum."""
    found = f"rate(virtiod_{metric}{{{select}}}[$__rate_interval])"
    if by is None:
        return found
    return f"sum by ({by}) ({found})" if by else f"sum({found})"


def mean(histogram: str, select: str, by: str) -> str:
    return f"{rate(f'{histogram}_sum', select, by)} / {rate(f'{histogram}_count', select, by)}"


def quantile(q: float, select: str, by: str = "le") -> str:
    """Of latencies."""
    return f"histogram_quantile({q}, {rate('bdev_io_duration_seconds_bucket', select, by)})"


def spread(select: str) -> str:
    """Of latencies, for a heat map."""
    return f"sum by (le) (increase(virtiod_bdev_io_duration_seconds_bucket{{{select}}}[$__rate_interval]))"


def busiest(expr: str) -> str:
    """Of the bdevs of the table only."""
    return f"{expr}{{{INSTANCE}}} and topk(20, bdev:virtiod_io:rate1m{{{INSTANCE}}})"


def quantiles(select: str) -> dict[str, str]:
    """Of latencies, by name."""
    return {f"p{100 * q:g}": quantile(q, select) for q in (0.5, 0.9, 0.99, 0.999)}


INSTANCE = 'instance=~"$instance"'
BDEV = f'{INSTANCE}, bdev=~"$bdev"'
CONTROLLER = f'{INSTANCE}, controller=~"$controller"'
OPS = {"reads": "reads", "writes": "writes", "flushes": "flushes", "unmaps": "unmaps", "write zeroes": "write_zeroes"}
THROUGHPUT = {"reads": "read", "writes": "written", "unmaps": "unmapped"}

OVERVIEW = dashboard(
    "virtiod-overview",
    "virtiod: overview",
    [variable("instance", "label_values(virtiod_build_info, instance)")],
    {
        "Now": [
            stat("Daemons", f"count(virtiod_build_info{{{INSTANCE}}})"),
            stat("Not healthy", f"sum(1 - virtiod_healthy{{{INSTANCE}}})", red=1),
            stat("Controllers down", f"sum(1 - virtiod_controller_up{{{INSTANCE}}})", red=1),
            stat("IOPS", f"sum(instance:virtiod_io:rate1m{{{INSTANCE}}})", "iops"),
            stat("Throughput", f"sum(instance:virtiod_bytes:rate1m{{{INSTANCE}}})", "binBps"),
            stat("Oldest I/O", f"max(virtiod_bdev_oldest_io_seconds{{{INSTANCE}}})", "s", red=5),
        ],
        "Hosts": [
            lines("IOPS", {"{{instance}}": f"instance:virtiod_io:rate1m{{{INSTANCE}}}"}, "iops", stacked=True),
            lines(
                "Throughput",
                {
                    "{{instance}} reads": rate("bdev_read_bytes_total", INSTANCE, "instance"),
                    "{{instance}} writes": rate("bdev_written_bytes_total", INSTANCE, "instance"),
                },
                "binBps",
            ),
            lines(
                "Mean queue depth",
                {"{{instance}}": f"sum by (instance) (bdev:virtiod_queue_depth:mean1m{{{INSTANCE}}})"},
            ),
            lines(
                "p99 latency",
                {"{{instance}}": quantile(0.99, INSTANCE, "le, instance")},
                "s",
            ),
            lines(
                "Errors per second",
                {"{{instance}} {{status}}": rate("bdev_io_errors_total", INSTANCE, "instance, status")},
            ),
            lines(
                "Oldest I/O", {"{{instance}}": f"max by (instance) (virtiod_bdev_oldest_io_seconds{{{INSTANCE}}})"}, "s"
            ),
            heatmap("Latency", spread(INSTANCE)),
        ],
        "Bdevs and controllers": [
            table(
                "Busiest bdevs",
                {
                    "IOPS": (f"topk(20, bdev:virtiod_io:rate1m{{{INSTANCE}}})", "iops"),
                    "Throughput": (busiest("bdev:virtiod_bytes:rate1m"), "binBps"),
                    "Mean latency": (busiest("bdev:virtiod_io_duration_seconds:mean1m"), "s"),
                    "Utilisation": (busiest("bdev:virtiod_utilisation:rate1m"), "percentunit"),
                },
                ["instance", "bdev"],
                (
                    "bdev",
                    "/d/virtiod-bdev?var-instance=${__data.fields.instance}&var-bdev=${__value.text}&${__url_time_range}",
                ),
            ),
            table(
                "Controllers",
                {
                    "Up": (
                        f"virtiod_controller_up{{{INSTANCE}}} * on (instance, controller) "
                        "group_left (type, transport, address) virtiod_controller_info",
                        "short",
                    ),
                    "Reconnects": (f"virtiod_controller_reconnects_total{{{INSTANCE}}}", "short"),
                    "Queue depth": (f"sum by (instance, controller) (virtiod_queue_depth{{{INSTANCE}}})", "short"),
                },
                ["instance", "controller", "type", "transport", "address"],
                (
                    "controller",
                    "/d/virtiod-controller?var-instance=${__data.fields.instance}&var-controller=${__value.text}&${__url_time_range}",
                ),
            ),
        ],
        "Pollers": [
            lines(
                "Poller time by mode",
                {"{{instance}} {{thread}} {{mode}}": rate("poller_seconds_total", INSTANCE)},
                "percentunit",
                stacked=True,
            ),
            lines(
                "Poller busy time",
                {"{{instance}} {{thread}}": f"poller:virtiod_busy:ratio1m{{{INSTANCE}}}"},
                "percentunit",
                defaults={"max": 1},
            ),
        ],
        "Exports, memory, RPC": [
            lines("NBD connections", {"{{instance}} {{export}}": f"virtiod_nbd_connections{{{INSTANCE}}}"}, width=8),
            lines(
                "NBD throughput",
                {
                    "{{export}} from clients": rate("nbd_received_bytes_total", INSTANCE),
                    "{{export}} to clients": rate("nbd_sent_bytes_total", INSTANCE),
                },
                "binBps",
                8,
            ),
            lines(
                "NBD requests",
                {
                    "{{export}}": rate("nbd_requests_total", INSTANCE),
                    "{{export}} errors": rate("nbd_request_errors_total", INSTANCE),
                    "{{export}} in flight": f"virtiod_nbd_requests_in_flight{{{INSTANCE}}}",
                },
                width=8,
            ),
            lines(
                "DMA memory",
                {
                    "{{instance}} mapped": f"virtiod_dma_memory_bytes{{{INSTANCE}}}",
                    "{{instance}} used": f"virtiod_dma_memory_used_bytes{{{INSTANCE}}}",
                },
                "bytes",
                8,
            ),
            lines(
                "Buffers exhausted, and in quarantine",
                {
                    "{{thread}} exhausted": rate("buffers_exhausted_total", INSTANCE),
                    "{{thread}} in quarantine": f"virtiod_buffers_quarantined{{{INSTANCE}}}",
                },
                width=8,
            ),
            lines(
                "Mean time of RPC calls",
                {"{{method}}": mean("rpc_duration_seconds", INSTANCE, "method")},
                "s",
                8,
            ),
        ],
    },
)

CONTROLLERS = dashboard(
    "virtiod-controller",
    "virtiod: controller",
    [
        variable("instance", "label_values(virtiod_build_info, instance)"),
        variable("controller", 'label_values(virtiod_controller_up{instance=~"$instance"}, controller)', multi=False),
    ],
    {
        "State": [
            stat("Up", f"min(virtiod_controller_up{{{CONTROLLER}}})", red=1, below=True),
            stat(
                "Reconnects in the last hour",
                f"sum(increase(virtiod_controller_reconnects_total{{{CONTROLLER}}}[1h]))",
                red=1,
            ),
            stat(
                "I/O timeouts in the last hour",
                f"sum(increase(virtiod_controller_io_timeouts_total{{{CONTROLLER}}}[1h]))",
                red=1,
            ),
            stat("Virtqueues", f"count(virtiod_queue_size{{{CONTROLLER}}})"),
            stat("Queue depth", f"sum(virtiod_queue_depth{{{CONTROLLER}}})"),
            stat(
                "Total size of its bdevs",
                f"sum(virtiod_bdev_capacity_bytes and on (instance, bdev) virtiod_bdev_info{{{CONTROLLER}}})",
                "bytes",
            ),
            stat(
                "Old sessions that may still be alive", f"sum(virtiod_controller_old_sessions{{{CONTROLLER}}})", red=1
            ),
            stat("Memory in quarantine", f"sum(virtiod_controller_quarantined_bytes{{{CONTROLLER}}})", "bytes"),
            states("State", f"virtiod_controller_state{{{CONTROLLER}}}", "{{instance}} {{state}}"),
        ],
        "Writes that are kept until a flush, by bdev": [
            lines("Kept", {"{{bdev}}": f"virtiod_bdev_kept_bytes{{{INSTANCE}}}"}, "bytes"),
            lines(
                "Kept writes",
                {
                    "{{bdev}} kept": f"virtiod_bdev_kept_writes{{{INSTANCE}}}",
                    "{{bdev}} virtiod's own flushes": rate("bdev_own_flushes_total", INSTANCE),
                    "{{bdev}} repeated": f"virtiod_bdev_repeated_writes_total{{{INSTANCE}}}",
                    "{{bdev}} losses": f"virtiod_bdev_losses_total{{{INSTANCE}}}",
                },
            ),
        ],
        "Virtqueues": [
            lines(
                "Queue depth",
                {
                    "{{instance}} {{queue}}": f"virtiod_queue_depth{{{CONTROLLER}}}",
                },
            ),
            lines(
                "Queue depth as a share of the queue size",
                {"{{instance}} {{queue}}": f"virtiod_queue_depth{{{CONTROLLER}}} / virtiod_queue_size{{{CONTROLLER}}}"},
                "percentunit",
            ),
            lines(
                "Notifications sent to the device",
                {"{{instance}} {{queue}}": rate("queue_kicks_total", CONTROLLER)},
                width=8,
            ),
            lines(
                "Notifications from the device that ended a sleep",
                {"{{instance}} {{queue}}": rate("queue_interrupts_total", CONTROLLER)},
                width=8,
            ),
            lines(
                "I/Os that waited for room on the virtqueue",
                {"{{instance}} {{queue}}": rate("queue_full_total", CONTROLLER)},
                width=8,
            ),
        ],
        "Its bdevs": [
            lines(
                title,
                {"{{instance}} {{bdev}}": f"{expr} and on (instance, bdev) virtiod_bdev_info{{{CONTROLLER}}}"},
                unit,
            )
            for title, expr, unit in (
                ("IOPS", "bdev:virtiod_io:rate1m", "iops"),
                ("Throughput", "bdev:virtiod_bytes:rate1m", "binBps"),
                ("p99 latency", "bdev:virtiod_io_duration_seconds:p99_5m", "s"),
                ("Errors per second", "bdev:virtiod_io_errors:rate5m", "short"),
            )
        ],
    },
)

BDEVS = dashboard(
    "virtiod-bdev",
    "virtiod: bdev",
    [
        variable("instance", "label_values(virtiod_build_info, instance)"),
        variable("bdev", 'label_values(virtiod_bdev_info{instance=~"$instance"}, bdev)', multi=False),
    ],
    {
        "Now": [
            stat("Size", f"sum(virtiod_bdev_capacity_bytes{{{BDEV}}})", "bytes"),
            stat("IOPS", f"sum(bdev:virtiod_io:rate1m{{{BDEV}}})", "iops"),
            stat("Throughput", f"sum(bdev:virtiod_bytes:rate1m{{{BDEV}}})", "binBps"),
            stat("Queue depth", f"sum(virtiod_bdev_io_now{{{BDEV}}})"),
            stat("Oldest I/O", f"max(virtiod_bdev_oldest_io_seconds{{{BDEV}}})", "s", red=5),
            stat("Errors in the last hour", f"sum(increase(virtiod_bdev_io_errors_total{{{BDEV}}}[1h]))", red=1),
        ],
        "I/O": [
            lines(
                "IOPS",
                {name: rate(f"bdev_{metric}_completed_total", BDEV, "") for name, metric in OPS.items()},
                "iops",
                stacked=True,
            ),
            lines(
                "Throughput",
                {name: rate(f"bdev_{metric}_bytes_total", BDEV, "") for name, metric in THROUGHPUT.items()},
                "binBps",
            ),
            lines(
                "Queue depth",
                {
                    "now": f"sum(virtiod_bdev_io_now{{{BDEV}}})",
                    "mean": rate("bdev_io_time_weighted_seconds_total", BDEV, ""),
                },
            ),
            lines(
                "Utilisation",
                {"time with I/O in flight": f"max({rate('bdev_io_time_seconds_total', BDEV)})"},
                "percentunit",
                defaults={"max": 1},
            ),
        ],
        "Latency": [
            heatmap("Latency", spread(BDEV)),
            lines("Latency of reads", quantiles(f'{BDEV}, op="read"'), "s", 8),
            lines("Latency of writes", quantiles(f'{BDEV}, op="write"'), "s", 8),
            lines(
                "Mean latency",
                {"{{op}}": mean("bdev_io_duration_seconds", BDEV, "op")},
                "s",
                8,
            ),
        ],
        "Errors and hangs": [
            lines(
                "Errors per second",
                {"{{op}} {{status}}": rate("bdev_io_errors_total", BDEV, "op, status")},
            ),
            lines("Oldest I/O", {"{{instance}}": f"virtiod_bdev_oldest_io_seconds{{{BDEV}}}"}, "s"),
        ],
    },
)

DASHBOARDS = [OVERVIEW, CONTROLLERS, BDEVS]


def documents() -> dict[str, str]:
    """The files' contents by name."""
    return {f"{one['uid']}.json": json.dumps(one, indent=1) + "\n" for one in DASHBOARDS}


if __name__ == "__main__":
    for name, content in documents().items():
        (FOLDER / name).write_text(content)
