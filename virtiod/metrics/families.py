"""The metrics of the catalogue with their values, and a page made of them.

prometheus_client makes an object for each sample and looks at every character of it again when it writes: two seconds
for a thousand bdevs. Here values stay in tuples, labels are put together once for as long as their bdev is shown, and
the lines of series are made in C. How a metric is named and described in each format is left to prometheus_client.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cache
from typing import Any, Generic

from prometheus_client.core import Metric
from prometheus_client.samples import Sample

from virtiod.metrics.catalogue import GROUPS, Entry, Group, Histogram, Info, Series, T, Value
from virtiod.metrics.lines import counter_lines
from virtiod.metrics.text import OPENMETRICS_END, ends_of, header, label_text

Labels = tuple[str, ...]  # values of the first labels of an entry


class Family(ABC, Generic[T]):
    """One metric with its values."""

    def __init__(self, entry: Entry[T]) -> None:
        self.entry = entry

    @abstractmethod
    def take(self, labels: Labels, thing: T) -> None:
        """Reads the value of one thing of the metric's group, which has these labels."""

    @abstractmethod
    def samples(self) -> Iterator[Sample]:
        """The samples, as prometheus_client has them."""

    @abstractmethod
    def write(self, page: list[bytes]) -> None:
        """Appends the lines of the values, which are the same in either format."""

    def metric(self) -> Metric:
        """The metric, as prometheus_client's own writers take it."""
        metric = _described(self.entry)
        metric.samples = list(self.samples())
        return metric


class Values(Family[T]):
    """Numbers, each with labels of its own."""

    def __init__(self, entry: Value[T] | Info[T]) -> None:
        super().__init__(entry)
        self.values: list[tuple[Labels, float]] = []

    def samples(self) -> Iterator[Sample]:
        for labels, value in self.values:
            yield Sample(self.entry.name, dict(zip(self.entry.labels, labels, strict=True)), value)

    def write(self, page: list[bytes]) -> None:
        name, names = self.entry.name, self.entry.labels
        if names:
            text = [f"{name}{{{label_text(names, labels)}}} {value}\n" for labels, value in self.values]
        else:
            text = [f"{name} {value}\n" for _, value in self.values]
        page.append("".join(text).encode(errors="replace"))


class Numbers(Values[T]):
    """The family of a Value."""

    def __init__(self, entry: Value[T]) -> None:
        super().__init__(entry)
        self._read = entry.read

    def take(self, labels: Labels, thing: T) -> None:
        self.values.append((labels, self._read(thing)))


class Infos(Values[T]):
    """The family of an Info: all its labels are read."""

    def __init__(self, entry: Info[T]) -> None:
        super().__init__(entry)
        self._read = entry.read

    def take(self, labels: Labels, thing: T) -> None:
        self.values.append((self._read(thing), 1))


class Counts(Family[T]):
    """The family of a Series."""

    def __init__(self, entry: Series[T]) -> None:
        super().__init__(entry)
        self._read = entry.read
        self._lasts = entry.lasts
        self._ends = ends_of(entry.lasts)
        self._counts: list[tuple[Labels, list[int]]] = []

    def take(self, labels: Labels, thing: T) -> None:
        self._counts.append((labels, self._read(thing)))

    def samples(self) -> Iterator[Sample]:
        for firsts, numbers in self._counts:
            for last, number in zip(self._lasts, numbers, strict=True):
                yield Sample(self.entry.name, dict(zip(self.entry.labels, (*firsts, last), strict=True)), number)

    def write(self, page: list[bytes]) -> None:
        name, names = self.entry.name, self.entry.labels
        for firsts, numbers in self._counts:
            start = f'{name}{{{label_text(names, firsts)},{names[-1]}="'
            page.append(counter_lines(start.encode(errors="replace"), self._ends, numbers))


class Histograms(Family[T]):
    """The family of a Histogram."""

    def __init__(self, entry: Histogram[T]) -> None:
        super().__init__(entry)
        self._read = entry.read
        self._les = (*(repr(float(bound)) for bound in entry.bounds_s), "+Inf")
        self._ends = ends_of(self._les)
        self._observed: list[tuple[Labels, tuple[list[int], float]]] = []

    def take(self, labels: Labels, thing: T) -> None:
        self._observed.append((labels, self._read(thing)))

    def samples(self) -> Iterator[Sample]:
        name = self.entry.name
        for values, (below, total) in self._observed:
            labels = dict(zip(self.entry.labels, values, strict=True))
            for le, number in zip(self._les, below, strict=True):
                yield Sample(f"{name}_bucket", {**labels, "le": le}, number)
            yield Sample(f"{name}_count", labels, below[-1])
            yield Sample(f"{name}_sum", labels, total)

    def write(self, page: list[bytes]) -> None:
        name = self.entry.name
        for values, (below, total) in self._observed:
            labels = label_text(self.entry.labels, values)
            start = f'{name}_bucket{{{labels},le="'
            page.append(counter_lines(start.encode(errors="replace"), self._ends, below))
            sums = f"{name}_count{{{labels}}} {below[-1]}\n{name}_sum{{{labels}}} {total}\n"
            page.append(sums.encode(errors="replace"))


def family_of(entry: Entry[T]) -> Family[T]:
    """The family of an entry, without values."""
    match entry:
        case Value():
            return Numbers(entry)
        case Info():
            return Infos(entry)
        case Series():
            return Counts(entry)
        case Histogram():
            return Histograms(entry)
    raise TypeError(f"{entry.name}: nothing keeps the values of a {type(entry).__name__}")


class Page:
    """All metrics of the catalogue, in its order, also those that have no value now."""

    def __init__(self) -> None:
        self._families: dict[Group[Any], list[Family[Any]]] = {
            group: [family_of(entry) for entry in group.entries] for group in GROUPS
        }

    def add(self, group: Group[T], labels: Labels, thing: T) -> None:
        """Reads the metrics of a group from one thing."""
        for family in self._families[group]:
            family.take(labels, thing)

    def __iter__(self) -> Iterator[Family[Any]]:
        for families in self._families.values():
            yield from families

    def encode(self, in_openmetrics: bool) -> bytes:
        """The text of the whole page. Any thread may call it: it reads nothing but the values."""
        page: list[bytes] = []
        for family in self:
            page.append(_header(family.entry, in_openmetrics))
            family.write(page)
        if in_openmetrics:
            page.append(OPENMETRICS_END)
        return b"".join(page)


def _described(entry: Entry[T]) -> Metric:
    stem = entry.name.removesuffix("_total" if entry.kind == "counter" else f"_{entry.kind}")
    return Metric(stem, entry.help, entry.kind)


@cache  # twice as many as there are entries
def _header(entry: Entry[T], in_openmetrics: bool) -> bytes:
    return header(_described(entry), in_openmetrics)
