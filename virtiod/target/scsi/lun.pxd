# The embedded target's SCSI logical units.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from virtiod.target.disk cimport Disk, TargetDisk

cdef enum:
    MAX_LUNS = 256         # of a target
    LUN_LIST = 8 + 8 * MAX_LUNS  # bytes of REPORT LUNS data
    MAX_PAGES = 32

# Unit attentions that wait to be told, lowest bit first.
cdef enum Attention:
    POWER_ON = 1
    RESET = 2
    CAPACITY = 4
    LUNS = 8

# An answer that the control plane prepared: INQUIRY (code: the page) and MODE SENSE (code: byte 2 of the CDB).
cdef struct Page:
    uint8_t opcode
    uint8_t evpd
    uint8_t code
    uint32_t length
    unsigned char *data

# What a fault does to a command, in place of carrying it out if nothing else is said.
cdef enum Fault:
    NONE = 0
    SENSE = 1              # CHECK CONDITION with key, asc; sense_length cuts it off. Of a success: after the command
    STATUS = 2             # value as SCSI status: BUSY, TASK SET FULL ...
    RESPONSE = 3           # value as virtio response
    SILENCE = 4            # never completes, unless it is aborted
    DEATH = 5              # SIGKILL
    USED_ID = 6            # a used id that is not in flight
    USED_INDEX = 7         # a used index far ahead
    NO_RESPONSE = 8        # completes without a byte written

ctypedef LunFault *LunFaultPtr
cdef struct LunFault:
    uint32_t kind          # a Fault; written last
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
    uint8_t deferred       # sense of an earlier command
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
    uint32_t attention     # Attention
    uint32_t stopped
    uint32_t max_transfer  # blocks of one READ or WRITE
    uint32_t max_unmap     # blocks of one UNMAP, all descriptors
    uint32_t max_descriptors
    uint32_t max_same      # blocks of one WRITE SAME
    uint32_t n_pages
    Page pages[MAX_PAGES]
    LunFault fault

ctypedef ScsiTarget *ScsiTargetPtr
cdef struct ScsiTarget:
    uint32_t n             # slots in use; a slot is NULL when its LUN was removed
    uint32_t silent        # answers nothing at all
    ScsiLun *luns[MAX_LUNS]

cdef ScsiLun *target_lun(ScsiTarget *t, uint32_t number) noexcept nogil

cdef uint16_t lun_attention(ScsiLun *lun) noexcept nogil


cdef class TargetLun:
    cdef ScsiLun lun
    cdef readonly TargetDisk disk
    cdef object keep
