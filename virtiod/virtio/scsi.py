"""The numbers of virtio-scsi's requests and events (virtio 1.2 §5.6.6), for plain code: the enums of scsi.pxd."""
