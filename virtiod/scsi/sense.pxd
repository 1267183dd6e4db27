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
# Writes current sense data to `to`, which has room for FIXED_SENSE bytes; returns its length in bytes.
cdef uint32_t encode(unsigned char *to, uint8_t key, uint16_t asc, bint descriptor) noexcept nogil
