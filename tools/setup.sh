# Shared by quickstart and check (sourced, not run): finds the root of the tree
# and installs what tools/packages.txt lists.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
JOBS=$(nproc 2>/dev/null || echo 2)

# setup_packages GROUP...: the packages of these groups, one a line.
setup_packages() {
    local when package _why group
    while read -r when package _why; do
        for group in "$@"; do
            if [[ $when == "$group" ]]; then
                printf '%s\n' "$package"
            fi
        done
    done <"$ROOT/tools/packages.txt"
}

setup_installed() {
    local state
    state=$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) && [[ $state == installed ]]
}

# setup_install GROUP...: installs what is missing, or says how and exits with 2.
setup_install() {
    local package missing=()
    if ! command -v dpkg-query >/dev/null; then
        echo "This is not Debian: install the equivalents of" >&2
        setup_packages "$@" | sed 's/^/    /' >&2
        echo "and build with: cmake -B build -G Ninja && ninja -C build" >&2
        exit 2
    fi
    for package in $(setup_packages "$@"); do
        setup_installed "$package" || missing+=("$package")
    done
    if ((${#missing[@]} == 0)); then
        return 0
    fi
    if ((EUID != 0)); then
        echo "Packages are missing and only root can install them.  Run this, then start again:" >&2
        echo "    sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
        exit 2
    fi
    echo "installing: ${missing[*]}"
    setup_apt update
    setup_apt install -y --no-install-recommends "${missing[@]}"
}

# Quiet unless it fails; never asks.
setup_apt() {
    local log
    log=$(mktemp)
    if ! DEBIAN_FRONTEND=noninteractive apt-get "$@" >"$log" 2>&1 </dev/null; then
        cat "$log" >&2
        rm -f "$log"
        echo "apt-get $* failed (above)" >&2
        exit 2
    fi
    rm -f "$log"
}

# setup_build DIR CMAKE-ARGUMENT...: configures and builds, quiet unless it fails.
setup_build() {
    local dir=$1 log
    shift
    log=$(mktemp)
    if cmake -S "$ROOT" -B "$dir" -G Ninja "$@" >"$log" 2>&1 </dev/null &&
        ninja -C "$dir" -j "$JOBS" >>"$log" 2>&1 </dev/null; then
        rm -f "$log"
        return 0
    fi
    tail -n 100 "$log" | sed 's/^/    /'
    rm -f "$log"
    return 1
}
