# Whether a bdev's disk may have become another one. Inline, because each request asks. Any thread may.
from virtiod.core cimport atomics
from virtiod.core.types cimport BdevCore

# It may be another disk: it must be sent nothing but what changes nothing, and nothing that it said counts.
cdef inline bint in_doubt(BdevCore *b) noexcept nogil:
    return atomics.load_u64(&b.identity_doubts) != atomics.load_u64(&b.identity_known)

# reset: what its cache held may be lost, even if it is the same disk.
cdef inline void doubt(BdevCore *b, bint reset) noexcept nogil:
    if reset:
        atomics.store_u8(&b.was_reset, 1)  # before the doubt, which whoever looks reads first
    atomics.fetch_add_u64(&b.identity_doubts, 1)
