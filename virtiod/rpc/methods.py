"""All methods by name."""

from __future__ import annotations

from virtiod.rpc import app, bdev, framework, histogram, log, nbd, notify, null, perf, thread, virtio
from virtiod.rpc.registry import collect

METHODS = collect([app, framework, log, notify, thread, bdev, histogram, virtio, null, nbd, perf])
