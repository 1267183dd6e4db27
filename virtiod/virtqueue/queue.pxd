# A request queue of a controller: what carries bdev I/O to a virtqueue.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from virtiod.core.types cimport Command, Io, Message, PollerCore, Source
from virtiod.virtqueue.layout cimport Seg, Virtq

cdef enum:
    KIND_CONTROL = 5       # Slot.kind of a command of the control plane; the others are Op
    NO_SLOT = 0xffff
    RESULT_RETRY = 1       # of result(): put the request on the ring again when Slot.due has come
    DATA_SEG = 2           # data segments start here in IoQueue.segs

# Io.phase
cdef enum Phase:
    HANDING = 0            # pieces are still to be handed to the device
    HANDED = 1             # all are
    FUA = 2                # written; a flush is to be sent
    FUA_SENT = 3
    OVER = 4               # it was given up: it ends when its pieces are back

# A request: the truth about what is in flight; the ring is only how it was told.
ctypedef Slot *SlotPtr
cdef struct Slot:
    Io *io                 # NULL for a control command
    Command *command
    uint64_t offset        # bytes, of this piece
    uint64_t length
    uint64_t iov_offset    # where the piece begins in the I/O's iov
    uint32_t iov_index
    uint16_t next          # free list
    uint8_t kind           # an Op or KIND_CONTROL
    uint8_t used
    uint8_t probe          # asks only whether the unit is there, in place of its I/O: the disk may be another one
    uint8_t tries          # times that it is to be retried
    uint64_t due           # when to put it on the ring again (ns); 0: it is on the ring
    uint64_t since         # when it was put on the ring last (ns)

ctypedef IoQueue *IoQueuePtr
ctypedef IoQueue **IoQueueArray
# A kind of controller: how a slot becomes a request, and a response a status.
cdef struct DeviceOps:
    # Writes headers, completes segs around segs[DATA_SEG .. DATA_SEG + n) and adds them to the ring. 0, or -ENOSPC.
    int (*build)(IoQueue *q, uint32_t slot, uint32_t n) noexcept nogil
    # The device's answer: 0, -errno, or RESULT_RETRY with the slot's due set.
    int (*result)(IoQueue *q, uint32_t slot, uint32_t written) noexcept nogil

cdef struct IoQueue:
    Source source
    Virtq vq
    DeviceOps ops
    PollerCore *poller
    uint32_t number        # its place among its controller's
    Slot *slots
    uint16_t free_slot
    uint16_t spare         # kept for a control command when I/O has all others; NO_SLOT: in use
    uint32_t n_in_flight   # slots in use
    uint32_t n_commands    # of them control commands, which may wait for ever
    uint32_t n_retry       # of them not on the ring, but due at some time
    uint64_t retry_at      # when the first is
    uint8_t short_of_room  # one that is due found no descriptors: the next ones are for it
    uint64_t progress_ns   # when the device answered an I/O last
    uint64_t newest_ns     # the latest Slot.since of those that it answered
    Io *waiting            # for a slot or descriptors, linked by msg.next
    Io *waiting_tail
    Seg *segs              # scratch: DATA_SEG + table_len
    char *zeroes           # for WRITE_ZEROES by WRITE
    uint64_t zeroes_len
    int kick_fd
    uint8_t blocked        # the device made it block: the ring counts as broken
    uint16_t kick_index    # what to store at
    uint64_t kick_address  # a register; 0: kick_fd is written to
    # how the device addresses DMA memory; the ring, and what lies beside it, has vq.to_device of its own
    uint64_t *pages        # its address of each page from pages_base; NULL: ours + delta
    uint64_t pages_base
    uint32_t page_shift
    int64_t delta
    void *kind             # what the kind of controller keeps for the queue
    uint8_t stopped        # I/O waits: the device is down
    uint8_t held           # stopped, but the device runs the ring: control commands are sent
    uint8_t given          # the device was given I/O, since the queue was started last
    uint64_t epoch         # stopped: the session whose device may still use what is in flight; 0: none may
    uint8_t failed         # I/O fails with this errno: the device is gone for good
    Command *drain         # to be answered when nothing is left, linked by msg.next
    Message event          # tells the control plane, once, that the device broke the ring
    uint64_t submitted     # requests
    uint64_t completed
    uint64_t kicks
    uint64_t full          # times that an I/O had to wait

# How the I/O of one channel reaches a queue.
ctypedef Route *RoutePtr
cdef struct Route:
    IoQueue **local        # queues of the channel's own poller, taken in turns
    uint32_t n_local
    uint32_t turn
    IoQueue *remote        # with none of its own: a queue of another poller
