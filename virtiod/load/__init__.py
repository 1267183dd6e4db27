"""The load generator: keeps I/O in flight on bdevs, on their pollers, and measures it."""
