# Lines of text that end in a counter.
from libc.stdint cimport uint64_t

cdef char *put_number(char *at, uint64_t value) noexcept nogil
