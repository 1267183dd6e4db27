# The commands of the embedded target's logical units; how they work is in devspc.py.
from virtiod.target.scsi.lun cimport ScsiTask

cdef void _request_sense(ScsiTask *t) noexcept nogil
cdef void _prepared(ScsiTask *t) noexcept nogil
cdef void _report_luns(ScsiTask *t) noexcept nogil
cdef void _absent(ScsiTask *t) noexcept nogil
cdef void _medium(ScsiTask *t) noexcept nogil
cdef void task_execute(ScsiTask *t) noexcept nogil
