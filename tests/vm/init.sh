#!/bin/busybox sh
# SPDX-License-Identifier: MIT
# shellcheck shell=dash
# The guest's first process: brings the host's files in, read-only, lays a tmpfs over them, and
# goes on as guest.sh in there. Runs from the initramfs that boot.sh makes, where there is nothing but
# busybox and a few modules.
set -u

/bin/busybox --install -s /bin
PATH=/bin
export PATH

# ttyS2 is where boot.sh waits for the result.
fail() {
	echo "failed to $*" >/dev/ttyS2
	poweroff -f
}

mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in virtio_pci virtio_blk virtiofs overlay; do
	modprobe "$module" || fail "load the module $module"
done
mount -t virtiofs -o ro host /host || fail "mount the host's files"
mount -t tmpfs -o mode=755,size=60% above /above || fail 'mount a tmpfs'
mkdir /above/files /above/work
mount -t overlay -o lowerdir=/host,upperdir=/above/files,workdir=/above/work overlay /root ||
	fail "mount a tmpfs over the host's files"

mkdir -p /root/proc /root/dev /root/vm
cp /guest.sh /command.sh /settings.sh /root/vm
mount -o move /proc /root/proc
mount -o move /dev /root/dev
# Not a mere chroot: in one, the kernel refuses new user namespaces.
exec switch_root /root /vm/guest.sh
