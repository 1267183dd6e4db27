# The embedded target's virtio-scsi control and event queues.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from virtiod.target.ring cimport DeviceRing, DevRing
from virtiod.virtio.scsi cimport TmfReq
from virtiod.target.scsi.host cimport ScsiHost
from virtiod.core.types cimport Command, PollerCore, Source

# How task management functions are met.
cdef enum TmfMode:
    NORMAL = 0
    SILENT = 1                 # takes functions, answers none
    REJECTS = 2

ctypedef ScsiControl *ScsiControlPtr
cdef struct ScsiControl:
    ScsiHost *host
    uint32_t mode              # a TmfMode
    uint8_t pending            # a task management function that the request queues have yet to deal with
    uint16_t head              # its chain

ctypedef ScsiEvents *ScsiEventsPtr
cdef struct ScsiEvents:
    uint8_t missed             # there was no buffer for an event


cdef class ControlRing(DeviceRing):
    cdef ScsiControl control


cdef class EventRing(DeviceRing):
    cdef ScsiEvents events

# ---- private: for the module itself
cdef void _respond(DevRing *q, uint16_t head, uint8_t response) noexcept nogil
cdef int _begin(DevRing *q, uint16_t head, TmfReq *request) noexcept nogil
cdef bint _finished(ScsiHost *host) noexcept nogil
cdef int _serve(DevRing *q, uint16_t head, uint64_t now) noexcept nogil
cdef int _poll(Source *s, uint64_t now) noexcept nogil
cdef bint _arm(Source *s) noexcept nogil
cdef bint _tell(DevRing *q, uint32_t event, uint64_t lun, uint32_t reason) noexcept nogil
cdef int _poll_events(Source *s, uint64_t now) noexcept nogil
cdef bint _arm_events(Source *s) noexcept nogil
cdef int64_t _cmd_event(PollerCore *p, Command *c) noexcept nogil
