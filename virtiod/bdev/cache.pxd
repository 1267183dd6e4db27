# Whether what a device acknowledged may be lost until a flush. Inline, because each write asks. Any thread may.
from libc.stdint cimport uint64_t

from virtiod.core cimport atomics
from virtiod.core.types cimport BdevCore, Op


# What was written may be lost until a flush, or it is not known.
cdef inline bint is_volatile(BdevCore *b) noexcept nogil:
    # acquire: write_cache is at least as new as what is known; settle_cache() stores them the other way round
    cdef uint64_t known = atomics.load_u64(&b.cache_known)
    return known != atomics.load_u64(&b.cache_doubts) or atomics.load_u8(&b.write_cache) != 0


# Whether a flush is something for the device, as its cache is now; else what was written is safe.
cdef inline bint flush_reaches(BdevCore *b) noexcept nogil:
    if not (b.native >> Op.FLUSH) & 1:
        return False
    return not b.flush_if_cached or is_volatile(b)


# The device may have changed its cache's mode.
cdef inline void doubt(BdevCore *b) noexcept nogil:
    atomics.fetch_add_u64(&b.cache_doubts, 1)
