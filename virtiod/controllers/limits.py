"""Bounds that every kind of controller has for one request, whatever more its device takes."""

MAX_SEGMENTS = 254  # of data; more would only cost memory
NO_LIMIT = 1 << 30  # bytes of a segment
