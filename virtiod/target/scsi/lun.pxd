# The embedded target's SCSI logical units, and a command while one carries it out; more is in devlun.py.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from virtiod.target.disk cimport Disk, TargetDisk
from virtiod.target.ring cimport DevRing
from virtiod.core.types cimport iovec

cdef enum:
    MAX_LUNS = 256         # of a target
    MAX_PAGES = 32

# SAM-5 §5.3.1
cdef enum:
    STATUS_GOOD = 0x00
    STATUS_CHECK_CONDITION = 0x02

# SPC-4 §4.5.6
cdef enum:
    KEY_NO_SENSE = 0x0
    KEY_NOT_READY = 0x2
    KEY_MEDIUM_ERROR = 0x3
    KEY_ILLEGAL_REQUEST = 0x5
    KEY_UNIT_ATTENTION = 0x6
    KEY_DATA_PROTECT = 0x7

# asc << 8 | ascq, SPC-4 annex F
cdef enum:
    ASC_NONE = 0x0000
    ASC_STOPPED = 0x0402
    ASC_WRITE_ERROR = 0x0c00
    ASC_READ_ERROR = 0x1100
    ASC_LIST_LENGTH = 0x1a00
    ASC_OPCODE = 0x2000
    ASC_RANGE = 0x2100
    ASC_CDB_FIELD = 0x2400
    ASC_LUN = 0x2500
    ASC_LIST_FIELD = 0x2600
    ASC_PROTECTED = 0x2700
    ASC_POWER_ON = 0x2900
    ASC_RESET = 0x2903
    ASC_CAPACITY = 0x2a09
    ASC_NOT_SAVED = 0x3900
    ASC_LUNS = 0x3f0e

# Unit attentions that wait to be told, lowest bit first.
cdef enum:
    ATTENTION_POWER_ON = 1
    ATTENTION_RESET = 2
    ATTENTION_CAPACITY = 4
    ATTENTION_LUNS = 8

cdef enum:
    RESPONSE_OK = 0        # virtio 1.2 §5.6.6.1
    RESPONSE_OVERRUN = 1

# SPC-4 §6, SBC-3 §5
cdef enum:
    TEST_UNIT_READY = 0x00
    REQUEST_SENSE = 0x03
    READ_6 = 0x08
    WRITE_6 = 0x0a
    INQUIRY = 0x12
    MODE_SENSE_6 = 0x1a
    START_STOP_UNIT = 0x1b
    READ_CAPACITY_10 = 0x25
    READ_10 = 0x28
    WRITE_10 = 0x2a
    SYNCHRONIZE_CACHE_10 = 0x35
    WRITE_SAME_10 = 0x41
    UNMAP = 0x42
    MODE_SENSE_10 = 0x5a
    READ_16 = 0x88
    WRITE_16 = 0x8a
    SYNCHRONIZE_CACHE_16 = 0x91
    WRITE_SAME_16 = 0x93
    SERVICE_ACTION_IN_16 = 0x9e
    REPORT_LUNS = 0xa0
    READ_12 = 0xa8
    WRITE_12 = 0xaa

# An answer that the control plane prepared: INQUIRY (code: the page) and MODE SENSE (code: byte 2 of the CDB).
cdef struct Page:
    uint8_t opcode
    uint8_t evpd
    uint8_t code
    uint32_t length
    unsigned char *data

# What a fault does to a command in place of carrying it out.
cdef enum:
    SCSI_FAULT_NONE = 0
    SCSI_FAULT_SENSE = 1       # CHECK CONDITION with key, asc; sense_length cuts it off
    SCSI_FAULT_STATUS = 2      # value as SCSI status: BUSY, TASK SET FULL ...
    SCSI_FAULT_RESPONSE = 3    # value as virtio response
    SCSI_FAULT_SILENCE = 4     # never completes, unless it is aborted
    SCSI_FAULT_DEATH = 5       # SIGKILL
    SCSI_FAULT_USED_ID = 6     # a used id that is not in flight
    SCSI_FAULT_USED_INDEX = 7  # a used index far ahead
    SCSI_FAULT_NO_RESPONSE = 8 # completes without a byte written

ctypedef LunFault *LunFaultPtr
cdef struct LunFault:
    uint32_t kind          # written last
    uint32_t opcode        # of the commands that count; ANY_OPCODE: all
    uint64_t seen          # commands that counted, since it was set
    uint64_t after
    uint64_t every
    uint64_t times         # spoils so many, 0: no end
    uint64_t spoiled
    uint64_t delay_ns      # of each completion
    uint16_t asc
    uint8_t key
    uint8_t value
    uint8_t descriptor     # sense in descriptor format
    uint32_t sense_length  # of what is told

cdef enum:
    ANY_OPCODE = 0x100

# A logical unit. All pollers read it; the pollers write attention, stopped and the fault's counts, the control plane
# the rest.
ctypedef ScsiLun *ScsiLunPtr
cdef struct ScsiLun:
    Disk *disk
    uint32_t number
    uint32_t shift         # block size as a power of two
    uint32_t attention
    uint32_t stopped
    uint32_t max_transfer  # blocks of one READ or WRITE
    uint32_t max_unmap     # blocks of one UNMAP, all descriptors
    uint32_t max_descriptors
    uint32_t max_same      # blocks of one WRITE SAME
    uint32_t n_pages
    Page pages[32]
    LunFault fault

ctypedef ScsiTarget *ScsiTargetPtr
cdef struct ScsiTarget:
    uint32_t n             # slots in use; a slot is NULL when its LUN was removed
    uint32_t silent        # answers nothing at all
    ScsiLun *luns[256]

# A command while it is carried out. Its data is q.out[first..] and into[0..n_in).
ctypedef ScsiTask *ScsiTaskPtr
cdef struct ScsiTask:
    DevRing *q
    ScsiTarget *target
    ScsiLun *lun           # NULL: there is none of that number
    unsigned char *cdb
    uint32_t first
    uint32_t n_in
    iovec *into
    uint64_t out_bytes
    uint64_t in_bytes
    uint64_t moved         # bytes of data, in or out
    uint8_t response
    uint8_t status
    uint8_t key
    uint16_t asc
    uint8_t descriptor     # sense in descriptor format
    uint32_t sense_length  # at most so much of it is told

cdef ScsiLun *target_lun(ScsiTarget *t, uint32_t number) noexcept nogil
cdef void task_check(ScsiTask *t, uint8_t key, uint16_t asc) noexcept nogil
cdef bint task_attention(ScsiTask *t) noexcept nogil

cdef uint32_t task_trim(iovec *v, uint32_t n, uint64_t total) noexcept nogil
cdef void task_reply(ScsiTask *t, unsigned char *data, uint64_t n, uint64_t allocated) noexcept nogil
cdef uint16_t lun_attention(ScsiLun *lun) noexcept nogil


cdef class TargetLun:
    cdef ScsiLun lun
    cdef readonly TargetDisk disk
    cdef object keep
