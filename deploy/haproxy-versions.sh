#!/usr/bin/env bash
# Fetches the HAProxy versions that the tests run on into a cache of the user's: Debian's own
# packages of several releases, unpacked side by side. Nothing is installed and no root is needed.
# See usage() below, or run it with --help.
set -euo pipefail

readonly VERSIONS=(2.6 3.0 3.2 3.4)
# The Debian releases that have them.
readonly SUITES=(bookworm trixie testing unstable experimental)
readonly KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
readonly CACHE=${LBCTL_TEST_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/lbctl}/haproxy

usage() {
    cat <<TEXT
Usage: deploy/haproxy-versions.sh

Makes $CACHE/VERSION/haproxy for the versions ${VERSIONS[*]}, where
they are missing. LBCTL_TEST_CACHE names another folder than ~/.cache/lbctl.

On a system other than Debian it says which programs to name in which variables instead.
Exit codes: 0 all there, 1 a version could not be fetched, 2 usage.
TEXT
}

main() {
    case ${1:-} in
    '') ;;
    -h | --help | help)
        usage
        return
        ;;
    *)
        usage >&2
        exit 2
        ;;
    esac
    PATH="$PATH:/usr/sbin:/usr/local/sbin"
    mkdir -p "$CACHE"
    # Two runs at once would fetch everything twice.
    exec 9>"$CACHE/.lock"
    flock 9
    local version
    local -a missing=()
    for version in "${VERSIONS[@]}"; do
        is_there "$version" || is_installed "$version" || missing+=("$version")
    done
    ((${#missing[@]} == 0)) || fetch_all "${missing[@]}"
}

# A program that runs and says its version.
is_there() {
    is_named "$1" || runs_as "$CACHE/$1/haproxy" "$1"
}

# The variable that names a program for the tests, in place of the cached one.
variable() {
    echo "LBCTL_TEST_HAPROXY_${1//./_}"
}

is_named() {
    local name
    name=$(variable "$1")
    [[ -n ${!name:-} ]]
}

runs_as() {
    local said
    said=$("$1" -v 2>/dev/null) && [[ $said == *" version $2."* ]]
}

# This system's own HAProxy serves as well as an unpacked one of its version.
is_installed() {
    local own
    own=$(type -P haproxy) && runs_as "$own" "$1" || return 1
    rm -rf "${CACHE:?}/$1"
    mkdir -p "$CACHE/$1"
    ln -s "$(readlink -f "$own")" "$CACHE/$1/haproxy"
}

fetch_all() {
    local mirror version
    if ! mirror=$(debian_mirror); then
        for version in "$@"; do
            say "HAProxy $version is missing: set $(variable "$version") to a program of that version"
        done
        die "the versions are fetched only on Debian, from the mirror that apt is set up with"
    fi
    say "fetching HAProxy $* into $CACHE (packages of Debian's, unpacked and not installed)"
    work=$(mktemp -d "$CACHE/.fetching.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    prepare_apt "$mirror"
    for version in "$@"; do
        fetch "$version"
    done
}

# The address that this machine's packages come from.
debian_mirror() {
    local codename
    grep -qsx 'ID=debian' /etc/os-release && type -P apt-get dpkg-deb patchelf >/dev/null || return 1
    codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    # shellcheck disable=SC2016  # apt expands these.
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        awk -v release="$codename" '$2 == release && $3 == "main" { print $1; found = 1; exit } END { exit !found }'
}

# An apt of its own that knows of no installed package, so that it brings every library along. Lists
# of a mirror that stands still are taken too: they are signed, and an older HAProxy is as good here.
prepare_apt() {
    mkdir -p "$work"/apt/{lists,archives}/partial
    touch "$work/apt/status"
    printf "deb [signed-by=$KEYRING] $1 %s main\n" "${SUITES[@]}" >"$work/apt/sources.list"
    cat >"$work/apt/apt.conf" <<TEXT
Dir::State "$work/apt";
Dir::State::lists "$work/apt/lists";
Dir::State::status "$work/apt/status";
Dir::Cache "$work/apt";
Dir::Cache::archives "$work/apt/archives";
Dir::Etc::sourcelist "$work/apt/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::preferencesparts "-";
APT::Install-Recommends "false";
APT::Sandbox::User "$(id -un)";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
TEXT
    export APT_CONFIG="$work/apt/apt.conf"
    quietly apt-get update
}

# Unpacks a version with its libraries and its loader, and shows that it runs before it is taken.
fetch() {
    local version=$1 found suite
    read -r found suite < <(newest "$version") ||
        die "Debian has no HAProxy $version any more: set $(variable "$version") to a program of that version"
    local home="$CACHE/$version" new="$work/$version"
    mkdir -p "$new" "$work/debs"
    quietly download "$suite" "haproxy=$found"
    local package
    for package in "$work"/debs/*.deb; do
        quietly dpkg-deb --extract "$package" "$new/root"
    done
    rm -rf "$work/debs" "$new/root/usr/share"
    relocate "$new/root" "$home/root"
    ln -s root/usr/sbin/haproxy "$new/haproxy"
    rm -rf "$home"
    mv "$new" "$home"
    runs_as "$home/haproxy" "$version" || die "HAProxy $found does not run: $("$home/haproxy" -v 2>&1 | head -n 2)"
    say "HAProxy $found from $suite"
}

# The revision that Debian has of a version, and the release that it is in.
newest() {
    apt-cache madison haproxy | awk -F' *[|] *' -v wanted="$1." '
        index($2, wanted) == 1 { split($3, at, " "); sub("/.*", "", at[2]); print $2, at[2]; found = 1; exit }
        END { exit !found }'
}

download() {
    apt-get --yes --target-release "$1" --download-only install "$2"
    mv "$work"/apt/archives/*.deb "$work/debs/"
}

# Makes a program find its loader and its libraries where it will stand.
relocate() {
    local now=$1 later=$2 program="$1/usr/sbin/haproxy" loader triplet
    loader=$(patchelf --print-interpreter "$program")
    loader=$(cd "$now" && find . -name "${loader##*/}" -type f | head -n 1)
    triplet=$(basename "$(dirname "$(find "$now" -name 'libc.so.6' | head -n 1)")")
    quietly patchelf --force-rpath --set-rpath "$later/usr/lib/$triplet:$later/lib/$triplet" "$program"
    quietly patchelf --set-interpreter "$later/${loader#./}" "$program"
}

quietly() {
    "$@" >"$work/log" 2>&1 || {
        cat "$work/log" >&2
        die "this failed: $*"
    }
}

say() {
    printf 'haproxy-versions: %s\n' "$*" >&2
}

die() {
    say "$@"
    exit 1
}

main "$@"
