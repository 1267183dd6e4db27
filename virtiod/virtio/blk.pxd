# virtio-blk requests (virtio 1.2 §5.2.6), as driver and device see them.
from libc.stdint cimport uint32_t, uint64_t

cdef enum RequestType:
    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8
    DISCARD = 11
    WRITE_ZEROES = 13

cdef enum Status:
    OK = 0
    IOERR = 1
    UNSUPP = 2

cdef enum RangeFlag:
    MAY_UNMAP = 1          # of WRITE_ZEROES: VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP

cdef enum:
    NO_STATUS = 0xff       # what a driver writes first: no device answers it
    ID_BYTES = 20
    SECTOR_SHIFT = 9       # offsets and lengths count sectors of 512 bytes

# struct virtio_blk_req before its data
cdef packed struct BlkHeader:
    uint32_t type
    uint32_t reserved
    uint64_t sector

# struct virtio_blk_discard_write_zeroes
cdef packed struct BlkRange:
    uint64_t sector
    uint32_t sectors
    uint32_t flags         # RangeFlag
