# Kicks and interrupts of a request queue.
from virtiod.core.types cimport Source

# Source.flush, .arm, .disarm
cdef void flush(Source *s) noexcept nogil
cdef bint arm(Source *s) noexcept nogil
cdef void disarm(Source *s) noexcept nogil
