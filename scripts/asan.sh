#!/usr/bin/env bash
# Runs a command on modules that are compiled with AddressSanitizer: scripts/asan.sh python -m tests.fuzz used_ring
#
# The tree is copied to build/asan and compiled there (only what changed since the last time), so that the modules of this
# tree stay as fast as they are. The command runs in the copy, with the tools of .venv; what it finds is copied back.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
. scripts/setup.sh
(($#)) || { echo "usage: scripts/asan.sh COMMAND..." >&2; exit 2; }
set_up test

copy=build/asan
update_copy() {
    mkdir -p "$copy"
    # Times are kept: what did not change is not compiled again.
    git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
        [[ ! -e $file ]] || printf '%s\0' "$file"
    done | tar --null --files-from=- -c | tar -x -C "$copy"
}
compile_copy() {
    cd "$copy"
    DIST_EXTRA_CONFIG="$PWD/scripts/build.cfg" VIRTIOD_SANITIZE=address "$OLDPWD/.venv/bin/python" setup.py -q build_ext
}
step "copy" update_copy
step "build with asan" compile_copy

code=0
PATH="$PWD/.venv/bin:$PATH"
(
    cd "$copy"
    LD_PRELOAD=$(gcc -print-file-name=libasan.so) PYTHONMALLOC=malloc PYTHONPATH=$PWD \
        ASAN_OPTIONS=detect_leaks=0:${ASAN_OPTIONS:-} exec "$@"
) || code=$?
[[ ! -d $copy/tests/fuzz/found ]] || cp -r "$copy/tests/fuzz/found" tests/fuzz/
exit "$code"
