"""The ways to a device: one interface, and a package for each kind of transport. They carry control only; I/O touches
the rings and the doorbells that they set up.
"""
