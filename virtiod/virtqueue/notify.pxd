# Kicks and interrupts of a request queue; how they work is in ioqueue_notify.py.
from virtiod.core.types cimport Source

# Source.flush, .arm, .disarm
cdef void ioqueue_flush(Source *s) noexcept nogil
cdef bint ioqueue_arm(Source *s) noexcept nogil
cdef void ioqueue_disarm(Source *s) noexcept nogil
