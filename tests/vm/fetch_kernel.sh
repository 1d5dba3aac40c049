#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Fetches a kernel of Debian's to boot and prints the folder that it lies in: boot/ and lib/modules/,
# unpacked, nothing installed. It is kept in ~/.cache/tidemark/kernels, which may be deleted at any
# time.
# usage: fetch_kernel.sh RELEASE
# Exit status: 0; 77 where such a kernel cannot be had here, the last line on stderr saying why; 1.
set -euo pipefail

# Metapackages, by release. The package of one build cannot be named here: it leaves the archive when
# the next one enters.
declare -A metapackages=(
	[6.1]=linux-image-cloud-amd64
	[6.12]=linux-image-6.12-cloud-amd64)

cache=${XDG_CACHE_HOME:-$HOME/.cache}/tidemark/kernels
work=''
trap 'rm -rf "$work"' EXIT

say() {
	printf 'fetch_kernel: %s\n' "$*" >&2
}

# package_of RELEASE: the package of today's build, by the package lists; nothing where they know none.
package_of() {
	{ apt-cache depends "${metapackages[$1]}" 2>/dev/null || true; } |
		sed -n "s/^ *Depends: \(linux-image-${1//./\\.}\.[0-9].*\)$/\1/p" | head -n 1
}

# last_fetched RELEASE: the one that was here last; nothing where none was.
last_fetched() {
	local kept
	kept=$(readlink "$cache/$1") && [ -d "$cache/$kept" ] && printf '%s\n' "$kept"
}

# unpack FOLDER: makes FOLDER/kernel of the package file there. The list of what each module needs is
# computed when such a package is installed, so it is done here.
unpack() {
	local version
	dpkg -x "$1"/*.deb "$1/kernel" &&
		version=$(basename "$1/kernel/lib/modules/"*) &&
		busybox depmod -b "$1/kernel" "$version" || return 1
	if ! grep -q '^CONFIG_MEM_SOFT_DIRTY=y' "$1/kernel/boot/config-$version"; then
		say "$version was built without soft-dirty (CONFIG_MEM_SOFT_DIRTY)"
		exit 1
	fi
}

# fetch RELEASE PACKAGE: what stands under its own name is whole and was checked.
fetch() {
	rm -rf "$work"
	work=$(mktemp -d "$cache/.fetch-XXXXXX")
	say "downloading $2"
	# Without the sandbox: its user could not write here.
	(cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "$2" >&2) &&
		unpack "$work" && mv -T "$work/kernel" "$cache/$2"
}

# obtain RELEASE PACKAGE: has it in the cache.
obtain() {
	[ -n "$2" ] || return 1
	[ -d "$cache/$2" ] || fetch "$1" "$2" || return 1
	ln -sfn "$2" "$cache/$1"
}

main() {
	local release=$1 package
	if [ -z "${metapackages[$release]:-}" ]; then
		say "no kernel $release is known; there are ${!metapackages[*]}"
		exit 1
	fi
	if ! command -v apt-cache >/dev/null; then
		say 'no apt here to fetch a kernel with'
		exit 77
	fi
	mkdir -p "$cache"
	# Two that fetch at once take turns; the second finds what the first one brought.
	exec 9>"$cache/.lock"
	flock 9

	package=$(package_of "$release")
	[ -n "$package" ] || package=$(last_fetched "$release") || true
	if ! obtain "$release" "$package"; then
		# The lists of a fresh machine are empty, and old ones name builds that are gone.
		say 'fetching package lists'
		apt-get -qq -o DPkg::Lock::Timeout=300 update >&2 || true
		package=$(package_of "$release")
		if ! obtain "$release" "$package" && ! package=$(last_fetched "$release"); then
			say "${package:-${metapackages[$release]}} cannot be had from this machine's archives"
			exit 77
		fi
	fi
	printf '%s\n' "$cache/$package"
}

if [ $# -ne 1 ]; then
	sed -n 's/^# \(usage: .*\)/\1/p' "$0" >&2
	exit 1
fi
main "$1"
