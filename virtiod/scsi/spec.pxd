# What the SCSI standards number: commands, statuses, sense data, pages (SPC-4, SBC-3, SAM-5). Plain code has the same as
# virtiod.scsi.spec.
cpdef enum Opcode:
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

# Of SERVICE ACTION IN(16): byte 1, without its upper bits
cpdef enum ServiceAction:
    READ_CAPACITY_16 = 0x10

# Bits of a CDB: byte 1 where nothing else is said. Different commands have different ones in the same place.
cpdef enum CdbFlag:
    EVPD = 0x01              # INQUIRY: a page of the vital product data
    DESC = 0x01              # REQUEST SENSE: in descriptor format
    ANCHOR = 0x01            # UNMAP
    NDOB = 0x01              # WRITE SAME(16): no data-out buffer
    DBD = 0x08               # MODE SENSE: no block descriptors
    FUA = 0x08               # READ, WRITE
    MAY_UNMAP = 0x08         # WRITE SAME: the UNMAP bit
    PROTECT = 0xe0           # READ, WRITE: RDPROTECT, WRPROTECT
    SAME_PROTECT = 0xf0      # WRITE SAME: WRPROTECT and ANCHOR
    START = 0x01             # START STOP UNIT: byte 4

# SAM-5 §5.3.1
cpdef enum Status:
    GOOD = 0x00
    CHECK_CONDITION = 0x02
    CONDITION_MET = 0x04
    BUSY = 0x08
    RESERVATION_CONFLICT = 0x18
    TASK_SET_FULL = 0x28
    ACA_ACTIVE = 0x30
    TASK_ABORTED = 0x40

# The first byte of sense data, without its upper bit: format, and whose command it is about (SPC-4 §4.5.1)
cpdef enum SenseFormat:
    FIXED_CURRENT = 0x70
    FIXED_DEFERRED = 0x71
    DESCRIPTOR_CURRENT = 0x72
    DESCRIPTOR_DEFERRED = 0x73

# SPC-4 §4.5.6
cpdef enum SenseKey:
    NO_SENSE = 0x0
    RECOVERED_ERROR = 0x1
    NOT_READY = 0x2
    MEDIUM_ERROR = 0x3
    HARDWARE_ERROR = 0x4
    ILLEGAL_REQUEST = 0x5
    UNIT_ATTENTION = 0x6
    DATA_PROTECT = 0x7
    BLANK_CHECK = 0x8
    VENDOR_SPECIFIC = 0x9
    COPY_ABORTED = 0xa
    ABORTED_COMMAND = 0xb
    RESERVED = 0xc
    VOLUME_OVERFLOW = 0xd
    MISCOMPARE = 0xe
    COMPLETED = 0xf

# Additional sense code << 8 | its qualifier, SPC-4 annex F
cpdef enum Asc:
    NO_ADDITIONAL_SENSE = 0x0000
    NOT_READY_CAUSE_NOT_REPORTABLE = 0x0400
    BECOMING_READY = 0x0401
    INITIALIZING_COMMAND_REQUIRED = 0x0402
    FORMAT_IN_PROGRESS = 0x0404
    NO_RESPONSE_TO_SELECTION = 0x0500
    COMMUNICATION_FAILURE = 0x0800
    WRITE_ERROR = 0x0c00
    WRITE_ERROR_REALLOCATION_FAILED = 0x0c02
    CRC_OR_ECC_ERROR = 0x1000
    UNRECOVERED_READ_ERROR = 0x1100
    READ_ERROR_REALLOCATION_FAILED = 0x1104
    RECORDED_ENTITY_NOT_FOUND = 0x1400
    PARAMETER_LIST_LENGTH_ERROR = 0x1a00
    INVALID_OPCODE = 0x2000
    LBA_OUT_OF_RANGE = 0x2100
    INVALID_FIELD_IN_CDB = 0x2400
    LUN_NOT_SUPPORTED = 0x2500
    INVALID_FIELD_IN_PARAMETER_LIST = 0x2600
    WRITE_PROTECTED = 0x2700
    SPACE_ALLOCATION_FAILED = 0x2707
    NOT_READY_TO_READY = 0x2800
    POWER_ON_OR_RESET = 0x2900
    POWER_ON = 0x2901
    BUS_RESET = 0x2902
    DEVICE_RESET = 0x2903
    INTERNAL_RESET = 0x2904
    NEXUS_LOSS = 0x2907
    PARAMETERS_CHANGED = 0x2a00
    MODE_PARAMETERS_CHANGED = 0x2a01
    CAPACITY_CHANGED = 0x2a09
    CLEARED_BY_ANOTHER_INITIATOR = 0x2f00
    MEDIUM_FORMAT_CORRUPTED = 0x3100
    SAVING_NOT_SUPPORTED = 0x3900
    MEDIUM_NOT_PRESENT = 0x3a00
    INQUIRY_DATA_CHANGED = 0x3f03
    REPORTED_LUNS_CHANGED = 0x3f0e
    INTERNAL_TARGET_FAILURE = 0x4400
    PARITY_ERROR = 0x4700
    INVALID_MESSAGE = 0x4900
    DATA_PHASE_ERROR = 0x4b00
    SYSTEM_RESOURCE_FAILURE = 0x5500
    FAILURE_PREDICTION = 0x5d00

# SPC-4 §6.6.2: the upper and the lower bits of the first byte of INQUIRY data
cpdef enum PeripheralQualifier:
    CONNECTED = 0
    NOT_CAPABLE = 3          # the target has no such unit

cpdef enum PeripheralType:
    DISK = 0x00

# Vital product data, SPC-4 §7.8, SBC-3 §6.6
cpdef enum VpdPage:
    SUPPORTED_PAGES = 0x00
    UNIT_SERIAL_NUMBER = 0x80
    DEVICE_IDENTIFICATION = 0x83
    BLOCK_LIMITS = 0xb0
    BLOCK_DEVICE_CHARACTERISTICS = 0xb1
    LOGICAL_BLOCK_PROVISIONING = 0xb2

# SPC-4 §7.8.6
cpdef enum DesignatorType:
    T10_VENDOR_ID = 1
    EUI_64 = 2
    NAA = 3
    NAME_STRING = 8
    UUID = 10

# SPC-4 §7.5, SBC-3 §6.5
cpdef enum ModePage:
    CACHING = 0x08
    ALL_PAGES = 0x3f

# Bits of MODE SENSE data
cpdef enum ModeFlag:
    WCE = 0x04               # caching page, byte 2
    DPOFUA = 0x10            # device-specific parameter of a disk, SBC-3 §6.5.1
    WP = 0x80

# Bits of the logical block provisioning page, byte 5: SBC-3 §6.6.6
cpdef enum ProvisioningFlag:
    LBPRZ = 0x04
    LBPWS10 = 0x20
    LBPWS = 0x40
    LBPU = 0x80

# Bits of READ CAPACITY(16) data, byte 14: SBC-3 §5.16.2
cpdef enum CapacityFlag:
    UNMAPPED_ARE_ZEROES = 0x40   # LBPRZ
    LBPME = 0x80

cpdef enum RangeLimit:
    MAX_RANGE_BLOCKS = 0xffffffff  # of a range of UNMAP, and of WRITE SAME(16)

cpdef enum:
    UNMAP_HEADER = 8         # bytes of UNMAP's parameter list before its ranges, SBC-3 §5.28
    UNMAP_RANGE = 16         # bytes of each
    MIN_CDB = 16             # bytes of the longest commands that are used here
    FIXED_SENSE = 18         # bytes of sense data in fixed format, and in
    DESCRIPTOR_SENSE = 8     # descriptor format without descriptors
