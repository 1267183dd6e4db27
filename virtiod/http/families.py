"""A metric with its values, written in Prometheus' text format or in OpenMetrics.

prometheus_client makes an object for each sample and looks at every character of it again when it writes: two seconds
for a thousand bdevs. Here values stay in tuples, and lines are put together from parts that are escaped once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client.core import Metric
from prometheus_client.samples import Sample

from virtiod.http.catalogue import Entry

Number = int | float


class Family(Metric):
    """The values of one metric, by add() and add_each() or, for a histogram, by add_histogram()."""

    def __init__(self, entry: Entry, bounds_s: Sequence[float] = ()) -> None:
        """bounds_s: a histogram's upper bounds, without the infinite one that is always last."""
        self.entry = entry
        self.les = [*(repr(float(bound)) for bound in bounds_s), "+Inf"]
        self.values: list[tuple[tuple[str, ...], Number]] = []
        self.series: list[tuple[tuple[str, ...], Sequence[str], Sequence[Number]]] = []
        self.histograms: list[tuple[tuple[str, ...], Sequence[int], float]] = []
        stem = entry.name.removesuffix("_total" if entry.kind == "counter" else f"_{entry.kind}")
        super().__init__(stem, entry.help, entry.kind)

    def add(self, labels: tuple[str, ...], value: Number) -> None:
        self.values.append((labels, value))

    def add_each(self, labels: tuple[str, ...], lasts: Sequence[str], values: Sequence[Number]) -> None:
        """One value for each of lasts: the last label's values, which need no escape. labels: of those before it."""
        self.series.append((labels, lasts, values))

    def add_histogram(self, labels: tuple[str, ...], below: Sequence[int], total: float) -> None:
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

    def write(self, lines: list[str], openmetrics: bool) -> None:
        """Append the metric's lines."""
        name, kind = (self.name, self.type) if openmetrics else (self.entry.name, _PLAIN.get(self.type, self.type))
        lines.append(f"# HELP {name} {self.documentation}\n# TYPE {name} {kind}\n")
        name = self.entry.name
        for values, value in self.values:
            lines.append(f"{name}{self._labels(values)} {value}\n")
        for firsts, lasts, numbers in self.series:
            start = f'{name}{self._labels(firsts)[:-1]},{self.entry.labels[-1]}="'
            lines += [f'{start}{last}"}} {n}\n' for last, n in zip(lasts, numbers, strict=True)]
        for values, below, total in self.histograms:
            labels = self._labels(values)
            start = f'{name}_bucket{labels[:-1]},le="'
            lines += [f'{start}{le}"}} {n}\n' for le, n in zip(self.les, below, strict=True)]
            lines.append(f"{name}_count{labels} {below[-1]}\n{name}_sum{labels} {total}\n")

    def _labels(self, values: tuple[str, ...]) -> str:
        """Of the first labels, as many as there are values."""
        if not values:
            return ""
        pairs = [f'{name}="{escape(value)}"' for name, value in zip(self.entry.labels, values, strict=False)]
        return "{" + ",".join(pairs) + "}"


_PLAIN = {"info": "gauge"}  # a type that only OpenMetrics has


def escape(value: str) -> str:
    """A label's value between quotes, in either format."""
    if value.isalnum():
        return value
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def encode(families: Iterable[Family], openmetrics: bool) -> bytes:
    """The whole page. Any thread: it reads nothing but the families."""
    lines: list[str] = []
    for family in families:
        family.write(lines, openmetrics)
    if openmetrics:
        lines.append("# EOF\n")
    return "".join(lines).encode(errors="replace")
