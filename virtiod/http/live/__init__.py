"""The live page: what happened in the last minutes, second by second, for hosts without a Prometheus.

cells     one second of a bdev or of all: rates, queue depth, latencies
history   the last minutes of cells, in bounded memory
sampler   reads the daemon's counters each second
report    the daemon as the page's tables show it
feed      sends both to those who watch, as server-sent events
"""
