"""The embedded target's disks: virtio-blk (virtio 1.2 §5.2)."""
