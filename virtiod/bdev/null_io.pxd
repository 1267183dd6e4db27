# A null device: every I/O succeeds in the next round, and a read gives zeroes.
from virtiod.bdev.channel cimport BdevChannels
from virtiod.core.types cimport Channel, Io

# ---- private: for the module itself
cdef void _submit(Channel *ch, Io *io) noexcept nogil
