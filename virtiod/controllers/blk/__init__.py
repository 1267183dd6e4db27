"""virtio-blk (virtio 1.2 §5.2): one disk."""
