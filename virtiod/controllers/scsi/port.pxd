# What a request queue of a virtio-scsi controller knows and reports of its requests.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from virtiod.core.types cimport BdevCore, Message
from virtiod.virtio.scsi cimport CDB_ROOM, SENSE_ROOM
from virtiod.virtqueue.queue cimport IoQueue

# A slot's area: command, response, UNMAP's list. 48 bytes of descriptors are before it. With the usual sizes all that a
# READ or WRITE touches is in two cache lines; the sense, that is looked at after an error only, begins at the end of the
# second.
cdef enum:
    USUAL_CDB = 32         # bytes: what devices ask for, and no less is written
    RESPONSE_AT = 56       # where the response is in a slot's area, unless CDBs are long
    MAX_UNMAP_RANGES = 4
    MAX_REPORTS = 32
    MAX_OVERDUE = 64
    MAX_SILENT = 64

# A command of the control plane. Owned by a ScsiCall.
ctypedef Call *CallPtr
cdef struct Call:
    uint64_t lun
    BdevCore *bdev         # of the unit, which the answer may put in doubt; NULL: it has none
    uint64_t id            # of the request, 0 before there was one
    unsigned char cdb[CDB_ROOM]
    uint64_t data          # address, in DMA memory
    uint32_t length
    uint8_t response
    uint8_t status
    uint32_t resid
    uint32_t sense_len
    unsigned char sense[SENSE_ROOM]

# Something that the control plane should know; equal reports are counted, not repeated.
ctypedef Report *ReportPtr
cdef struct Report:
    uint64_t unit
    uint64_t offset        # of the first, bytes
    uint64_t count
    uint32_t cause         # a Cause, with what goes with it
    uint32_t op

# What a slot's request was told as.
ctypedef Tag *TagPtr
cdef struct Tag:
    uint64_t id
    uint8_t aborted        # by us: its I/O was overdue
    uint8_t confirming     # a flush was done: it counts when all queues have been heard
    uint64_t round         # of Port.round, when it was done
    uint64_t doubts        # of the disk's identity, then

# Another queue of the controller, as seen from the queue of a Port: what it was answered has to be heard before a flush
# counts. Owned by the Port's queue; by the other one while it is under way.
ctypedef Sibling *SiblingPtr
cdef struct Sibling:
    Message msg
    IoQueue *queue
    uint64_t asked         # the round that it is under way for
    uint64_t heard         # the last round before which all its answers were judged
    uint8_t under_way

# A queue's own: IoQueue.kind points to it.
ctypedef Port *PortPtr
cdef struct Port:
    uint32_t cdb_size
    uint32_t sense_size
    uint32_t response_at   # where things are in an area
    uint32_t unmap_at
    uint64_t retry_ns      # an I/O older than this is not retried any more
    uint64_t next_id
    Tag *tags
    Sibling *siblings
    uint32_t n_siblings
    uint64_t round         # counts the flushes that wait for them
    uint32_t n_reports
    uint8_t announced      # the control plane was told that there are reports
    Message event
    Report reports[MAX_REPORTS]
