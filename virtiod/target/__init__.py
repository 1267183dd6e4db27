"""The embedded target: virtio devices that a process serves over vhost-user, for the demo, for tests and for tries
without hardware. It knows no controller; front-ends are as little trusted as a device is by the driver.
"""
