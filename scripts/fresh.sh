#!/usr/bin/env bash
# Proves ./demo and ./test on a fresh Debian: scripts/fresh.sh [demo|test ...] (both, each in a machine of its own).
#
# For each command a chroot of Debian 12 with only git and ca-certificates gets a clone of this tree's HEAD and runs the
# command, timed, as root. FRESH_MIRROR names another Debian mirror, FRESH_SUITE another release.
#
# Mounts live in a mount namespace of their own, processes in a process namespace: both end with it, however it ends.
# What this host has set up to reach Debian and PyPI applies inside too: apt's and pip's configuration, local package
# directories that pip's names, proxies, certificates.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mirror=${FRESH_MIRROR:-} # debootstrap knows one
suite=${FRESH_SUITE:-bookworm}

say() { printf '%s  %s\n' "$(date +%T)" "$*"; }

copy_network_settings() {
    local root=$1 file
    cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} /etc/apt/apt.conf.d/* \
        /etc/apt/auth.conf.d/* /etc/pip.conf ~/.config/pip/pip.conf ~/.pip/pip.conf \
        /usr/local/share/ca-certificates/*.crt; do
        [[ -f $file ]] || continue
        grep -qs '^[^#]*\(DPkg::\|APT::Update::\)' "$file" && continue # hooks run programs that are not in there
        install -D -m 644 "$file" "$root$file"
    done
    chroot "$root" update-ca-certificates >/dev/null 2>&1
    env | grep -iE '^(PIP_|(https?|ftp|all|no)_proxy=|SSL_CERT_|REQUESTS_CA_BUNDLE=|CURL_CA_BUNDLE=)' >"$root/srv/env" || true
}

# Directories of packages on this host: find-links, and indexes with file:// addresses.
local_packages() {
    { python3 -m pip config list 2>/dev/null || true; } |
        grep -E '(find-links|index-url)=' | grep -oE "(file://)?/[^ ']+" | sed -E 's,^file://,,; s,/simple/?$,,' | sort -u
}

# Inside the namespaces: mounts, runs ./COMMAND in the clone, and looks at what it left running.
run_inside() {
    local root=$1 command=$2 directory process code=0 left= settings
    mount --make-rprivate /
    mount --bind "$root" "$root" # containers, which tests make, need a root that is a mount
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount --rbind /sys "$root/sys"
    for directory in $(local_packages); do
        [[ -d $directory ]] || continue
        mkdir -p "$root$directory"
        mount --bind -o ro "$directory" "$root$directory"
    done
    mapfile -t settings <"$root/srv/env"
    SECONDS=0
    env -i HOME="$HOME" PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb LANG=C.UTF-8 "${settings[@]}" \
        chroot "$root" /bin/sh -c 'cd /srv/virtiod && exec "./$0"' "$command" </dev/null || code=$?
    say "fresh ./$command: exit code $code after $SECONDS s"
    for process in "$root"/proc/[0-9]*; do
        [[ ${process##*/} == "$BASHPID" ]] || left+="  $(tr '\0' ' ' <"$process/cmdline")"$'\n'
    done
    if [[ -n $left ]]; then
        printf 'left running:\n%s' "$left"
        code=1
    fi
    return "$code"
}

if [[ ${1:-} == --inside ]]; then
    run_inside "$2" "$3"
    exit
fi

((EUID == 0)) || { echo "$0: needs root, to make a chroot" >&2; exit 1; }
command -v debootstrap >/dev/null || { echo "$0: needs debootstrap (apt-get install debootstrap)" >&2; exit 1; }
(($#)) || set -- demo test
head=$(git rev-parse HEAD)
work=$(mktemp -d /var/tmp/virtiod-fresh.XXXXXX)
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM

say "debootstrap $suite"
debootstrap --variant=minbase --include=git,ca-certificates "$suite" "$work/base" ${mirror:+"$mirror"} >"$work/log" 2>&1 ||
    { cat "$work/log" >&2; exit 1; }
failed=0
for command in "$@"; do
    rm -rf --one-file-system "$work/chroot"
    cp -a "$work/base" "$work/chroot"
    copy_network_settings "$work/chroot"
    git clone -q --no-hardlinks . "$work/chroot/srv/virtiod"
    git -C "$work/chroot/srv/virtiod" checkout -q --detach "$head"
    say "fresh ./$command of $head"
    unshare --mount --pid --fork --kill-child scripts/fresh.sh --inside "$work/chroot" "$command" || failed=1
done
exit "$failed"
