"""virtio-scsi (virtio 1.2 §5.6): disks that are added, change and are removed."""
