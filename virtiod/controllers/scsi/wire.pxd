# virtio-scsi requests (virtio 1.2 §5.6.6.1), the commands that block I/O becomes (SBC-4), and what a queue knows of them.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from virtiod.core.types cimport Message

cdef enum:
    CDB_ROOM = 64
    USUAL_CDB = 32         # what devices ask for, and no less is written
    SENSE_ROOM = 252
    CMD_HEADER = 19        # of struct virtio_scsi_cmd_req before its CDB
    RESP_HEADER = 12       # of struct virtio_scsi_cmd_resp before its sense
    RESPONSE_AT = 56       # where the response is in a slot's area, unless CDBs are long
    UNMAP_HEADER = 8       # of UNMAP's parameter list, SBC-4 §5.36.2
    UNMAP_RANGE = 16       # each of its block descriptors
    MAX_UNMAP_RANGES = 4
    MAX_RANGE_BLOCKS = 0xffffffff
    NO_RESPONSE = 0xff
    MAX_REPORTS = 32
    MAX_OVERDUE = 64
    # operation codes
    READ_10 = 0x28
    WRITE_10 = 0x2a
    SYNCHRONIZE_CACHE_10 = 0x35
    UNMAP = 0x42
    READ_16 = 0x88
    WRITE_16 = 0x8a
    SYNCHRONIZE_CACHE_16 = 0x91
    WRITE_SAME_16 = 0x93
    CDB_FUA = 0x08         # READ, WRITE: byte 1
    CDB_UNMAP = 0x08       # WRITE SAME: byte 1
    # §5.6.6.1 response
    RESPONSE_OK = 0
    RESPONSE_ABORTED = 2
    RESPONSE_BAD_TARGET = 3
    RESPONSE_RESET = 4
    RESPONSE_BUSY = 5
    RESPONSE_TRANSPORT_FAILURE = 6
    # SAM-5 §5.3 status
    STATUS_GOOD = 0x00
    STATUS_CHECK_CONDITION = 0x02
    STATUS_CONDITION_MET = 0x04
    STATUS_BUSY = 0x08
    STATUS_TASK_SET_FULL = 0x28
    STATUS_TASK_ABORTED = 0x40
    # SPC-4 §4.5.6 sense keys
    KEY_NO_SENSE = 0
    KEY_RECOVERED = 1
    KEY_NOT_READY = 2
    KEY_ILLEGAL_REQUEST = 5
    KEY_UNIT_ATTENTION = 6
    KEY_DATA_PROTECT = 7
    KEY_ABORTED_COMMAND = 11
    KEY_VOLUME_OVERFLOW = 13
    # Report.cause: one of these, with what goes with it below
    CAUSE_RESPONSE = 0x01000000  # the response code
    CAUSE_STATUS = 0x02000000    # the status
    CAUSE_SENSE = 0x03000000     # key << 16 | asc << 8 | ascq
    CAUSE_NO_SENSE = 0x04000000  # CHECK CONDITION without usable sense
    CAUSE_SHORT = 0x05000000     # GOOD, but not all of the data

# A slot's area: command, response, UNMAP's list. 48 bytes of descriptors are before it. With the usual sizes all that a
# READ or WRITE touches is in two cache lines; the sense, that is looked at after an error only, begins at the end of the
# second.
#
# struct virtio_scsi_cmd_req; the device's cdb_size says how long cdb is
ctypedef CmdReq *CmdReqPtr
cdef packed struct CmdReq:
    uint64_t lun
    uint64_t id
    uint8_t task_attr
    uint8_t prio
    uint8_t crn
    unsigned char cdb[64]

# struct virtio_scsi_cmd_resp, at Port.response_at; the device's sense_size says how long sense is
ctypedef CmdResp *CmdRespPtr
cdef packed struct CmdResp:
    uint32_t sense_len
    uint32_t resid
    uint16_t status_qualifier
    uint8_t status
    uint8_t response
    unsigned char sense[252]

# A command of the control plane. Owned by a ScsiCall.
ctypedef Call *CallPtr
cdef struct Call:
    uint64_t lun
    uint64_t id            # of the request, 0 before there was one
    unsigned char cdb[64]
    uint64_t data          # address, in DMA memory
    uint32_t length
    uint8_t response
    uint8_t status
    uint32_t resid
    uint32_t sense_len
    unsigned char sense[252]

# Something that the control plane should know; equal ones are counted, not repeated.
ctypedef Report *ReportPtr
cdef struct Report:
    uint64_t unit
    uint64_t offset        # of the first, bytes
    uint64_t count
    uint32_t cause         # CAUSE_*
    uint32_t op

# A request that is in flight for too long.
ctypedef Overdue *OverduePtr
cdef struct Overdue:
    uint64_t unit
    uint64_t id

# What a slot's request was told as.
ctypedef Tag *TagPtr
cdef struct Tag:
    uint64_t id
    uint8_t aborted        # by us: its I/O was overdue

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
    uint32_t n_reports
    uint8_t announced      # the control plane was told that there are reports
    Message event
    Report reports[32]
