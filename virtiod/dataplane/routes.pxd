# Which request queue serves which channel; more is in routes.py.
from virtiod.dataplane.channel cimport BdevChannels
from virtiod.dataplane.ioqueue cimport Route
from virtiod.dataplane.request_queue cimport RequestQueue
from virtiod.dataplane.structs cimport UnitShare


cdef class Routes:
    cdef Route *routes
    cdef UnitShare *shares
    cdef int count
    cdef list queues
