"""Who owns a PCI device: which virtio devices there are, which driver has them, and what it takes to use one. All of it
is control plane: nothing here is touched by an I/O.
"""
