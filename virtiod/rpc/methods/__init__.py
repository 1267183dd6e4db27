"""All methods by name."""

from __future__ import annotations

from virtiod.api.registry import collect
from virtiod.rpc.methods import (
    app,
    bdev,
    foreign,
    framework,
    histogram,
    log,
    memory,
    nbd,
    notify,
    null,
    perf,
    thread,
    virtio,
)

METHODS = collect([app, framework, log, notify, thread, memory, bdev, histogram, virtio, null, nbd, perf, foreign])
