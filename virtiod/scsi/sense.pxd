# Sense data: the one decoder and the one encoder (SPC-4 §4.5).
from libc.stdint cimport uint8_t, uint16_t, uint32_t

ctypedef SenseData *SenseDataPtr
cdef struct SenseData:
    uint8_t key            # a SenseKey
    uint16_t asc           # an Asc, 0 when not given
    uint8_t deferred       # about an earlier command

# Fixed and descriptor format, current and deferred; false for anything else. The first 14 bytes count.
cdef bint decode(unsigned char *data, uint32_t length, SenseData *found) noexcept nogil
# Current sense data into `to`, which has room for FIXED_SENSE bytes; its length.
cdef uint32_t encode(unsigned char *to, uint8_t key, uint16_t asc, bint descriptor) noexcept nogil
