# What the processor does with the bits of a number.
from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef VIRTIOD_BITS
    #define VIRTIOD_BITS
    #include <stdint.h>
    static inline int vd_log2(uint64_t v) { return 63 - __builtin_clzll(v | 1); }
    static inline uint16_t vd_swap16(uint16_t v) { return __builtin_bswap16(v); }
    static inline uint32_t vd_swap32(uint32_t v) { return __builtin_bswap32(v); }
    static inline uint64_t vd_swap64(uint64_t v) { return __builtin_bswap64(v); }
    #endif
    """
    # The index of the highest bit that is set; 0 for 0.
    int log2 "vd_log2" (uint64_t v) noexcept nogil
    # The bytes in the other order.
    uint16_t swap16 "vd_swap16" (uint16_t v) noexcept nogil
    uint32_t swap32 "vd_swap32" (uint32_t v) noexcept nogil
    uint64_t swap64 "vd_swap64" (uint64_t v) noexcept nogil
