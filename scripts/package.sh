#!/usr/bin/env bash
# Builds the Debian package from what git knows of this tree: scripts/package.sh [DIRECTORY]. Prints the package's path.
#
# Needs build-essential, debhelper, python3-dev and python3-venv, and what pip can reach. A package that was built from the same
# files is taken from .cache/package.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

into=${1:-.cache/package}
mapfile -d '' -t files < <(git ls-files -z --cached --others --exclude-standard -- \
    virtiod rpc_client debian systemd dashboards docs pyproject.toml setup.py README.md CHANGELOG.md LICENSE)
sum=$({ /usr/bin/python3 -V; sha256sum -- "${files[@]}"; } | sha256sum | cut -c1-16)
cache=.cache/package/$sum
mkdir -p "$into" .cache/package
exec {lock}>.cache/package.lock
flock "$lock" # one at a time: others wait for what it makes
if [[ ! -e $cache/done ]]; then
    rm -rf .cache/package/????????????????
    mkdir -p "$cache"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir "$work/virtiod"
    printf '%s\0' "${files[@]}" | tar -c --null -T - | tar -x -C "$work/virtiod"
    # Started by tests, too: nothing of their virtual environment, nor of how this tree builds in place.
    (cd "$work/virtiod" && env -u VIRTUAL_ENV -u DIST_EXTRA_CONFIG -u PYTHONPATH PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        dpkg-buildpackage -b -us -uc >"$work/log" 2>&1 {lock}>&-) || { cat "$work/log" >&2; exit 1; }
    mv "$work"/*.deb "$cache/"
    touch "$cache/done"
fi
cp "$cache"/*.deb "$into/"
realpath "$into"/virtiod_*.deb
