# What the SCSI standards number: commands, statuses, sense data (SPC-4, SBC-3, SAM-5).
cdef enum Opcode:
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

# Of a CDB's byte 1
cdef enum CdbFlag:
    FUA = 0x08             # READ, WRITE
    WRITE_SAME_UNMAP = 0x08

# SAM-5 §5.3.1
cdef enum Status:
    GOOD = 0x00
    CHECK_CONDITION = 0x02
    CONDITION_MET = 0x04
    BUSY = 0x08
    TASK_SET_FULL = 0x28
    TASK_ABORTED = 0x40

# SPC-4 §4.5.6
cdef enum SenseKey:
    NO_SENSE = 0x0
    RECOVERED_ERROR = 0x1
    NOT_READY = 0x2
    MEDIUM_ERROR = 0x3
    ILLEGAL_REQUEST = 0x5
    UNIT_ATTENTION = 0x6
    DATA_PROTECT = 0x7
    ABORTED_COMMAND = 0xb
    VOLUME_OVERFLOW = 0xd

# Additional sense code << 8 | its qualifier, SPC-4 annex F
cdef enum Asc:
    NO_ADDITIONAL_SENSE = 0x0000
    BECOMING_READY = 0x0401
    INITIALIZING_COMMAND_REQUIRED = 0x0402
    WRITE_ERROR = 0x0c00
    UNRECOVERED_READ_ERROR = 0x1100
    PARAMETER_LIST_LENGTH_ERROR = 0x1a00
    INVALID_OPCODE = 0x2000
    LBA_OUT_OF_RANGE = 0x2100
    INVALID_FIELD_IN_CDB = 0x2400
    LUN_NOT_SUPPORTED = 0x2500
    INVALID_FIELD_IN_PARAMETER_LIST = 0x2600
    WRITE_PROTECTED = 0x2700
    SPACE_ALLOCATION_FAILED = 0x2707
    POWER_ON_OR_RESET = 0x2900
    DEVICE_RESET = 0x2903
    CAPACITY_CHANGED = 0x2a09
    SAVING_NOT_SUPPORTED = 0x3900
    REPORTED_LUNS_CHANGED = 0x3f0e

cdef enum:
    UNMAP_HEADER = 8       # bytes of UNMAP's parameter list before its ranges, SBC-3 §5.28
    UNMAP_RANGE = 16       # bytes of each
    MAX_RANGE_BLOCKS = 0xffffffff  # of one range
