#!/bin/bash
# SPDX-License-Identifier: MIT
# The guest's first process, once the host's files are there: makes what a system makes at its start,
# runs the command, tells how it ended, and switches the machine off.
set -u

# What boot.sh knows and we do not: $kernel, the folder of this kernel, and $share, not empty where
# /vm/share is to be mounted.
kernel='' share=''
# shellcheck source=/dev/null
. /vm/settings.sh
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

report() {
	echo "$*" >/dev/ttyS2
	sync
	exec busybox poweroff -f
}

# must COMMAND...: setting up ends where it fails.
must() {
	local said
	said=$("$@" 2>&1) || report "failed to run '$*': $said"
}

must mount -t sysfs sys /sys
must mount -t cgroup2 cgroup2 /sys/fs/cgroup
must mkdir -p /dev/pts /dev/shm
must mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
must mount -t tmpfs -o mode=1777 shm /dev/shm
must mount -t tmpfs -o mode=755 run /run
must mkdir -p /vm/disk /lib/modules
must mount --bind "$kernel/lib/modules" /lib/modules
must busybox ip link set lo up
# For the kernel, which loads modules by it. (The host may have none: containers do not need it.)
must ln -s /bin/busybox /vm/modprobe
echo /vm/modprobe >/proc/sys/kernel/modprobe

# A file system and swap on disks of their own: the overlay's files are in memory, so nothing in them
# is ever written back, and a file of it can hold no swap.
must mount -t ext4 /dev/vdb /vm/disk
must chmod 1777 /vm/disk
must swapon /dev/vda
if [ -n "$share" ]; then
	must mkdir /vm/share
	must mount -t virtiofs share /vm/share
fi

# The command's lines are for the host as they are: no carriage returns.
stty -F /dev/ttyS1 -opost
TIDEMARK_EMULATED=1 TMPDIR=/vm/disk bash /vm/command.sh </dev/null >/dev/ttyS1 2>&1
status=$?
# Who still holds ttyS1 would keep the last lines from being waited for.
kill -9 -1
report "ended with $status"
