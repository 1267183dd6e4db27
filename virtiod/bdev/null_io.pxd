# A null device: every I/O succeeds in the next round.
from virtiod.bdev.channel cimport BdevChannels
from virtiod.core.types cimport Channel, Io

# ---- private: for the module itself
cdef void _submit(Channel *ch, Io *io) noexcept nogil
