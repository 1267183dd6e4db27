"""A page of metrics, and what stands on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.support.http_server import Live
from virtiod.controllers.request import AttachRequest
from virtiod.exports.nbd.exports import NbdExports
from virtiod.metrics.collector import SystemCollector
from virtiod.metrics.families import Page

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    return samples(text)[f"virtiod_{name}", frozenset(labels.items())]


async def with_everything(live: Live, target: Path) -> None:
    """A controller, a bdev over nothing, an export, and some load and calls on them."""
    await live.daemon.system.controllers.attach(AttachRequest("V0", "user", str(target), "blk", None, None))
    live.add_null("Null0")
    await live.daemon.system.exports.of(NbdExports).create("V0", "disk")
    await live.load("V0")
    await live.load("Null0", "write")
    await live.daemon.rpc.call("bdev_get_bdevs", {})


class Metrics:
    """A page as prometheus_client's own writers take it."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def collect(self) -> Iterator[Metric]:
        return (family.metric() for family in self._page)


NULL_DISK = "driver=null-co,size=1073741824,read-zeroes=on"


def collector(live: Live) -> SystemCollector:
    return SystemCollector(live.daemon.system, live.daemon.rpc.timings, live.daemon.health)
