"""Transports, which reach devices: one interface, and a package for each kind. They carry control only; I/O uses the
rings and the doorbells that they set up.
"""
