# A poller's data buffers.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from virtiod.core.types cimport Command, Holding, PollerCore, iovec
from virtiod.poller.poller cimport Poller

cdef enum:
    SMALL = 4096           # bytes
    LARGE = 65536
    KEPT_SMALL = 2         # kept writes have at most one of so many small buffers
    KEPT_LARGE = 5         # and of large ones, so that the longest NBD request finds enough

# A buffer in quarantine: the device of an old session may still use it.
ctypedef Quarantined *QuarantinedPtr
cdef struct Quarantined:
    char *at
    uint64_t epoch         # which session
    Holding *holding       # whose

ctypedef BufferPool *PoolPtr
cdef struct BufferPool:
    char *small            # n_small buffers of SMALL bytes
    char *large            # n_large of LARGE
    char *end
    uint32_t n_small
    uint32_t n_large
    char **free_small      # stacks: the last one given back is the next one taken, its lines are warm
    char **free_large
    uint32_t small_left
    uint32_t large_left
    uint64_t exhausted     # times that get() found too few
    uint64_t taken_small   # how many it has given
    uint64_t taken_large
    uint32_t kept_small    # buffers that hold kept writes (bdev/kept)
    uint32_t kept_large
    Quarantined *quarantined   # room for all
    uint32_t n_quarantined
    uint64_t quarantined_small # bytes, by the size of the buffers
    uint64_t quarantined_large

# Takes buffers for length bytes as iov[0..n), at most max; returns n, or 0 when there are not enough: all or none.
cdef int get(BufferPool *pool, uint64_t length, iovec *iov, int max) noexcept nogil
# Gives them back; only their addresses are used.
cdef void put(BufferPool *pool, iovec *iov, int n) noexcept nogil
# Put them in quarantine until that session is over.
cdef void quarantine(BufferPool *pool, iovec *iov, int n, uint64_t epoch, Holding *holding) noexcept nogil
# Count them as used by a controller (sign 1), or as no longer used (-1).
cdef void count(BufferPool *pool, iovec *iov, int n, Holding *holding, int64_t sign) noexcept nogil
# Whether length bytes more for a controller leave enough for the others.
cdef bint fair(BufferPool *pool, uint64_t length, Holding *holding) noexcept nogil
# Bytes of the longest request that it will ever be given, unless buffers leave quarantine. holding is NULL for a bdev
# without a controller.
cdef uint64_t limit(BufferPool *pool, Holding *holding) noexcept nogil


cdef class PollerBuffers:
    cdef BufferPool pool
    cdef object memory
    cdef uint64_t address
    cdef list keepers      # the owners of what is in quarantine: Quarantined.holding points into them

# ---- private: for the module itself
cdef bint _fair(uint64_t used, uint64_t more, uint64_t free_bytes) noexcept nogil
cdef uint64_t _ever(uint64_t own, uint64_t total) noexcept nogil
cdef int64_t _cmd_release(PollerCore *p, Command *c) noexcept nogil
