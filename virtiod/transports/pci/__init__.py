"""A device that a hypervisor or a card presents (virtio 1.2 §4.1), reached by VFIO or by sysfs."""
