#!/usr/bin/env bash
# Installs what lbctl's build, demo and tests need and this machine lacks; does nothing if all is
# there. See usage() below, or run it with --help.
set -euo pipefail

readonly EXIT_FAILED=1 EXIT_USAGE=2 EXIT_MISSING=3
readonly POLICY=/usr/sbin/policy-rc.d
readonly POLICY_MARK='written by lbctl deploy/bootstrap.sh'
# Debian starts these at once when they are installed; lbctl's demo and tests run their own copies.
readonly SERVICES=(haproxy etcd)

usage() {
    cat <<'TEXT'
Usage: deploy/bootstrap.sh [build|demo|fuzz|test]

Installs the Debian packages that are missing for building lbctl (build), for `make demo` (demo,
the default), for `make fuzz` (fuzz) or for `make test` (test). It says what it will run, asks for sudo only if it is not
root, and starts no service. On other systems it lists what to install.

Exit codes: 0 all there, 1 an installation failed, 2 usage, 3 something is missing that it cannot
install here.
TEXT
}

main() {
    # A login shell that is not set up for them lacks these two.
    PATH="$PATH:/usr/sbin:/usr/local/sbin:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin"
    local goal=${1:-demo}
    case $goal in
    build | demo | fuzz | test) require "$goal" ;;
    as-root)
        shift
        install_as_root "$@"
        ;;
    -h | --help | help) usage ;;
    *)
        usage >&2
        exit "$EXIT_USAGE"
        ;;
    esac
}

