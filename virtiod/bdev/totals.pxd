# What totals.py reads of a bdev's channels.
from libc.stdint cimport uint64_t

from virtiod.core.types cimport Channel

# ---- private: for the module itself
cdef uint64_t _busy_ns(Channel *ch) noexcept nogil
