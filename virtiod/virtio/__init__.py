"""What virtio numbers and lays out, as driver and device see it alike: features, status, the requests of block devices
and SCSI hosts.
"""
