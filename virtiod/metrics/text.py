"""The pieces of a page of metrics, in Prometheus' text format or in OpenMetrics."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from prometheus_client import openmetrics
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

OPENMETRICS_END = b"# EOF\n"


class _Only(Collector):
    """A collector of one metric."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return [self._metric]


def header(metric: Metric, in_openmetrics: bool) -> bytes:
    """The lines before the samples of a metric, which has none yet: what it is and how it is called in the format."""
    if in_openmetrics:
        written: bytes = openmetrics.exposition.generate_latest(_Only(metric))
        return written.removesuffix(OPENMETRICS_END)
    return generate_latest(_Only(metric))


@lru_cache(maxsize=20_000)  # for a thousand bdevs seven thousand, of some 200 bytes
def label_text(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    """The first labels, as many as there are values, as they stand between braces."""
    return ",".join([f'{name}="{escape(value)}"' for name, value in zip(names, values, strict=False)])


def escape(value: str) -> str:
    """A label's value between quotes, in either format."""
    if value.isalnum():
        return value
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def ends_of(lasts: Iterable[str]) -> list[bytes]:
    """What stands between the last label's opening quote and a line's value."""
    return [f'{last}"}} '.encode() for last in lasts]
