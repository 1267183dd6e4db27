"""The live page: what happened in the last minutes, second by second, for hosts without a Prometheus."""
