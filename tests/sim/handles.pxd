# Handles for Python of what takes turns.
from tests.sim.device cimport Model
from tests.sim.engine cimport Engine
from tests.sim.history cimport Blocks
from tests.sim.users cimport User


cdef class Device:
    cdef Model m
    cdef readonly Engine engine
    cdef readonly Blocks blocks


cdef class Client:
    cdef User u
    cdef object keep
