# A device that is not there: every I/O succeeds in the next round.
from virtiod.dataplane.channel cimport BdevChannels
from virtiod.dataplane.structs cimport Channel, Io

cdef void _submit(Channel *ch, Io *io) noexcept nogil
