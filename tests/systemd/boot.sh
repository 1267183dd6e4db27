#!/bin/sh
# Starts systemd as the first process of a container: boot.sh IMAGE UPPER. What it writes goes to UPPER, the image stays.
#
# Runs in namespaces of its own (see machine.py), so that its mounts and processes end with it.
set -eu
image=$1 upper=$2

mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$upper"
mkdir "$upper/changes" "$upper/work" "$upper/root"
mount -t overlay -o "lowerdir=$image,upperdir=$upper/changes,workdir=$upper/work" overlay "$upper/root"
cd "$upper/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
umount sys/fs/cgroup
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    : >"dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/shm dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mkdir -p old
pivot_root . old
umount -l /old
ip link set lo up 2>/dev/null || true
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 /lib/systemd/systemd --log-target=journal --show-status=0
