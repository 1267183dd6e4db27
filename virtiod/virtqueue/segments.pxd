# An I/O's data as the device addresses it.
from libc.stdint cimport uint32_t, uint64_t

from virtiod.virtqueue.queue cimport IoQueue, Slot
from virtiod.core.types cimport Io

# An address in DMA memory as the device knows it; what lies there must not go beyond the page.
cdef uint64_t to_device(IoQueue *q, uint64_t at) noexcept nogil
cdef uint32_t gather(IoQueue *q, Io *io, Slot *s, uint64_t limit) noexcept nogil
