"""A metric with its values, written in Prometheus' text format or in OpenMetrics.

prometheus_client makes an object for each sample and looks at every character of it again when it writes: two seconds
for a thousand bdevs. Here values stay in tuples, labels are put together once for as long as their bdev is shown, and
the lines of series are made in C.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from prometheus_client.core import Metric
from prometheus_client.samples import Sample

from virtiod.metrics.catalogue import Entry
from virtiod.metrics.lines import counter_lines

Number = int | float


class Family(Metric):
    """The values of one metric, by add() and add_each() or, for a histogram, by add_histogram()."""

    def __init__(self, entry: Entry, bounds_s: Sequence[float] = ()) -> None:
        """bounds_s: a histogram's upper bounds, without the infinite one that is always last."""
        self.entry = entry
        self.les = (*(repr(float(bound)) for bound in bounds_s), "+Inf")
        self.values: list[tuple[tuple[str, ...], Number]] = []
        self.series: list[tuple[tuple[str, ...], tuple[str, ...], list[int]]] = []
        self.histograms: list[tuple[tuple[str, ...], list[int], float]] = []
        stem = entry.name.removesuffix("_total" if entry.kind == "counter" else f"_{entry.kind}")
        super().__init__(stem, entry.help, entry.kind)

    def add(self, labels: tuple[str, ...], value: Number) -> None:
        self.values.append((labels, value))

    def add_each(self, labels: tuple[str, ...], lasts: tuple[str, ...], values: list[int]) -> None:
        """One count for each of lasts: the last label's values, which need no escape. labels: of those before it."""
        self.series.append((labels, lasts, values))

    def add_histogram(self, labels: tuple[str, ...], below: list[int], total: float) -> None:
        """below[i]: observations up to bound i; the last, past the bounds, is their number. total: their sum."""
        self.histograms.append((labels, below, total))

    @property
    def samples(self) -> list[Sample]:
        """As prometheus_client's own writers want them."""
        name, names = self.entry.name, self.entry.labels
        found = [Sample(name, dict(zip(names, labels, strict=True)), value) for labels, value in self.values]
        for firsts, lasts, numbers in self.series:
            found += [
                Sample(name, dict(zip(names, (*firsts, last), strict=True)), n)
                for last, n in zip(lasts, numbers, strict=True)
            ]
        for values, below, total in self.histograms:
            labels = dict(zip(names, values, strict=True))
            found += [Sample(f"{name}_bucket", {**labels, "le": le}, n) for le, n in zip(self.les, below, strict=True)]
            found += [Sample(f"{name}_count", labels, below[-1]), Sample(f"{name}_sum", labels, total)]
        return found

    @samples.setter
    def samples(self, _nothing: list[Sample]) -> None:
        """Metric's constructor sets them to none."""

    def write(self, page: list[bytes], openmetrics: bool) -> None:
        """Append the metric's lines."""
        name, kind = (self.name, self.type) if openmetrics else (self.entry.name, _PLAIN.get(self.type, self.type))
        lines = [f"# HELP {name} {self.documentation}\n# TYPE {name} {kind}\n"]
        name, names = self.entry.name, self.entry.labels
        if names:
            lines += [f"{name}{{{label_text(names, values)}}} {value}\n" for values, value in self.values]
        else:
            lines += [f"{name} {value}\n" for _, value in self.values]
        page.append("".join(lines).encode(errors="replace"))
        for firsts, lasts, numbers in self.series:
            start = f'{name}{{{label_text(names, firsts)},{names[-1]}="'
            page.append(counter_lines(start.encode(errors="replace"), _ends(lasts), numbers))
        for values, below, total in self.histograms:
            labels = label_text(names, values)
            start = f'{name}_bucket{{{labels},le="'
            page.append(counter_lines(start.encode(errors="replace"), _ends(self.les), below))
            sums = f"{name}_count{{{labels}}} {below[-1]}\n{name}_sum{{{labels}}} {total}\n"
            page.append(sums.encode(errors="replace"))


@lru_cache(maxsize=20_000)  # for a thousand bdevs seven thousand, of some 200 bytes
def label_text(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    """The first labels, as many as there are values, as they stand between braces."""
    return ",".join([f'{name}="{escape(value)}"' for name, value in zip(names, values, strict=False)])


@lru_cache(maxsize=16)
def _ends(lasts: tuple[str, ...]) -> list[bytes]:
    """What stands between the last label's opening quote and the value."""
    return [f'{last}"}} '.encode() for last in lasts]


_PLAIN = {"info": "gauge"}  # a type that only OpenMetrics has


def escape(value: str) -> str:
    """A label's value between quotes, in either format."""
    if value.isalnum():
        return value
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def encode(families: Iterable[Family], openmetrics: bool) -> bytes:
    """The whole page. Any thread: it reads nothing but the families."""
    page: list[bytes] = []
    for family in families:
        family.write(page, openmetrics)
    if openmetrics:
        page.append(b"# EOF\n")
    return b"".join(page)
