# shellcheck shell=bash
# Sets this tree up for ./demo and ./test, which source it from the top of the tree and call `set_up demo|test`:
# Debian packages, a virtual environment in .venv, the compiled modules. What is already there is left alone, so a
# second run takes a second or two. One line per step with its time; a step that fails shows its whole output.
set -euo pipefail

export DIST_EXTRA_CONFIG="$PWD/scripts/build.cfg" PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

# What Debian offers: "probe:package". A probe is a program, or a file when it starts with a slash.
DEMO_NEEDS=(gcc:gcc /usr/include/stdio.h:libc6-dev nbdcopy:libnbd-bin)
TEST_NEEDS=(file:file qemu-storage-daemon:qemu-system-common qemu-img:qemu-utils nbdsh:python3-libnbd fio:fio
    chromium:chromium /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf:fonts-dejavu-core
    prometheus:prometheus mke2fs:e2fsprogs sg_inq:sg3-utils sdparm:sdparm openssl:openssl curl:curl man:man-db zsh:zsh
    qemu-system-x86_64:qemu-system-x86 spin:spin
    dpkg-buildpackage:build-essential dh:debhelper debootstrap:debootstrap systemd-analyze:systemd)

# step NAME COMMAND...: runs it quietly; ends the script with the command's exit code if it fails.
step() {
    local name=$1 log code=0 started=${EPOCHREALTIME/[.,]/} elapsed
    shift
    log=$(mktemp)
    set +e
    (set -e; "$@") >"$log" 2>&1
    code=$?
    set -e
    elapsed=$(((${EPOCHREALTIME/[.,]/} - started) / 100000))
    if ((code)); then
        cat "$log" >&2
        rm -f "$log"
        printf '%-18s FAILED with exit code %d: %s\n' "$name" "$code" "$*" >&2
        exit "$code"
    fi
    rm -f "$log"
    printf '%-18s %3d.%d s\n' "$name" $((elapsed / 10)) $((elapsed % 10))
}

# The interpreter that .venv is made of: Debian's own, whose missing parts apt can install, or else the first on PATH.
python() {
    local candidate
    for candidate in /usr/bin/python3 python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
}

missing_packages() {
    local python need probe
    python=$(python)
    if [[ -z $python ]]; then
        echo python3 python3-venv python3-dev
    else
        "$python" -c 'import venv, ensurepip' 2>/dev/null || echo python3-venv
        "$python" -c 'import pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' || echo python3-dev
    fi
    for need in "$@"; do
        probe=${need%%:*}
        if [[ $probe == /* ]]; then [[ -e $probe ]]; else command -v "$probe" >/dev/null; fi || echo "${need#*:}"
    done
}

# The prometheus package starts a server on all addresses, now and at each boot: the tests need the program only.
install_packages() {
    local policy=/usr/sbin/policy-rc.d saved=
    export DEBIAN_FRONTEND=noninteractive
    if [[ -e $policy ]]; then
        saved=$(mktemp "$policy.XXXXXX")
        mv "$policy" "$saved"
    fi
    # shellcheck disable=SC2064  # expanded now: the variables are local
    trap "rm -f '$policy'; [[ -z '$saved' ]] || mv '$saved' '$policy'" EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    local apt=(apt-get -q -y -o Acquire::Retries=3 -o DPkg::Lock::Timeout=120)
    "${apt[@]}" update
    "${apt[@]}" install --no-install-recommends "$@"
    if [[ " $* " == *" prometheus "* ]] && command -v systemctl >/dev/null; then
        systemctl disable prometheus.service
    fi
}

require_packages() {
    local missing
    mapfile -t missing < <(missing_packages "$@" | tr ' ' '\n' | sort -u)
    ((${#missing[@]})) || return 0
    if ! command -v apt-get >/dev/null; then
        echo "This system lacks what these Debian packages hold: ${missing[*]}" >&2
        exit 1
    fi
    if ((EUID)); then
        echo "Packages are missing, and only root can install them. Run:" >&2
        echo "  sudo apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    step "packages" install_packages "${missing[@]}"
    mapfile -t missing < <(missing_packages "$@")
    if ((${#missing[@]})); then
        echo "Installed, but still missing: ${missing[*]}" >&2
        exit 1
    fi
}

# requirements [EXTRA]: what pyproject.toml says is needed to build, to run and (with EXTRA) to develop.
requirements() {
    "$(python)" - "$@" <<'END'
import sys
import tomllib

with open("pyproject.toml", "rb") as file:
    config = tomllib.load(file)
extras = config["project"]["optional-dependencies"]
groups = [config["build-system"]["requires"], config["project"]["dependencies"], *(extras[name] for name in sys.argv[1:])]
print(*(requirement for group in groups for requirement in group), sep="\n")
END
}

# Scripts in .venv/bin name their interpreter by its full path: a tree that was moved needs a new environment.
venv_works() {
    grep -qxF "command = $(python) -m venv $PWD/.venv" .venv/pyvenv.cfg 2>/dev/null &&
        .venv/bin/python -m pip --version >/dev/null 2>&1
}

make_venv() {
    rm -rf .venv
    "$(python)" -m venv "$PWD/.venv"
}

install_requirements() {
    local stamp=$1 wanted=$2
    .venv/bin/python -m pip install -q -r <(printf '%s\n' "$wanted")
    printf '%s\n' "$wanted" >"$stamp"
}

# Objects are kept in build/, so that only what changed is compiled again.
build_modules() {
    touch .venv/built.new
    .venv/bin/python setup.py -q build_ext
    mv .venv/built.new .venv/built
}

# An extension whose source is gone (another branch, a rename) could still be imported.
remove_orphans() {
    local module
    while read -r module; do
        [[ -e ${module%%.*}.pxd && -e ${module%%.*}.py ]] || rm -f "$module"
    done < <(find virtiod tests/sim -name '*.so')
}

# Puts the commands virtiod and virtiod-rpc into .venv/bin; they run what is in the tree.
install_commands() {
    .venv/bin/python -m pip install -q --no-build-isolation --no-deps -e .
    cp pyproject.toml .venv/commands
}

modules_are_stale() {
    local source
    [[ -e .venv/built ]] || return 0
    [[ -z $(find virtiod tests/sim setup.py scripts/build.cfg -newer .venv/built \
        \( -name '*.py' -o -name '*.pxd' -o -name build.cfg \) -print -quit) ]] || return 0
    while read -r source; do
        source=${source%.pxd}
        [[ ! -e $source.py ]] || compgen -G "$source.*.so" >/dev/null || return 0
    done < <(find virtiod ${VIRTIOD_TESTS:+tests/sim} -name '*.pxd')
    return 1
}

set_up() {
    local purpose=$1 wanted
    case $purpose in
        demo) require_packages "${DEMO_NEEDS[@]}" ;;
        test)
            require_packages "${DEMO_NEEDS[@]}" "${TEST_NEEDS[@]}"
            export VIRTIOD_TESTS=1 # see setup.py
            ;;
    esac
    venv_works || step "virtual env" make_venv
    wanted=$(if [[ $purpose == test ]]; then requirements dev; else requirements; fi)
    [[ $(cat ".venv/$purpose" 2>/dev/null) == "$wanted" ]] ||
        step "python packages" install_requirements ".venv/$purpose" "$wanted"
    remove_orphans
    ! modules_are_stale || step "build" build_modules
    cmp -s pyproject.toml .venv/commands || step "commands" install_commands
}
