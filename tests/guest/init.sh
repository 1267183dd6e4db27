#!/guest/busybox sh
# The guest's first process. The kernel's command line says in virtiod=... what to run: the variant's name for tests
# and jobs that the host sends, or "shell".
export PATH=/guest/bin:/usr/bin:/bin PYTHONPATH=/site HOME=/ TERM=dumb LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
export VIRTIOD_SLOWNESS=4
/guest/busybox --install -s /guest/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm /dev/pts
mount -t devpts devpts /dev/pts
for place in /dev/shm /tmp /run; do mount -t tmpfs tmpfs "$place"; done
chmod 1777 /tmp
echo /guest/bin/modprobe >/proc/sys/kernel/modprobe
ip link set lo up
modprobe -a virtio_pci virtio_blk virtio_scsi sd_mod vfio-pci vfio_iommu_type1 uio_pci_generic nbd vfat nls_cp437 nls_ascii loop
export VIRTIOD_GUEST="$(sed 's/.*virtiod=\([a-z]*\).*/\1/' /proc/cmdline)"
cd /virtiod || poweroff -f
if [ "$VIRTIOD_GUEST" = shell ]; then
    setsid cttyhack sh -l
else
    /guest/python -m tests.guest.inside
fi
poweroff -f
