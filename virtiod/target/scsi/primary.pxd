# The commands of the embedded target's logical units.
from virtiod.target.scsi.task cimport ScsiTask

cdef void execute(ScsiTask *t) noexcept nogil

# ---- private: for the module itself
cdef void _request_sense(ScsiTask *t) noexcept nogil
cdef void _prepared(ScsiTask *t) noexcept nogil
cdef void _report_luns(ScsiTask *t) noexcept nogil
cdef void _absent(ScsiTask *t) noexcept nogil
cdef void _medium(ScsiTask *t) noexcept nogil
