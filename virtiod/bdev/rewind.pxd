# Where an I/O begins, at first and each time that it begins again. Inline, because each I/O does.
from libc.stdint cimport UINT64_MAX

from virtiod.core.types cimport Io

# Nothing of it was handed to a device, and no flush speaks for it.
cdef inline void rewind(Io *io) noexcept nogil:
    io.cursor = 0
    io.iov_index = 0
    io.iov_offset = 0
    io.mark = UINT64_MAX  # kept.NO_MARK
    io.phase = 0
    io.again = 0
