# What a target's disk keeps its blocks in; how it works is in devdisk.py.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from virtiod.core.types cimport iovec

cdef enum:
    DISK_NULL = 0
    DISK_MEMORY = 1
    DISK_FILE = 2

ctypedef Disk *DiskPtr
cdef struct Disk:
    uint64_t size          # bytes
    char *memory
    int fd
    uint8_t kind
    uint8_t read_only

# All ranges are inside the disk: the caller has looked. 0 or -EIO.
cdef int disk_read(Disk *d, uint64_t offset, uint64_t total, iovec *v, uint32_t n) noexcept nogil
cdef int disk_write(Disk *d, uint64_t offset, uint64_t total, iovec *v, uint32_t n) noexcept nogil
cdef int disk_zero(Disk *d, uint64_t offset, uint64_t length) noexcept nogil
cdef int disk_flush(Disk *d) noexcept nogil


cdef class TargetDisk:
    cdef Disk disk
    cdef object keep
