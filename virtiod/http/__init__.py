"""HTTP: a live page at /, metrics for Prometheus at /metrics, health at /healthz, JSON-RPC at /rpc."""
