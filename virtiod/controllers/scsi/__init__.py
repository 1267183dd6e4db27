"""virtio-scsi (virtio 1.2 §5.6): disks that come, change and go."""
