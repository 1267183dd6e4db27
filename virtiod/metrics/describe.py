"""The metrics as a page for people, docs/metrics.md.

python -m virtiod.metrics.describe     # writes it; a test fails when it is out of date
"""

from __future__ import annotations

from pathlib import Path

from virtiod.metrics.catalogue import ENTRIES, Entry, T

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"

_PREAMBLE = """# The metrics

This page is made from the catalogue by `python -m virtiod.metrics.describe`. The daemon serves them at the address of
`--http`, in Prometheus' text format or, to a client that asks for it, in OpenMetrics:

<!-- with: a daemon -->
```sh
curl -s http://127.0.0.1:9799/metrics
curl -s http://127.0.0.1:9799/healthz    # 200 and "ok", or 503 and what is wrong
```

For Prometheus:

```yaml
scrape_configs:
  - job_name: virtiod
    static_configs:
      - targets: ["127.0.0.1:9799"]
```

The same, with tokens and TLS, is `dashboards/prometheus.yml`; beside it are alerts, and dashboards for Grafana.

Values are read at the time of a scrape, and counters only grow while their labels exist: `bdev_reset_iostat` does not
reach them. A histogram has the series `_bucket` (with the label `le`), `_sum` and `_count`.

| metric | type | labels | |
|---|---|---|---|
"""

# What operators ask, as PromQL.
QUERIES = {
    "reads per second": "rate(virtiod_bdev_reads_completed_total[1m])",
    "mean latency of a read": 'rate(virtiod_bdev_io_duration_seconds_sum{op="read"}[1m])'
    ' / rate(virtiod_bdev_io_duration_seconds_count{op="read"}[1m])',
    "p99 of writes": 'histogram_quantile(0.99, rate(virtiod_bdev_io_duration_seconds_bucket{op="write"}[1m]))',
    "mean queue depth": "rate(virtiod_bdev_io_time_weighted_seconds_total[1m])",
    "how busy a poller is": 'rate(virtiod_poller_seconds_total{mode="busy"}[1m])',
    "an I/O that does not end": "virtiod_bdev_oldest_io_seconds > 5",
    "a controller without its device": "virtiod_controller_up == 0",
}


def document() -> str:
    """The content of docs/metrics.md."""
    queries = [f"| {question} | `{query}` |\n" for question, query in QUERIES.items()]
    return "".join([_PREAMBLE, *map(_row, ENTRIES), "\n## Queries\n\n| what | query |\n|---|---|\n", *queries])


def _row(entry: Entry[T]) -> str:
    return f"| `{entry.name}` | {entry.kind} | {', '.join(entry.labels)} | {entry.help} |\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document())
