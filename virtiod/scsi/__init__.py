"""SCSI as virtio-scsi carries it: pure functions that build commands and parse answers, without socket or clock. What
they parse was sent by a device and may be anything: parsers raise ProtocolError, or leave out what is absent.
"""
