"""vhost-user: a device that another process serves, reached over a Unix socket.

`wire` has the messages, `channel` moves them with their file descriptors, `client` has one method for each
request of a front-end, `transport` is what controllers see. The embedded target's back-end shares `wire` and
`channel`.
Specification: QEMU's docs/interop/vhost-user.rst.
"""
