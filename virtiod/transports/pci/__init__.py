"""PCI: a virtio controller that a hypervisor or a card presents (virtio 1.2 §4.1).

wire.py reads configuration space; registers.py is one access of the right width; client.py has one method per request
to the device; access.py says what owning a device gives, and vfio.py and sysfs.py are the two ways to; host.py is what
all devices share; transport.py is what the layer above sees.
"""
