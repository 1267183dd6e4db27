# A poller's data buffers.
from libc.stdint cimport uint32_t, uint64_t

from virtiod.core.types cimport iovec

cdef enum:
    SMALL = 4096           # bytes
    LARGE = 65536

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
    uint64_t lost          # buffers given up by lose()
    uint32_t kept_small    # buffers that hold kept writes (bdev/kept)
    uint32_t kept_large

# Takes buffers for length bytes as iov[0..n), at most max; returns n, or 0 when there are not enough: all or none.
cdef int get(BufferPool *pool, uint64_t length, iovec *iov, int max) noexcept nogil
# Gives them back; only their addresses are used.
cdef void put(BufferPool *pool, iovec *iov, int n) noexcept nogil
# Takes them out of use for good: a device that did not answer may still write to them.
cdef void lose(BufferPool *pool, int n) noexcept nogil


cdef class PollerBuffers:
    cdef BufferPool pool
    cdef object memory
    cdef uint64_t address
