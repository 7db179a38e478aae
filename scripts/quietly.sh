# SPDX-License-Identifier: MIT
# Sourced by scripts that install and build.

# quietly LOG COMMAND...: run a command quietly; show what it said if it fails.
quietly() {
    local log=$1
    shift
    if ! "$@" >"$log" 2>&1 </dev/null; then
        cat "$log" >&2
        echo "${0##*/}: failed: $*" >&2
        exit 1
    fi
}
