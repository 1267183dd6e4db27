# virtio-scsi requests and events (virtio 1.2 §5.6.6), as driver and device see them. Plain code has the numbers as
# virtiod.virtio.scsi.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cpdef enum:
    CDB_ROOM = 64          # the longest CDB that virtiod asks a device for
    SENSE_ROOM = 252       # the longest sense data
    CMD_HEADER = 19        # bytes of struct virtio_scsi_cmd_req before its CDB
    RESP_HEADER = 12       # bytes of struct virtio_scsi_cmd_resp before its sense
    NO_RESPONSE = 0xff     # what a driver writes first: no device answers it

# §5.6.6.1 task_attr
cpdef enum TaskAttribute:
    SIMPLE = 0

# §5.6.6.1, §5.6.6.2
cpdef enum Response:
    OK = 0                 # of a task management function: complete
    OVERRUN = 1
    ABORTED = 2
    BAD_TARGET = 3
    RESET = 4
    BUSY = 5
    TRANSPORT_FAILURE = 6
    TARGET_FAILURE = 7
    NEXUS_FAILURE = 8
    FAILURE = 9
    FUNCTION_SUCCEEDED = 10
    FUNCTION_REJECTED = 11
    INCORRECT_LUN = 12

# §5.6.6.2 type
cpdef enum ControlType:
    TMF = 0
    AN_QUERY = 1
    AN_SUBSCRIBE = 2

# §5.6.6.2 subtype
cpdef enum TmfType:
    ABORT_TASK = 0
    ABORT_TASK_SET = 1
    CLEAR_ACA = 2
    CLEAR_TASK_SET = 3
    I_T_NEXUS_RESET = 4
    LOGICAL_UNIT_RESET = 5
    QUERY_TASK = 6
    QUERY_TASK_SET = 7

# §5.6.6.3 event: an EventType and, perhaps, this
cpdef enum EventFlag:
    EVENTS_MISSED = 0x80000000

cpdef enum EventType:
    NO_EVENT = 0
    TRANSPORT_RESET = 1
    ASYNC_NOTIFY = 2
    PARAM_CHANGE = 3

# §5.6.6.3 reason of a TRANSPORT_RESET
cpdef enum ResetReason:
    HARD = 0
    RESCAN = 1
    REMOVED = 2

# struct virtio_scsi_cmd_req; the device's cdb_size says how long cdb is
ctypedef CmdReq *CmdReqPtr
cdef packed struct CmdReq:
    uint64_t lun
    uint64_t id
    uint8_t task_attr
    uint8_t prio
    uint8_t crn
    unsigned char cdb[CDB_ROOM]

# struct virtio_scsi_cmd_resp; the device's sense_size says how long sense is
ctypedef CmdResp *CmdRespPtr
cdef packed struct CmdResp:
    uint32_t sense_len
    uint32_t resid
    uint16_t status_qualifier
    uint8_t status
    uint8_t response
    unsigned char sense[SENSE_ROOM]

# What the driver writes of struct virtio_scsi_ctrl_tmf, and the device of it
ctypedef TmfReq *TmfReqPtr
cdef packed struct TmfReq:
    uint32_t type
    uint32_t subtype
    uint64_t lun
    uint64_t id

cdef packed struct TmfResp:
    uint8_t response

# struct virtio_scsi_ctrl_an, likewise
ctypedef AnReq *AnReqPtr
cdef packed struct AnReq:
    uint32_t type
    uint64_t lun
    uint32_t event_requested

cdef packed struct AnResp:
    uint32_t event_actual
    uint8_t response

# struct virtio_scsi_event
cdef packed struct Event:
    uint32_t event
    uint64_t lun
    uint32_t reason
