# What a modelled device keeps, and does with it.
from libc.stdint cimport uint32_t, uint64_t

from tests.sim.device cimport Job, Model

# Do some of a request.
cdef void execute(Model *d, Job *j) noexcept nogil
# The sector's new contents; NULL: zeroes.
cdef void put(Model *d, uint64_t sector, char *data) noexcept nogil
# The device's end: of what was not flushed some is kept, by chance.
cdef void die(Model *d, uint64_t kept_of_1000) noexcept nogil
# Its driver let go of it while it had this request.
cdef void linger(Model *d, Job *j) noexcept nogil
cdef void forget_late(Model *d) noexcept nogil
# Whether a request names memory that an earlier one, of before, still uses.
cdef bint used_by_late(Model *d, Job *j) noexcept nogil
# When the next of those is done; do what is due.
cdef uint64_t late_due(Model *d) noexcept nogil
cdef bint do_late(Model *d) noexcept nogil

# ---- private: for the module itself
cdef void _copy(Job *j, uint64_t offset, char *sector, bint to_guest) noexcept nogil
cdef void _settle(Model *d, uint64_t sector) noexcept nogil
cdef void _flush(Model *d) noexcept nogil
cdef void _move(Model *d, Job *j, uint32_t i) noexcept nogil
cdef bint _is_same(Job *late, Job *j) noexcept nogil
cdef bint _share(Job *late, Job *j) noexcept nogil
cdef bint _are_zeroes_for_both(Job *late, Job *j, uint64_t start, uint64_t end) noexcept nogil
