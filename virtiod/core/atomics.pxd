# Memory order as inline C, callable from nogil code.
#
# load_* is an acquire load, store_* a release store, relaxed_* orders nothing, fence is a full (store-load) barrier.
# Everything that a device or another thread may write is read through these, exactly once.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef VIRTIOD_ATOMICS
    #define VIRTIOD_ATOMICS
    #include <stdint.h>
    static inline uint8_t vd_load_u8(const void *p) { return __atomic_load_n((const uint8_t *)p, __ATOMIC_ACQUIRE); }
    static inline uint16_t vd_load_u16(const void *p) { return __atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE); }
    static inline uint32_t vd_load_u32(const void *p) { return __atomic_load_n((const uint32_t *)p, __ATOMIC_ACQUIRE); }
    static inline uint64_t vd_load_u64(const void *p) { return __atomic_load_n((const uint64_t *)p, __ATOMIC_ACQUIRE); }
    static inline void *vd_load_ptr(const void *p) { return __atomic_load_n((void *const *)p, __ATOMIC_ACQUIRE); }
    static inline uint64_t vd_relaxed_u64(const void *p) { return __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED); }
    static inline void vd_store_u8(void *p, uint8_t v) { __atomic_store_n((uint8_t *)p, v, __ATOMIC_RELEASE); }
    static inline void vd_store_u16(void *p, uint16_t v) { __atomic_store_n((uint16_t *)p, v, __ATOMIC_RELEASE); }
    static inline void vd_store_u32(void *p, uint32_t v) { __atomic_store_n((uint32_t *)p, v, __ATOMIC_RELEASE); }
    static inline void vd_store_u64(void *p, uint64_t v) { __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELEASE); }
    static inline void vd_store_ptr(void *p, void *v) { __atomic_store_n((void **)p, v, __ATOMIC_RELEASE); }
    static inline void *vd_exchange_ptr(void *p, void *v) { return __atomic_exchange_n((void **)p, v, __ATOMIC_ACQ_REL); }
    static inline int vd_cas_ptr(void *p, void *expected, void *v) {
        return __atomic_compare_exchange_n((void **)p, &expected, v, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    }
    static inline uint32_t vd_fetch_and_u32(void *p, uint32_t v) { return __atomic_fetch_and((uint32_t *)p, v, __ATOMIC_ACQ_REL); }
    static inline uint32_t vd_fetch_or_u32(void *p, uint32_t v) { return __atomic_fetch_or((uint32_t *)p, v, __ATOMIC_ACQ_REL); }
    static inline uint64_t vd_fetch_add_u64(void *p, uint64_t v) { return __atomic_fetch_add((uint64_t *)p, v, __ATOMIC_ACQ_REL); }
    static inline void vd_raise_u64(void *p, uint64_t v) {
        uint64_t old = __atomic_load_n((uint64_t *)p, __ATOMIC_RELAXED);
        while (old < v && !__atomic_compare_exchange_n((uint64_t *)p, &old, v, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {}
    }
    /* A device register: one store of this width, after all that was stored to memory before it is visible there. */
    static inline void vd_mmio_store_u16(uint64_t at, uint16_t v) {
    #if defined(__aarch64__)
        __asm__ __volatile__("dmb oshst" ::: "memory");
    #else
        __atomic_thread_fence(__ATOMIC_RELEASE);
    #endif
        *(volatile uint16_t *)(uintptr_t)at = v;
    }
    static inline void vd_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
    static inline void vd_pause(void) {
    #if defined(__x86_64__)
        __builtin_ia32_pause();
    #elif defined(__aarch64__)
        __asm__ __volatile__("yield");
    #endif
    }
    #endif
    """
    uint8_t load_u8 "vd_load_u8" (const void *p) noexcept nogil
    uint16_t load_u16 "vd_load_u16" (const void *p) noexcept nogil
    uint32_t load_u32 "vd_load_u32" (const void *p) noexcept nogil
    uint64_t load_u64 "vd_load_u64" (const void *p) noexcept nogil
    void *load_ptr "vd_load_ptr" (const void *p) noexcept nogil
    uint64_t relaxed_u64 "vd_relaxed_u64" (const void *p) noexcept nogil
    void store_u8 "vd_store_u8" (void *p, uint8_t v) noexcept nogil
    void store_u16 "vd_store_u16" (void *p, uint16_t v) noexcept nogil
    void store_u32 "vd_store_u32" (void *p, uint32_t v) noexcept nogil
    void store_u64 "vd_store_u64" (void *p, uint64_t v) noexcept nogil
    void store_ptr "vd_store_ptr" (void *p, void *v) noexcept nogil
    void *exchange_ptr "vd_exchange_ptr" (void *p, void *v) noexcept nogil
    bint cas_ptr "vd_cas_ptr" (void *p, void *expected, void *v) noexcept nogil
    uint32_t fetch_and_u32 "vd_fetch_and_u32" (void *p, uint32_t v) noexcept nogil
    uint32_t fetch_or_u32 "vd_fetch_or_u32" (void *p, uint32_t v) noexcept nogil
    uint64_t fetch_add_u64 "vd_fetch_add_u64" (void *p, uint64_t v) noexcept nogil
    # To v, unless it is more already.
    void raise_u64 "vd_raise_u64" (void *p, uint64_t v) noexcept nogil
    void mmio_store_u16 "vd_mmio_store_u16" (uint64_t at, uint16_t v) noexcept nogil
    void fence "vd_fence" () noexcept nogil
    void pause "vd_pause" () noexcept nogil
