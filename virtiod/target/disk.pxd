# What a target's disk keeps its blocks in.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from virtiod.core.types cimport iovec

cdef enum DiskKind:
    NOTHING = 0            # takes all, keeps none of it
    MEMORY = 1
    FILE = 2

cdef enum SectorState:
    ABSENT = 0             # from the file
    CLEAN = 1              # in the cache, and flushed
    DIRTY = 2

cdef enum:
    SECTOR_SHIFT = 9

ctypedef Disk *DiskPtr
cdef struct Disk:
    uint64_t size          # bytes
    char *memory
    int fd
    char *cache            # of a FILE, volatile: what was written is only here until a flush; NULL: none
    uint8_t *state         # a SectorState for each sector of it
    uint32_t flushing
    uint8_t kind           # a DiskKind
    uint8_t read_only

# All ranges are inside the disk: the caller has looked. 0 or -EIO.
cdef int read(Disk *d, uint64_t offset, uint64_t total, iovec *v, uint32_t n) noexcept nogil
cdef int write(Disk *d, uint64_t offset, uint64_t total, iovec *v, uint32_t n) noexcept nogil
cdef int zero(Disk *d, uint64_t offset, uint64_t length) noexcept nogil
cdef int flush(Disk *d) noexcept nogil


cdef class TargetDisk:
    cdef Disk disk
    cdef object keep
    cdef object cache

# ---- private: for the module itself
cdef int _cached_read(Disk *d, uint64_t offset, iovec *v, uint32_t n) noexcept nogil
cdef int _write_back(Disk *d) noexcept nogil
cdef void _note(Disk *d, uint64_t offset, uint64_t length) noexcept nogil
