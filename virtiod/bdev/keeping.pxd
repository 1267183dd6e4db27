# A bdev's channels where acknowledged writes are kept, or at least counted.
from libc.stdint cimport int64_t, uint64_t

from virtiod.bdev.channel cimport BdevChannels
from virtiod.bdev.kept cimport Keep, KeptWrite
from virtiod.core.types cimport Command, Io, Message, PollerCore, command_fn


cdef class KeptChannels(BdevChannels):
    cdef readonly object on_loss
    cdef Keep **keeps
    cdef public object repeated  # records written again
    cdef void _add(self, int i) except *
    cdef list _on_each(self, command_fn fn, int64_t arg=*, int64_t arg2=*)
    cdef object _settle(self)


cdef class KeptRecord:
    cdef KeptWrite *write
    cdef readonly object number
    cdef readonly KeptChannels channels
    cdef Io *io(self) noexcept
    cdef void begin(self, uint64_t now) noexcept


cdef class KeptFlush:
    cdef Io flush
    cdef uint64_t number
    cdef readonly KeptChannels channels
    cdef Io *io(self) noexcept
    cdef void begin(self, uint64_t now) noexcept

# ---- private: for the module itself
cdef void _news(Message *m, PollerCore *p) noexcept nogil
cdef int64_t _cmd_hold(PollerCore *p, Command *c) noexcept nogil
cdef int64_t _cmd_doubt(PollerCore *p, Command *c) noexcept nogil
cdef int64_t _cmd_let_go(PollerCore *p, Command *c) noexcept nogil
cdef int64_t _cmd_settle(PollerCore *p, Command *c) noexcept nogil
cdef int64_t _cmd_fail(PollerCore *p, Command *c) noexcept nogil
cdef int64_t _cmd_close(PollerCore *p, Command *c) noexcept nogil
