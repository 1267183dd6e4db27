# The split virtqueue's structures (virtio 1.2 §2.7) and the driver's view of a ring, Virtq.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    MAX_QUEUE_SIZE = 32768 # §2.7

cdef enum DescFlag:
    NEXT = 1               # §2.7.5 VIRTQ_DESC_F_NEXT
    WRITE = 2              # VIRTQ_DESC_F_WRITE: for the device to write
    INDIRECT = 4           # VIRTQ_DESC_F_INDIRECT

cdef enum AvailFlag:
    NO_INTERRUPT = 1       # §2.7.6 VIRTQ_AVAIL_F_NO_INTERRUPT

cdef enum UsedFlag:
    NO_NOTIFY = 1          # §2.7.8 VIRTQ_USED_F_NO_NOTIFY

# struct virtq_desc, §2.7.5: 16 bytes, little-endian
cdef packed struct VringDesc:
    uint64_t addr
    uint32_t len
    uint16_t flags
    uint16_t next

# struct virtq_avail, §2.7.6. ring has the queue's size; behind it lies used_event, §2.7.7
cdef struct VringAvail:
    uint16_t flags         # AvailFlag
    uint16_t idx           # where the driver puts the next entry
    uint16_t ring[MAX_QUEUE_SIZE]

# struct virtq_used_elem, §2.7.8: 8 bytes
cdef packed struct VringUsedElem:
    uint32_t id
    uint32_t len

# struct virtq_used, §2.7.8. ring has the queue's size; behind it lies avail_event, §2.7.10
cdef struct VringUsed:
    uint16_t flags         # UsedFlag
    uint16_t idx           # where the device puts the next entry
    VringUsedElem ring[MAX_QUEUE_SIZE]

# A piece of memory as the device addresses it.
cdef struct Seg:
    uint64_t addr
    uint32_t len

ctypedef VringDesc *DescPtr
ctypedef VringAvail *AvailPtr
ctypedef VringUsed *UsedPtr
ctypedef VringUsedElem *UsedElemPtr
ctypedef Seg *SegPtr
ctypedef uint16_t *U16Ptr
ctypedef uint32_t *U32Ptr

cdef struct Virtq
ctypedef Virtq *VirtqPtr

# A ring format is a set of these functions, its footprint() and its init(), which only handle.py calls. What carries
# I/O calls nothing else; of Virtq it reads size and to_device, and it finds a slot's area by slot_area().
cdef struct VirtqOps:
    # Put a request on the ring: n_out segments for the device to read, then n_in for it to write. It is seen at the
    # next publish. 0, or -ENOSPC when there are too few descriptors.
    int (*add)(Virtq *q, uint32_t slot, Seg *segs, uint32_t n_out, uint32_t n_in) noexcept nogil
    # Take one completed request: its slot, -EAGAIN when there is none, -EPROTO when the device broke the ring.
    int (*pop)(Virtq *q, uint32_t *written) noexcept nogil
    # Show the device what was added; true if it must be kicked.
    bint (*publish)(Virtq *q) noexcept nogil
    # Ask for an interrupt; true if there is something to pop already. Then: no interrupts, please.
    bint (*arm)(Virtq *q) noexcept nogil
    void (*disarm)(Virtq *q) noexcept nogil
    # Forget all that is on the ring and zero it. The device must be stopped.
    void (*reset)(Virtq *q) noexcept nogil
    # Free the private arrays; the shared memory is its owner's. May be called again.
    void (*destroy)(Virtq *q) noexcept nogil

# One ring, driver side. Private but for the memory that desc, avail, used, areas and tables point to, which the
# device shares. Nothing that the device can write is read twice or used as an index unchecked.
cdef struct Virtq:
    VirtqOps ops
    uint16_t size          # descriptors, a power of two
    uint16_t mask
    uint8_t indirect       # VIRTIO_F_INDIRECT_DESC agreed
    uint8_t event_idx      # VIRTIO_F_EVENT_IDX agreed
    uint8_t broken         # the device broke the ring: nothing is taken from it any more
    uint16_t avail_idx     # next entry to fill
    uint16_t published     # what the device was shown
    uint16_t used_idx      # last value read from the ring, checked
    uint16_t last_used     # next entry to take
    uint16_t event_at      # disarmed: where used_event was left
    uint16_t in_flight     # requests
    uint16_t free_head     # private free list of descriptors (not indirect)
    uint16_t n_free
    DescPtr desc
    AvailPtr avail
    U16Ptr used_event      # behind the available ring: ours
    UsedPtr used
    U16Ptr avail_event     # behind the used ring: the device's
    # private, per descriptor
    uint16_t *next         # free list and chains
    uint16_t *chain        # length of the chain that starts here, 0 when not in flight
    uint16_t *slot_of      # request whose chain starts here
    # shared, per slot: the area of the kind of controller, with a small table of 3 descriptors in front of it (§2.7.5.3)
    char *areas            # the first slot's
    uint32_t area_stride
    char *tables           # for longer chains: table_len descriptors for each slot
    uint32_t table_len
    int64_t to_device      # what to add to an address of ours to get the device's

# Where a slot's area begins: memory that the device shares, for headers and status.
# Safety: slot < size, and there are size areas.
cdef inline char *slot_area(Virtq *q, uint32_t slot) noexcept nogil:
    return q.areas + <uint64_t>slot * q.area_stride
