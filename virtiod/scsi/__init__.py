"""SCSI as virtio-scsi carries it: commands to bytes, and bytes to what a unit is. Pure: no socket, no clock.

    address     targets and LUNs in virtio's 8 bytes
    cdb         commands
    parse       what units answer: INQUIRY, VPD pages, REPORT LUNS, READ CAPACITY, MODE SENSE
    sense       what went wrong
    config      the controller's configuration space
    event       what the event queue brings

What is parsed was sent by a device and may be anything: parsers raise ProtocolError, or leave out what is not there.
"""
