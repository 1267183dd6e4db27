"""The catalogue of metrics."""

from __future__ import annotations

from virtiod.metrics.catalogue import ENTRIES


def test_names_follow_prometheus_conventions() -> None:
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)
    for entry in ENTRIES:
        assert entry.name.startswith("virtiod_")
        assert entry.name.endswith("_total") == (entry.kind == "counter")
        assert entry.name.endswith("_info") == (entry.kind == "info")
        assert entry.help.endswith(".") and "\\" not in entry.help and "\n" not in entry.help
