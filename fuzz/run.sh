#!/usr/bin/env bash
# Feeds every fuzz target for a while; see usage() below, or run it with --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# Without a sanitizer a stable toolchain can build them: lbctl has no unsafe code to watch.
readonly SANITIZER=none
# An input that takes longer, or makes lbctl ask for more memory, is a find.
readonly MAX_SECONDS=10 MAX_MIB=2048

usage() {
    cat <<'TEXT'
Usage: fuzz/run.sh SECONDS [TARGET...]

Feeds each target (all, if none is named) for so many seconds with inputs that grow out of those in
fuzz/corpus/TARGET. New ones go to fuzz/target/corpus/TARGET, where the next run finds them. Goes on
with the other targets after a find, then says where it is and how to run it again.

Exit codes: 0 nothing was found, 1 something was found, or a build failed, 2 usage.
TEXT
}

main() {
    local seconds=${1:-}
    if [[ ! $seconds =~ ^[1-9][0-9]*$ ]]; then
        usage >&2
        [[ $seconds == --help ]] && exit 0
        exit 2
    fi
    shift
    require_cargo_fuzz
    local -a targets=("$@") broken=()
    if ((${#targets[@]} == 0)); then
        mapfile -t targets < <(cargo fuzz list)
    fi
    say "building, which takes some minutes the first time"
    cargo fuzz build --sanitizer "$SANITIZER"
    local target
    for target in "${targets[@]}"; do
        feed "$target" "$seconds" || broken+=("$target")
    done
    if ((${#broken[@]} > 0)); then
        report "${broken[@]}"
        exit 1
    fi
    say "nothing was found"
}

require_cargo_fuzz() {
    cargo fuzz --version >/dev/null 2>&1 && return
    say "cargo-fuzz is not installed; running: cargo install cargo-fuzz --locked"
    cargo install cargo-fuzz --locked
}

feed() {
    local target=$1 seconds=$2 program
    program=$(program_of "$target")
    mkdir -p "target/corpus/$target" "artifacts/$target"
    say "$target, for $seconds s"
    (
        # Far over what one input may take, since the inputs themselves are held in memory, too.
        ulimit -v $((2 * MAX_MIB * 1024))
        "$program" -dict="dict/$target" -max_total_time="$seconds" -timeout="$MAX_SECONDS" -rss_limit_mb="$MAX_MIB" \
            -print_final_stats=1 -artifact_prefix="artifacts/$target/" \
            "target/corpus/$target" "corpus/$target"
    ) >"target/$target.log" 2>&1 || {
        tail -n 40 "target/$target.log" >&2
        return 1
    }
    grep -E '^stat::(number_of_executed_units|peak_rss_mb)' "target/$target.log" >&2
}

program_of() {
    echo "target/$(rustc -vV | sed -n 's/^host: //p')/release/$1"
}

report() {
    local target input
    for target in "$@"; do
        say "$target failed; its whole output is in fuzz/target/$target.log; to run its input again:"
        for input in "artifacts/$target"/*; do
            say "  cargo fuzz run --sanitizer $SANITIZER $target fuzz/$input"
        done
    done
    say "once it is mended, keep the input in fuzz/corpus, where the usual tests run it"
}

say() {
    printf 'fuzz: %s\n' "$*" >&2
}

main "$@"