require() {
    local -a missing=()
    mapfile -t missing < <(missing_packages "$1")
    if ((${#missing[@]} > 0)); then
        install_packages "$1" "${missing[@]}"
        mapfile -t missing < <(missing_packages "$1")
        if ((${#missing[@]} > 0)); then
            die "$EXIT_FAILED" "still missing after the installation: ${missing[*]}"
        fi
    fi
    if [[ $1 == test ]]; then
        "$(dirname "${BASH_SOURCE[0]}")/haproxy-versions.sh"
        "$(dirname "${BASH_SOURCE[0]}")/moto-versions.sh"
    fi
    require_rust
}

# Every need of a goal: what shows that it is there (a program or a file), and Debian's package.
needs() {
    cat <<'TEXT'
cc                                  gcc
/usr/include/stdio.h                libc6-dev
make                                make
protoc                              protobuf-compiler
descriptor.proto                    libprotobuf-dev
/etc/ssl/certs/ca-certificates.crt  ca-certificates
TEXT
    if [[ $1 == fuzz ]]; then
        echo 'c++ g++'
    fi
    if [[ $1 == demo || $1 == test ]]; then
        cat <<'TEXT'
haproxy                             haproxy
nc                                  netcat-openbsd
TEXT
    fi
    if [[ $1 == test ]]; then
        cat <<'TEXT'
etcd                                etcd-server
etcdctl                             etcd-client
openssl                             openssl
ip                                  iproute2
ethtool                             ethtool
kill                                procps
patchelf                            patchelf
shellcheck                          shellcheck
ensurepip                           python3-venv
TEXT
    fi
}

missing_packages() {
    local sign package
    while read -r sign package; do
        is_there "$sign" || echo "$package"
    done < <(needs "$1")
}

is_there() {
    local protoc
    case $1 in
    /*) [[ -e $1 ]] ;;
    # Debian's Python comes without what an environment of its own needs.
    ensurepip) python3 -c 'import ensurepip, venv' 2>/dev/null ;;
    # The types that every protoc knows; it finds them beside itself.
    descriptor.proto)
        protoc=$(readlink -f "$(type -P protoc)") && [[ -e ${protoc%/bin/*}/include/google/protobuf/$1 ]]
        ;;
    *) type -P "$1" >/dev/null ;;
    esac
}

install_packages() {
    local goal=$1
    shift
    if ! is_debian; then
        say "lbctl needs these to $(purpose "$goal"), by their Debian names: $*"
        die "$EXIT_MISSING" "install them with this system's package manager, then run this again"
    fi
    say "installing with apt-get, to $(purpose "$goal"): $*"
    if ((EUID == 0)); then
        install_as_root "$@"
    elif type -P sudo >/dev/null; then
        say "this needs root: running sudo"
        sudo -- bash "${BASH_SOURCE[0]}" as-root "$@"
    else
        die "$EXIT_MISSING" "this needs root and there is no sudo: as root, run: apt-get install $*"
    fi
}

purpose() {
    case $1 in
    build) echo build ;;
    demo) echo "run the demo" ;;
    fuzz) echo "build the fuzz targets" ;;
    test) echo "run the tests" ;;
    esac
}

is_debian() {
    # ID_LIKE covers what is made from Debian and keeps its package names.
    type -P apt-get >/dev/null && grep -qsE '^ID(_LIKE)?=.*\bdebian\b' /etc/os-release
}

install_as_root() {
    export DEBIAN_FRONTEND=noninteractive
    # Two runs at once must not restore each other's policy file.
    exec 9>/run/lbctl-bootstrap.lock
    flock 9
    local -a fresh=()
    mapfile -t fresh < <(services_to_come)
    trap restore_policy EXIT
    forbid_service_starts
    apt_install "$@"
    keep_services_off "${fresh[@]}"
    restore_policy
    trap - EXIT
}

apt_install() {
    local -a options=(--yes --quiet --no-install-recommends -o DPkg::Lock::Timeout=300)
    # Package lists that are missing or too old show up as packages that cannot be found or fetched.
    if apt-get "${options[@]}" --simulate install "$@" >/dev/null 2>&1; then
        apt-get "${options[@]}" install "$@" && return
    fi
    say "refreshing the package lists: apt-get update"
    apt-get --quiet update
    apt-get "${options[@]}" install "$@"
}

services_to_come() {
    local service
    for service in "${SERVICES[@]}"; do
        has_unit "$service" || echo "$service"
    done
}

has_unit() {
    [[ -e /lib/systemd/system/$1.service || -e /usr/lib/systemd/system/$1.service ]]
}

# Debian's way to say which services an installation may start:
# https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt
forbid_service_starts() {
    restore_policy
    if [[ -e $POLICY ]]; then
        mv "$POLICY" "$POLICY.before-lbctl"
    fi
    cat >"$POLICY" <<TEXT
#!/bin/sh
# $POLICY_MARK
for word in "\$@"; do
    case \$word in
    haproxy | haproxy.service | etcd | etcd.service) exit 101 ;;
    esac
done
[ ! -x $POLICY.before-lbctl ] || exec $POLICY.before-lbctl "\$@"
TEXT
    chmod 755 "$POLICY"
}

# Puts back what was there, also after a run that was killed.
restore_policy() {
    if grep -qs "$POLICY_MARK" "$POLICY"; then
        rm -f "$POLICY"
        if [[ -e $POLICY.before-lbctl ]]; then
            mv "$POLICY.before-lbctl" "$POLICY"
        fi
    fi
}

# An installation also enables its service for the next boot.
keep_services_off() {
    local service
    for service in "$@"; do
        has_unit "$service" || continue
        say "leaving the $service service off; to use it: systemctl enable --now $service"
        deb-systemd-helper disable "$service.service" >/dev/null 2>&1 || true
        update-rc.d "$service" disable >/dev/null 2>&1 || true
    done
}

require_rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$(dirname "${BASH_SOURCE[0]}")/../Cargo.toml")
    if ! type -P cargo >/dev/null || ! found=$(rustc --version 2>/dev/null); then
        die "$EXIT_MISSING" "no Rust toolchain found: install Rust $wanted or newer (https://rustup.rs)"
    fi
    found=${found#rustc }
    found=${found%%[ -]*}
    if [[ $(printf '%s\n' "$wanted" "$found" | sort --version-sort | head -n 1) != "$wanted" ]]; then
        die "$EXIT_MISSING" "Rust $found is too old, lbctl needs $wanted: run: rustup update stable"
    fi
}

say() {
    printf 'bootstrap: %s\n' "$*" >&2
}

die() {
    local code=$1
    shift
    say "$@"
    exit "$code"
}

main "$@"
