# What a slot's request is.
from libc.stdint cimport uint32_t, uint64_t

from virtiod.virtqueue.queue cimport IoQueue, Slot
from virtiod.virtio.scsi cimport CmdReq, CmdResp

# DeviceOps.build
cdef int build(IoQueue *q, uint32_t slot, uint32_t n) noexcept nogil

# ---- private: for the module itself
cdef int _build_call(IoQueue *q, uint32_t slot, CmdReq *req, CmdResp *resp) noexcept nogil
cdef void _header(IoQueue *q, uint32_t slot, CmdReq *req, CmdResp *resp, uint64_t lun) noexcept nogil
cdef void _put_range(unsigned char *cdb, uint64_t lba, uint64_t blocks) noexcept nogil
cdef void _put_command(unsigned char *cdb, Slot *s, uint64_t lba, uint64_t blocks) noexcept nogil
cdef uint32_t _unmap_list(unsigned char *p, uint64_t lba, uint64_t blocks) noexcept nogil
