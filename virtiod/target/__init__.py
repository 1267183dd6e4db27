"""The embedded target: virtio devices that a process serves over vhost-user, for the demo, for tests, and for trying
virtiod without hardware. It knows no controller, and trusts front-ends as little as the driver trusts devices.
"""
