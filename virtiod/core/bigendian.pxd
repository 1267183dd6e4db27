# Numbers as SCSI has them: most significant byte first (SPC-4 §3.5), unaligned. All hosts are little-endian.
from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef VIRTIOD_BIGENDIAN
    #define VIRTIOD_BIGENDIAN
    #include <stdint.h>
    #include <string.h>
    static inline uint16_t vd_get16(const void *p) { uint16_t v; memcpy(&v, p, 2); return __builtin_bswap16(v); }
    static inline uint32_t vd_get32(const void *p) { uint32_t v; memcpy(&v, p, 4); return __builtin_bswap32(v); }
    static inline uint64_t vd_get64(const void *p) { uint64_t v; memcpy(&v, p, 8); return __builtin_bswap64(v); }
    static inline void vd_put16(void *p, uint16_t v) { v = __builtin_bswap16(v); memcpy(p, &v, 2); }
    static inline void vd_put32(void *p, uint32_t v) { v = __builtin_bswap32(v); memcpy(p, &v, 4); }
    static inline void vd_put64(void *p, uint64_t v) { v = __builtin_bswap64(v); memcpy(p, &v, 8); }
    #endif
    """
    uint16_t get16 "vd_get16" (const void *p) noexcept nogil
    uint32_t get32 "vd_get32" (const void *p) noexcept nogil
    uint64_t get64 "vd_get64" (const void *p) noexcept nogil
    void put16 "vd_put16" (void *p, uint16_t v) noexcept nogil
    void put32 "vd_put32" (void *p, uint32_t v) noexcept nogil
    void put64 "vd_put64" (void *p, uint64_t v) noexcept nogil
