# The clock that all times of the data plane are taken from.
from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #ifndef VIRTIOD_CLOCK
    #define VIRTIOD_CLOCK
    #include <stdint.h>
    #include <time.h>
    static inline uint64_t vd_now_ns(void) {
        struct timespec ts;
        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
    }
    #endif
    """
    uint64_t now_ns "vd_now_ns" () noexcept nogil
