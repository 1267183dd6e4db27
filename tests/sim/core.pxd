# What all parts of the simulation share: time, chance, and what was found.
from libc.stdint cimport uint64_t

# What no I/O of any device may show; FINDINGS of engine.py says it in words.
cdef enum Finding:
    NONE = 0
    TORN = 1               # block
    STRAY = 2              # block, stamp
    STALE = 3              # block, stamp
    EXCLUSIVE = 4          # block, stamp
    UNSTABLE = 5           # block, stamp
    SCRIBBLED = 6          # block, stamp
    TWICE = 7              # operation
    CHAIN = 8              # queue, head, reason
    MEMORY = 9             # queue, address
    RANGE = 10             # queue, sector, sectors
    STUCK = 11             # operation, since when, now
    UNHEARD = 12           # poller
    UNKICKED = 13          # queue
    FOREIGN = 14           # operation
    FULL = 15              # the test's own: no room for more writes
    LIED = 16              # number of the I/O, its start
    REUSED = 17            # queue, address

ctypedef Sim *SimPtr
cdef struct Sim:
    uint64_t now           # ns
    uint64_t random        # state of the generator
    uint64_t events        # beginnings and ends of I/Os so far: what came before what
    uint64_t ended         # I/Os
    uint64_t mark          # of them, at which the control plane is told
    uint64_t trace         # of all that happened: two runs of a seed have the same
    int finding            # the first one
    uint64_t facts[3]


cdef inline uint64_t draw(Sim *s) noexcept nogil:
    s.random ^= s.random >> 12
    s.random ^= s.random << 25
    s.random ^= s.random >> 27
    return s.random * <uint64_t>0x2545F4914F6CDD1D


# From 0 to n - 1.
cdef inline uint64_t below(Sim *s, uint64_t n) noexcept nogil:
    return ((draw(s) >> 32) * n) >> 32


cdef inline bint chance(Sim *s, uint64_t of_1000) noexcept nogil:
    return below(s, 1000) < of_1000


cdef inline void note(Sim *s, uint64_t what) noexcept nogil:
    s.trace = (s.trace ^ what ^ s.now) * <uint64_t>0x9E3779B97F4A7C15


cdef inline void found(Sim *s, Finding what, uint64_t a, uint64_t b, uint64_t c) noexcept nogil:
    if s.finding == Finding.NONE:
        s.finding = what
        s.facts[0] = a
        s.facts[1] = b
        s.facts[2] = c
