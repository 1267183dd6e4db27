# Where an I/O that ends is counted. Inline, because each passes here.
from libc.errno cimport EINVAL, EIO, ENODEV, ENOSPC, EOPNOTSUPP, EPERM, ETIMEDOUT
from libc.stdint cimport UINT64_MAX, uint64_t

from virtiod.bdev cimport histogram
from virtiod.core.types cimport ErrorClass, OpStats


cdef inline int error_class(int status) noexcept nogil:
    if status == -EIO:
        return ErrorClass.IO
    if status == -ENOSPC:
        return ErrorClass.NOSPC
    if status == -EINVAL:
        return ErrorClass.INVAL
    if status == -EPERM:
        return ErrorClass.PERM
    if status == -EOPNOTSUPP:
        return ErrorClass.NOTSUP
    if status == -ETIMEDOUT:
        return ErrorClass.TIMEOUT
    if status == -ENODEV:
        return ErrorClass.NODEV
    return ErrorClass.OTHER


# Before the first I/O, with the rest of s all 0.
cdef inline void begin(OpStats *s) noexcept nogil:
    s.min_ns = UINT64_MAX
    s.failed_min_ns = UINT64_MAX


# The poller that owns s: an I/O of length bytes has ended with status (0 or -errno) after ns.
cdef inline void count(OpStats *s, int status, uint64_t length, uint64_t ns) noexcept nogil:
    if status == 0:
        s.completed += 1
        s.bytes += length
        s.time_ns += ns
        if ns < s.min_ns:
            s.min_ns = ns
        if ns > s.max_ns:
            s.max_ns = ns
    else:
        s.failed += 1
        s.errors[error_class(status)] += 1
        s.failed_ns += ns
        if ns < s.failed_min_ns:
            s.failed_min_ns = ns
        if ns > s.failed_max_ns:
            s.failed_max_ns = ns
    s.buckets[histogram.bucket(ns)] += 1
