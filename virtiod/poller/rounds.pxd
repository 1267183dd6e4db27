# What sources, devices and exports call a poller with.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from virtiod.core.types cimport Command, Io, Mailbox, Message, PollerCore, Source

cdef enum:
    MAX_SOURCES = 4096  # of a poller

# Any thread.
cdef void post(Mailbox *box, Message *m) noexcept nogil
cdef void push(PollerCore *p, Message *m) noexcept nogil
cdef Message *in_order(Message *m) noexcept nogil

# The poller's thread.
cdef int add_source(PollerCore *p, Source *s) noexcept nogil
cdef void remove_source(PollerCore *p, Source *s) noexcept nogil
cdef void want(Source *s, unsigned int want) noexcept nogil
cdef void unwatch(Source *s) noexcept nogil
cdef void defer(PollerCore *p, Io *io, int status) noexcept nogil
cdef void answer(Command *c, int64_t result) noexcept nogil
cdef void run_command(Message *m, PollerCore *p) noexcept nogil
cdef void run(PollerCore *p) noexcept nogil
# The parts of run().
cdef int turn(PollerCore *p) noexcept nogil
cdef uint64_t settle(PollerCore *p) noexcept nogil
cdef void sleep(PollerCore *p, uint64_t longest) noexcept nogil
cdef void rise(PollerCore *p) noexcept nogil
# The parts of a round.
cdef int run_inbox(PollerCore *p) noexcept nogil
cdef int run_deferred(PollerCore *p) noexcept nogil
cdef int poll_sources(PollerCore *p) noexcept nogil
cdef void compact(PollerCore *p) noexcept nogil

# ---- private: for the module itself
cdef void _push(void *head, Message *m) noexcept nogil
cdef int _ask(Source *s, int op, unsigned int want) noexcept nogil
cdef void _forget(Source *s) noexcept nogil
cdef unsigned int _ready_bits(uint32_t events) noexcept nogil
cdef int _look_at_fds(PollerCore *p, uint64_t timeout_ns, bint asleep) noexcept nogil
cdef void _tick(PollerCore *p) noexcept nogil
