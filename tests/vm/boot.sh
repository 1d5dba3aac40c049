#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Boots a kernel under QEMU and runs one command there, as root, in the current folder and with this
# machine's files: what the command writes stays in the guest's memory. Emulation in software, since a
# kernel that differs from the host's is the whole point and KVM is often not to be had; expect it to be
# 20 times slower.
#
# usage: boot.sh [--timeout SECONDS] [--memory SIZE] [--cpus N] [--parallel] [--share FOLDER]
#                [--console FILE] KERNEL-FOLDER COMMAND [ARG...]
#
# The guest's processors take turns. With --parallel each is a thread of its own: twice as fast where
# nothing else wants the machine, and once in a while a guest panics with "int3", for this emulation does
# not always see in time that the kernel changed code that another processor is about to run.
#
# KERNEL-FOLDER is what fetch_kernel.sh printed. FOLDER is writable in the guest, as /vm/share. The
# console is the kernel's; its last lines are shown where the guest came to no end.
# Exit status: the command's; 124 when the time was up; 125 when the guest came to no end otherwise.
set -euo pipefail
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")

virtiofsd=/usr/lib/qemu/virtiofsd
swap_size=512M
disk_size=2G
timeout=600
memory=1G
cpus=2
share=''
console=''
thread=single

no_result() {
	printf 'boot: %s\n' "$*" >&2
	exit 125
}

usage() {
	sed -n '/^# usage:/,/^#$/s/^# \{0,1\}//p' "$0" >&2
	exit 125
}

pids=()
# shellcheck disable=SC2317 # the trap calls it
cleanup() {
	local pid
	for pid in "${pids[@]}"; do
		kill "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	# The mount on it exists in virtiofsd's namespace alone.
	rmdir "$work/host" 2>/dev/null || true
	rm -rf --one-file-system "$work"
}

# modules_needed NAME...: the files of these modules and of those that they need, below
# $kernel/lib/modules/VERSION; nothing for one that is built in.
modules_needed() {
	local name file needs
	for name in "$@"; do
		while IFS=: read -r file needs; do
			# shellcheck disable=SC2086 # words
			printf '%s\n' "$file" $needs
		done < <(grep -E "/${name//_/[-_]}\.ko[^:]*:" "$modules/modules.dep" || true)
	done | sort -u
}

# initramfs COMMAND...: makes $work/initramfs, with init.sh as its first program.
initramfs() {
	local root=$work/root version file at
	version=$(basename "$modules")
	at=$root/lib/modules/$version
	mkdir -p "$root"/{bin,proc,dev,host,above,root} "$at"
	cp /bin/busybox "$root/bin/"
	cp "$here/init.sh" "$root/init"
	cp "$here/guest.sh" "$root/"
	for file in $(modules_needed virtio_pci virtio_blk virtiofs overlay); do
		case $file in
		*.xz) xz --decompress --stdout "$modules/$file" >"$at/$(basename "${file%.xz}")" ;;
		*) cp "$modules/$file" "$at/" ;;
		esac
	done
	cp "$modules/modules.builtin" "$at/"
	busybox depmod -b "$root" "$version"
	printf 'kernel=%q share=%q\n' "$kernel" "$share" >"$root/settings.sh"
	{
		# Tests that change the whole machine do so where it is a guest of ours.
		printf 'export PATH=%q HOME=%q TIDEMARK_TEST_GUEST=1\n' "$PATH" "$HOME"
		printf 'cd %q && exec' "$PWD"
		printf ' %q' "$@"
		echo
	} >"$root/command.sh"
	(cd "$root" && find . | cpio --create --format newc --quiet) >"$work/initramfs"
}

# In a mount namespace of its own, and read-only: virtiofsd cannot be told to refuse writes. What is
# mounted on / stays behind, so file systems that hold what the guest needs are added by name.
# shellcheck disable=SC2016 # for the inner shell
readonly export_host='
	set -e
	root=$1 needed=$2
	shift 2
	mount --bind / "$root"
	mount -o remount,bind,ro "$root"
	printf "%s\n" "$needed" | while read -r path; do
		mounted_on=$(findmnt --noheadings --output TARGET --target "$path")
		[ "$mounted_on" != / ] && ! mountpoint --quiet "$root$mounted_on" || continue
		mount --bind "$mounted_on" "$root$mounted_on"
		mount -o remount,bind,ro "$root$mounted_on"
	done
	exec "$@"'

