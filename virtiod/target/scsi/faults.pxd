# Faults of the embedded target's logical units.
from libc.stdint cimport uint8_t

from virtiod.target.ring cimport Held
from virtiod.target.scsi.lun cimport LunFault
from virtiod.target.scsi.task cimport ScsiTask

cdef bint hit(LunFault *f, uint8_t opcode) noexcept nogil
cdef bint spoil(ScsiTask *t, Held *h) noexcept nogil
