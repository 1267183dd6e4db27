# virtio-blk requests (virtio 1.2 §5.2.6).
from libc.stdint cimport uint32_t, uint64_t

from virtiod.virtqueue.requests cimport IoQueue
from virtiod.virtqueue.handle cimport RequestQueue

cdef enum:
    VIRTIO_BLK_T_IN = 0
    VIRTIO_BLK_T_OUT = 1
    VIRTIO_BLK_T_FLUSH = 4
    VIRTIO_BLK_T_GET_ID = 8
    VIRTIO_BLK_T_DISCARD = 11
    VIRTIO_BLK_T_WRITE_ZEROES = 13
    VIRTIO_BLK_S_OK = 0
    VIRTIO_BLK_S_IOERR = 1
    VIRTIO_BLK_S_UNSUPP = 2
    NO_STATUS = 0xff
    UNMAP_FLAG = 1
    ID_BYTES = 20

# A slot's area: the header shares a cache line with the descriptors, what the device writes has its own.
ctypedef BlkArea *BlkAreaPtr
cdef packed struct BlkArea:
    # struct virtio_blk_req, §5.2.6
    uint32_t type
    uint32_t reserved
    uint64_t sector
    unsigned char status
    unsigned char pad[7]
    # struct virtio_blk_discard_write_zeroes
    uint64_t range_sector
    uint32_t range_sectors
    uint32_t range_flags
    unsigned char id[20]

cdef int _build_blk(IoQueue *q, uint32_t slot, uint32_t n) noexcept nogil
cdef int _result_blk(IoQueue *q, uint32_t slot, uint32_t written) noexcept nogil


cdef class BlkQueue(RequestQueue):
    pass
