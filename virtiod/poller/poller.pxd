# Pollers as the control plane has them.
from libc.stdint cimport int64_t

from virtiod.core.types cimport Command, Mailbox, Message, PollerCore, Source, command_fn


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

# ---- private: for the module itself
cdef int64_t _ping(PollerCore *p, Command *c) noexcept nogil
