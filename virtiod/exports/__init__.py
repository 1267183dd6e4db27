"""A bdev offered to the outside. Each way to do so (NBD here; others as they come) is a package of its own.

The contract with the layer below: an export opens its bdev with `bdev.open(on_resize=, on_remove=)` and holds
the handle until it ends. When `on_remove` is awaited the export answers what is in flight, within its own
deadline, ends every connection, closes the handle and returns: the bdev goes after that.
"""