# serve TAG CACHE COMMAND-BEFORE... -- FOLDER: a virtiofsd that ends with us.
serve() {
	local tag=$1 cache=$2 folder=$3 socket=$work/$1.socket
	shift 3
	setpriv --pdeathsig KILL "$@" "$virtiofsd" -f --socket-path="$socket" \
		-o "source=$folder,sandbox=chroot,cache=$cache,log_level=err" \
		>"$work/$tag.log" 2>&1 </dev/null &
	pids+=($!)
	until [ -S "$socket" ]; do
		kill -0 $! 2>/dev/null || no_result "virtiofsd: $(cat "$work/$tag.log")"
		sleep 0.02
	done
	devices+=(-chardev "socket,id=$tag,path=$socket"
		-device "vhost-user-fs-pci,chardev=$tag,tag=$tag")
}

serve_host() {
	mkdir "$work/host"
	serve host always "$work/host" unshare --mount --propagation private \
		sh -c "$export_host" sh "$work/host" "/usr
$PWD
$kernel"
}

# disk NAME SIZE COMMAND...: a disk that holds what COMMAND made of its file; next free letter, from vda.
disk() {
	local file=$work/$1
	truncate -s "$2" "$file"
	"${@:3}" "$file" >"$file.log" 2>&1 || no_result "$3: $(cat "$file.log")"
	devices+=(-drive "id=$1,file=$file,format=raw,if=none,cache=unsafe"
		-device "virtio-blk-pci,drive=$1")
}

# What the guest said at its end, if it came to one.
result() {
	sed -n "s/\r\$//; s/^$1//p" "$work/result" | tail -n 1
}

while [ $# -gt 0 ]; do
	case $1 in
	--timeout | --memory | --cpus | --share | --console)
		[ $# -ge 2 ] || usage
		declare "${1#--}=$2"
		shift 2
		;;
	--parallel)
		thread=multi
		shift
		;;
	-*) usage ;;
	*) break ;;
	esac
done
[ $# -ge 2 ] || usage
kernel=$(readlink -f "$1")
shift
[ -z "$share" ] || share=$(readlink -f "$share")
modules=$(echo "$kernel"/lib/modules/*)
image=$(echo "$kernel"/boot/vmlinuz-*)
[ -r "$image" ] || no_result "there is no kernel in $kernel"
[ "$(id -u)" -eq 0 ] || no_result 'sharing files with a guest takes root'

work=$(mktemp -d)
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
devices=()
console=${console:-$work/console}
: >"$work/result"
initramfs "$@"
serve_host
[ -z "$share" ] || serve share auto "$share"
disk swap "$swap_size" mkswap
disk files "$disk_size" mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0

# A guest that panics restarts at once (panic=-1), which ends QEMU (-no-reboot). The "pc" machine boots
# every time, which microvm does not. vhost-user wants memory that can be shared.
status=0
setpriv --pdeathsig TERM timeout --kill-after 5 "$timeout" qemu-system-x86_64 \
	-nodefaults -no-user-config -display none -no-reboot \
	-accel "tcg,thread=$thread" -cpu max -smp "$cpus" -m "$memory" \
	-machine pc,hpet=off,usb=off,vmport=off,memory-backend=memory \
	-object "memory-backend-memfd,id=memory,size=$memory,share=on" \
	-serial "file:$console" -serial stdio -serial "file:$work/result" "${devices[@]}" \
	-kernel "$image" -initrd "$work/initramfs" \
	-append 'console=ttyS0 quiet panic=-1 oops=panic' </dev/null &
pids=($! "${pids[@]}")
wait "${pids[0]}" || status=$?

ended=$(result 'ended with ')
[ -z "$ended" ] || exit "$ended"
failed=$(result 'failed to ')
[ -z "$failed" ] || no_result "the guest failed to $failed"
if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
	printf 'boot: the guest was still running after %s seconds' "$timeout" >&2
	status=124
else
	printf 'boot: the guest came to no end (QEMU exited with %s)' "$status" >&2
	status=125
fi
printf '; the last lines of its console:\n' >&2
tail -n 25 "$console" | sed 's/\r//g; s/^/    /' >&2
exit "$status"
