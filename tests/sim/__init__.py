"""The daemon's I/O and the life of its controllers, simulated: one thread, one clock, one seed.

What is real: the pollers' rounds, queues and rings, buffers and bdevs, and the control code of controllers. What is
modelled: time, the device behind a transport (device.py), the users of bdevs (users.py). A seed decides everything:
what there is, who goes next, how long all takes, when devices die, lie or are silent. So a failure can be repeated:

    python -m tests.sim --seed 4711

history.py says what is checked of the data. Besides that each I/O must be answered, once, and in the end nothing may
be missing: buffers, slots, memory, counters.
"""
