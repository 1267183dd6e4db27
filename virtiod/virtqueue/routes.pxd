# Which request queue serves which channel.
from virtiod.bdev.channel cimport BdevChannels
from virtiod.virtqueue.queue cimport Route
from virtiod.virtqueue.handle cimport RequestQueue
from virtiod.core.types cimport UnitShare


cdef class Routes:
    cdef Route *routes
    cdef UnitShare *shares
    cdef int count
    cdef list queues
