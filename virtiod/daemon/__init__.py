"""The daemon's life cycle: options, start and stop, what systemd is told, logging."""
