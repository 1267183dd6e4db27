# Why the data path failed or retried a command.

# One of these, with what goes with it below; 32 bits.
cdef enum Cause:
    RESPONSE = 0x01000000  # a Response
    STATUS = 0x02000000    # a Status
    SENSE = 0x03000000     # SenseKey << 16 | Asc, and perhaps
    DEFERRED = 0x00100000  # of an earlier command
    NO_SENSE = 0x04000000  # CHECK CONDITION without usable sense
    SHORT = 0x05000000     # success, but not all of the data
