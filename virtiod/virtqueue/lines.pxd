# The lines that I/Os wait in: for room on the ring, or for a place in their unit, which takes a limited number of
# requests at once.
# A place that becomes free goes to the I/O that waits first for the unit, which keeps it while it waits in the queue's
# line for room on the ring: neither can starve.
#
# Inline, because each request passes here and more than one module calls it.
from virtiod.virtqueue.queue cimport IoQueue
from virtiod.core.types cimport Io, Message, UnitShare


# Whether io's unit has no place left, and none is kept for io.
cdef inline bint unit_full(IoQueue *q, Io *io) noexcept nogil:
    cdef UnitShare *share = io.channel.bdev.shares
    return share != NULL and not io.placed and share[q.number].taken >= share[q.number].limit


cdef inline void wait_for_room(IoQueue *q, Io *io) noexcept nogil:
    io.msg.next = NULL
    if q.waiting == NULL:
        q.waiting = io
    else:
        q.waiting_tail.msg.next = <Message *>io
    q.waiting_tail = io


# Puts io at the end of the line; at its head if the device has some of it already.
cdef inline void wait_for_unit(UnitShare *s, Io *io) noexcept nogil:
    io.msg.next = NULL
    if s.waiting == NULL:
        s.waiting = io
        s.waiting_tail = io
    elif io.cursor:
        io.msg.next = <Message *>s.waiting
        s.waiting = io
    else:
        s.waiting_tail.msg.next = <Message *>io
        s.waiting_tail = io


# Puts io before all that waits: it was with the device that is lost.
cdef inline void go_first(IoQueue *q, Io *io) noexcept nogil:
    io.msg.next = <Message *>q.waiting
    q.waiting = io
    if io.msg.next == NULL:
        q.waiting_tail = io


# Puts io into the line for what it lacks.
cdef inline void line_up(IoQueue *q, Io *io) noexcept nogil:
    if unit_full(q, io):
        wait_for_unit(&io.channel.bdev.shares[q.number], io)
    else:
        wait_for_room(q, io)


# Gives the place of a completed request of io to the first I/O that waits for the unit.
cdef inline void give_place(IoQueue *q, Io *io) noexcept nogil:
    cdef UnitShare *s = io.channel.bdev.shares
    cdef Io *after
    if s == NULL:
        return
    s = &s[q.number]
    after = s.waiting
    if after == NULL:
        s.taken -= 1
        return
    s.waiting = <Io *>after.msg.next
    after.placed = 1
    wait_for_room(q, after)


# Frees the place that is kept for io: io has sent all of its requests.
cdef inline void leave_place(IoQueue *q, Io *io) noexcept nogil:
    if io.placed:
        io.placed = 0
        give_place(q, io)
