#!/usr/bin/env bash
# Fetches moto's server, which stands for AWS in the tests, into a cache of the user's: a Python
# environment of its own with the versions of deploy/moto-requirements.txt. Nothing of the system is
# changed and no root is needed. See usage() below, or run it with --help.
set -euo pipefail

readonly HOME_OF_MOTO=${LBCTL_TEST_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/lbctl}/moto

usage() {
    cat <<TEXT
Usage: deploy/moto-versions.sh

Makes $HOME_OF_MOTO/bin/python with moto's server, where it is
missing or of other versions. LBCTL_TEST_CACHE names another folder than ~/.cache/lbctl;
LBCTL_TEST_MOTO names another Python that has moto[server].

Exit codes: 0 all there, 1 it could not be fetched, 2 usage.
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
    if [[ -n ${LBCTL_TEST_MOTO:-} ]]; then
        return
    fi
    wanted=$(dirname "${BASH_SOURCE[0]}")/moto-requirements.txt
    mkdir -p "${HOME_OF_MOTO%/*}"
    # Two runs at once would fetch everything twice.
    exec 9>"$HOME_OF_MOTO.lock"
    flock 9
    is_there || fetch
}

# The list is copied last, so that it stands only for what was installed in full.
is_there() {
    cmp --quiet "$wanted" "$HOME_OF_MOTO/requirements.txt"
}

fetch() {
    say "installing moto's server into $HOME_OF_MOTO with pip (about a minute; not installed elsewhere)"
    rm -rf "$HOME_OF_MOTO"
    quietly python3 -m venv "$HOME_OF_MOTO"
    quietly "$HOME_OF_MOTO/bin/pip" install --disable-pip-version-check --requirement "$wanted"
    quietly "$HOME_OF_MOTO/bin/python" -c 'import moto.server'
    cp "$wanted" "$HOME_OF_MOTO/requirements.txt"
}

quietly() {
    "$@" >"$HOME_OF_MOTO.log" 2>&1 || {
        cat "$HOME_OF_MOTO.log" >&2
        say "this failed: $*"
        exit 1
    }
}

say() {
    printf 'moto-versions: %s\n' "$*" >&2
}

main "$@"
