"""Who owns a PCI device: which virtio devices there are, which driver has them, and what it takes to use one.

    devices.py    what sysfs says of a device
    disks.py      the kernel's disks beneath a device, and what uses them
    ownership.py  take a device from its kernel driver, and give it back
    uevents.py    what the kernel says of devices that come and go
    host.py       the machine's file systems, which tests make up

All of it is control: nothing here is touched by an I/O. The layer knows no transport and no controller.
"""
