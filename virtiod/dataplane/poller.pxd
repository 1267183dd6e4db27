# What sources, devices and exports call of the poller; how it works is in poller.py.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from virtiod.dataplane.structs cimport (
    Command,
    Io,
    Mailbox,
    Message,
    PollerCore,
    Source,
    command_fn,
)

# Any thread.
cdef void _push(void *head, Message *m) noexcept nogil
cdef void mailbox_push(Mailbox *box, Message *m) noexcept nogil
cdef void poller_push(PollerCore *p, Message *m) noexcept nogil

# The poller's thread.
cdef int poller_add_source(PollerCore *p, Source *s) noexcept nogil
cdef void poller_remove_source(PollerCore *p, Source *s) noexcept nogil
cdef void poller_want(Source *s, unsigned int want) noexcept nogil
cdef void poller_unwatch(Source *s) noexcept nogil
cdef void poller_defer(PollerCore *p, Io *io, int status) noexcept nogil
cdef void command_done(Command *c, int64_t result) noexcept nogil
cdef void poller_run(PollerCore *p) noexcept nogil
cdef int _ask(Source *s, int op, unsigned int want) noexcept nogil
cdef void _forget(Source *s) noexcept nogil
cdef unsigned int _ready_bits(uint32_t events) noexcept nogil
cdef Message *_reversed(Message *m) noexcept nogil
cdef int _run_inbox(PollerCore *p) noexcept nogil
cdef int _run_deferred(PollerCore *p) noexcept nogil
cdef int _look_at_fds(PollerCore *p, uint64_t timeout_ns, bint asleep) noexcept nogil
cdef int _poll_sources(PollerCore *p) noexcept nogil
cdef void _compact(PollerCore *p) noexcept nogil
cdef void _tick(PollerCore *p) noexcept nogil
cdef void _sleep(PollerCore *p) noexcept nogil
cdef int64_t _ping(PollerCore *p, Command *c) noexcept nogil
cdef void _run_command(Message *m, PollerCore *p) noexcept nogil


cdef class Control:
    cdef Mailbox box
    cdef object loop
    cdef dict callbacks
    cdef void expect(self, Message *m, object callback) except *
    cdef void forget(self, Message *m) except *


cdef class Poller:
    cdef PollerCore *core
    cdef readonly Control control
    cdef readonly str name
    cdef readonly int id
    cdef readonly int cpu
    cdef readonly int tid
    cdef readonly str mode
    cdef object thread
    cdef object started
    cdef dict owners
    cdef object command(self, command_fn fn, void *ctx, int64_t arg=*, int64_t arg2=*, void *out=*, object keep=*)
    cdef void own(self, Source *s, object owner) except *
    cdef void disown(self, Source *s) except *
