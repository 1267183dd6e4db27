"""A device that another process serves, reached over a Unix socket. The embedded target's back-end speaks the same
protocol: QEMU's docs/interop/vhost-user.rst.
"""
