"""Metrics for Prometheus: each described once, and read from the daemon's counters."""
