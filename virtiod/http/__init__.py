"""HTTP: a live page at /, metrics for Prometheus at /metrics, health at /healthz, JSON-RPC at /rpc.

catalogue   every metric with its type, labels and help; one description each
families    a metric with its values, and how it is written
collector   reads the daemon's counters into families
health      whether the daemon does its work
tokens      who may ask, and as what; secretfile reads the files that say so
buckets     how often, by client
auth        both, as a middleware in front of every page
live        what the live page shows; pages: its files, which lie in static/
app         the pages, as an aiohttp application
rpc         JSON-RPC as one of them
tls         certificates
connections how many there may be, how long each may take
server      where it listens
"""
