#!/bin/sh
# fetch-deb.sh PACKAGE...
#
# Unpacks Debian packages under .cache/deb/PACKAGE without installing them, so
# that end-to-end tests can run real servers and no service is ever started.
# Prints one unpacked root per line. A package that is already there is left as
# it is. Needs apt's package lists ("apt-get update") and nothing else; set
# DEB_CACHE to unpack elsewhere.
set -eu

if [ $# -eq 0 ]; then
	sed -n '2,/^set -eu/{/^#/s/^# \{0,1\}//p}' "$0" >&2
	exit 2
fi

cache=${DEB_CACHE:-$(cd "$(dirname "$0")/.." && pwd)/.cache/deb}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)

for package in "$@"; do
	case $package in
	'' | *[!a-z0-9.+-]*)
		echo "fetch-deb.sh: '$package' is not the name of a Debian package" >&2
		exit 2
		;;
	esac
	root=$cache/$package
	if [ ! -d "$root" ]; then
		# Unpacked beside its place and renamed, so that an interrupted run leaves
		# nothing that looks complete. The folder is world readable on purpose: apt
		# downloads as the user _apt where it can.
		work=$(mktemp -d "$cache/.$package.XXXXXX")
		chmod 755 "$work"
		trap 'rm -rf "$work"' EXIT
		if ! (cd "$work" && apt-get -q -o APT::Sandbox::User=root download "$package" >apt.log 2>&1); then
			cat "$work/apt.log" >&2
			echo "fetch-deb.sh: cannot download $package (is 'apt-get update' needed?)" >&2
			exit 1
		fi
		dpkg-deb -x "$work"/*.deb "$work/root"
		# Another run may have been faster; its copy is as good.
		mv -T "$work/root" "$root" 2>/dev/null || [ -d "$root" ]
		rm -rf "$work"
		trap - EXIT
	fi
	echo "$root"
done
