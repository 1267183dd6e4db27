"""The embedded target's SCSI hosts: virtio-scsi (virtio 1.2 §5.6) with any targets and logical units."""
