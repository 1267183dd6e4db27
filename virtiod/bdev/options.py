"""SPDK's options of the bdev layer. They are kept and saved, but change nothing: virtiod sizes its pools by itself."""

from __future__ import annotations

from collections.abc import Iterator

from virtiod.core.saved import SavedCall

# SPDK's defaults, with which its own saved configurations always begin.
DEFAULTS: dict[str, int | bool] = {
    "bdev_io_pool_size": 65535,
    "bdev_io_cache_size": 256,
    "bdev_auto_examine": True,
    "iobuf_small_cache_size": 128,
    "iobuf_large_cache_size": 16,
}


class BdevOptions:
    """The values by the names that bdev_set_options gives them."""

    def __init__(self) -> None:
        self.values = dict(DEFAULTS)

    def saved_calls(self) -> Iterator[SavedCall]:
        """The call that sets them all."""
        yield SavedCall("bdev_set_options", dict(self.values))
