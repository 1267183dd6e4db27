# Whose turn it is.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from tests.sim.core cimport Sim
from tests.sim.device cimport Model
from tests.sim.users cimport User
from virtiod.core.types cimport PollerCore
from virtiod.poller.poller cimport Control, Poller

cdef enum:
    MAX_POLLERS = 4
    MAX_USERS = 16
    MAX_DEVICES = 4

ctypedef Turns *TurnsPtr
ctypedef SimPoller *SimPollerPtr
cdef struct SimPoller:
    PollerCore *core
    uint64_t wake_at       # asleep until then, 0: awake
    uint8_t tired          # has found no work, and goes to sleep next

cdef struct Turns:
    Sim sim
    SimPoller pollers[MAX_POLLERS]
    Model *devices[MAX_DEVICES]
    User *users[MAX_USERS]
    uint32_t n_pollers
    uint32_t n_devices
    uint32_t n_users
    uint64_t lag           # steps that the control plane looks away for
    uint64_t looked_at     # for I/Os that are stuck
    uint64_t patience      # ns
    uint8_t secret         # pollers don't say that they sleep


cdef class Engine:
    cdef Turns t
    cdef Control control
    cdef list keep
    cdef object tell
    cdef int add_model(self, Model *model, object owner) except -1
    cdef int add_user(self, User *user, object owner) except -1

# ---- private: for the module itself
cdef uint64_t _simulated() noexcept nogil
cdef int _poll(Turns *t, SimPoller *p) noexcept nogil
cdef bint _signalled(PollerCore *p) noexcept nogil
cdef int _step(Turns *t) noexcept nogil
cdef uint64_t _next(Turns *t) noexcept nogil
cdef void _look_for_stuck(Turns *t) noexcept nogil
cdef void _run(Turns *t, void *mailbox, uint64_t until) noexcept nogil
