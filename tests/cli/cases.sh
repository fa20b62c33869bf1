# Sourced by the cases: a call must end with the wanted exit status, and its words are
# kept in files out and err.
# shellcheck shell=bash

make_jobs() {
    "$BUILD/tests/make_jobs" "$@"
}

# ends STATUS COMMAND...
ends() {
    local want=$1 got=0
    shift
    "$@" >out 2>err || got=$?
    if [[ $got != "$want" ]]; then
        echo "\"$*\" ended with $got, expected $want"
        cat out err
        exit 1
    fi
}

# says FILE PATTERN: the extended regular expression is in the file.  What ckptd logs comes behind
# what it answers, so its log is waited for.
says() {
    local left=500
    until grep -Eq -- "$2" "$1"; do
        if [[ $1 == log ]] && ((left-- > 0)); then
            sleep 0.02
            continue
        fi
        echo "\"$2\" is not in $1:"
        cat "$1"
        exit 1
    done
}

silent() {
    [[ ! -s $1 ]] || {
        echo "$1 is not empty:"
        cat "$1"
        exit 1
    }
}
