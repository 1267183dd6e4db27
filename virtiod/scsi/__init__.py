"""SCSI as virtio-scsi carries it: commands to bytes, and bytes to what a unit is. Pure: no socket, no clock. What is
parsed was sent by a device and may be anything: parsers raise ProtocolError, or leave out what is not there.
"""
