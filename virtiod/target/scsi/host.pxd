# The targets and LUNs of the embedded SCSI target, and what its queues tell each other.
from libc.stdint cimport uint32_t, uint64_t

from virtiod.target.scsi.lun cimport ScsiTarget
from virtiod.core.types cimport PollerCore
from virtiod.virtio.scsi cimport CMD_HEADER

cdef enum:
    MAX_TARGETS = 256
    MAX_QUEUES = 64
    MAX_CDB = 255
    MAX_REQUEST = CMD_HEADER + MAX_CDB  # bytes before the data
    NO_LUN = 0xffffffff

# A task management function that the control queue has every request queue look at. Written by the control queue
# before sequence, which the request queues read.
cdef struct Tmf:
    uint64_t sequence
    uint64_t tag
    uint64_t matched       # tasks found; any queue adds
    uint32_t subtype       # a TmfType
    uint32_t target
    uint32_t number

cdef struct ScsiHost

# A request queue's part of the host. Outlives the ring.
ctypedef ScsiLink *ScsiLinkPtr
cdef struct ScsiLink:
    ScsiHost *host
    PollerCore *poller     # NULL: the queue does not run
    uint64_t seen          # sequence of the last task management function that it has dealt with
    uint64_t purged        # likewise, of purge

ctypedef ScsiHost *ScsiHostPtr
cdef struct ScsiHost:
    ScsiTarget *targets[MAX_TARGETS]
    ScsiLink links[MAX_QUEUES]
    Tmf tmf
    uint64_t purge         # raised when a LUN was removed: what is held for it has to end
    uint32_t cdb_size
    uint32_t sense_size

cdef uint32_t lun_number(unsigned char *lun) noexcept nogil
cdef ScsiTarget *host_target(ScsiHost *h, unsigned char *lun) noexcept nogil
cdef void host_wake(ScsiHost *h) noexcept nogil


cdef class TargetHost:
    cdef ScsiHost *host
    cdef dict kept
