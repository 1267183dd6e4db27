# Sense data: the one decoder and the one encoder (SPC-4 §4.5).
from libc.stdint cimport uint8_t, uint16_t, uint32_t

ctypedef SenseData *SenseDataPtr
cdef struct SenseData:
    uint8_t key            # a SenseKey
    uint16_t asc           # an Asc, 0 when not given
    uint8_t deferred       # about an earlier command

# Parses fixed and descriptor format, current and deferred; false for anything else. It uses the first 14 bytes.
cdef bint decode(unsigned char *data, uint32_t length, SenseData *found) noexcept nogil
# Whether the command was done, whatever else its sense data tells (SPC-4 §4.5.6).
cdef bint is_success(uint8_t key) noexcept nogil
# Whether a unit attention with this Asc may mean that another disk is there now: a medium that may have changed, power on
# or reset, other INQUIRY data, other LUNs.
cpdef bint may_be_another(uint16_t asc) noexcept nogil

# Whether, even if it is the same disk, its volatile cache may have lost what it held. (A reset that only ends commands
# keeps the cache, but many targets tell no difference.)
cpdef bint may_lose_cache(uint16_t asc) noexcept nogil

# Writes current sense data to `to`, which has room for FIXED_SENSE bytes; returns its length in bytes.
cdef uint32_t encode(unsigned char *to, uint8_t key, uint16_t asc, bint descriptor) noexcept nogil
