"""A holder of a bdev, where a test needs one."""

from __future__ import annotations

from virtiod.bdev.use import Access, Use


def somebody() -> Use:
    return Use("test", "test", "somebody", Access.READ)
