# What tally.count() counts on each poller: the sums, on any thread.
from libc.stdint cimport uint64_t

from virtiod.core.types cimport Channel, OpStats

# Of n (one operation, on several pollers), at stats[0] and after it.
cdef object op_counters(OpStats **stats, int n, object cuts)
cdef list bucket_counts(OpStats **stats, int n)

# ---- private: for the module itself
cdef uint64_t _busy_ns(Channel *ch) noexcept nogil
cdef uint64_t _shortest(uint64_t min_ns) noexcept nogil
