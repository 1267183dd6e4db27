# Where latencies are counted: the geometry of histograms. Inline, because each I/O that ends passes here.
from libc.stdint cimport uint64_t

from virtiod.core cimport bits
from virtiod.core.types cimport HIST_BUCKETS, HIST_SUB_BITS


# The place of a value among buckets of which 2^sub_bits make a range: range 0 holds the values below 2^sub_bits, one
# each; range r >= 1 those from 2^(sub_bits + r - 1) up to twice that, in buckets of 2^(r - 1) values.
cdef inline uint64_t place(uint64_t value, int sub_bits) noexcept nogil:
    cdef int shift
    if value >> sub_bits == 0:
        return value
    shift = bits.log2(value) - sub_bits
    return (<uint64_t>(shift + 1) << sub_bits) + (value >> shift) - (<uint64_t>1 << sub_bits)


# The bucket that a latency is counted in; the last one has all that is longer, too.
cdef inline unsigned int bucket(uint64_t ns) noexcept nogil:
    cdef uint64_t index = place(ns, HIST_SUB_BITS)
    return <unsigned int>index if index < HIST_BUCKETS else HIST_BUCKETS - 1
