# The control plane's side of NBD connections.
from libc.stdint cimport int64_t

from virtiod.poller.buffers cimport PollerBuffers
from virtiod.bdev.channel cimport BdevChannels
from virtiod.exports.nbd.state cimport Conn, Share
from virtiod.poller.poller cimport Poller
from virtiod.core.types cimport Command, PollerCore, command_fn


cdef class NbdPoller:
    cdef Share share
    cdef readonly Poller poller
    cdef readonly PollerBuffers buffers
    cdef readonly int connections


cdef class NbdConnection:
    cdef Conn *c
    cdef readonly NbdPoller home
    cdef BdevChannels channels
    cdef object on_end
    cdef object _command(self, command_fn fn)

# ---- private: for the module itself
cdef int64_t _cmd_start(PollerCore *p, Command *cmd) noexcept nogil
cdef int64_t _cmd_stop(PollerCore *p, Command *cmd) noexcept nogil
cdef int64_t _cmd_abort(PollerCore *p, Command *cmd) noexcept nogil
