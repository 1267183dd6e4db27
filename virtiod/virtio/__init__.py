"""Numbers and structures of virtio, for driver and device: features, status, the requests of block devices and SCSI
hosts.
"""
