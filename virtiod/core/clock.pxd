# The clock that all times of the data plane are taken from.
from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #ifndef VIRTIOD_CLOCK
    #define VIRTIOD_CLOCK
    #include <stdint.h>
    #include <time.h>
    static inline uint64_t vd_monotonic_ns(void) {
        struct timespec ts;
        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
    }
    #endif
    """
    uint64_t monotonic_ns "vd_monotonic_ns" () noexcept nogil

ctypedef uint64_t (*clock_fn)() noexcept nogil
# A pointer, so that a simulation can have its own time; it is set while nothing runs.
cdef clock_fn now_ns

# ---- private: for the module itself
cdef uint64_t _monotonic() noexcept nogil
