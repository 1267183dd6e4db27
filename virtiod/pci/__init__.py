"""Ownership of PCI devices: which virtio devices there are, which driver has them, and what using one needs. All of it
is control plane: no I/O uses it.
"""
