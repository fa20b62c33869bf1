# Sourced by the cases that put `ckpt run` around a real launcher, after cases.sh and daemon.sh.
# shellcheck shell=bash

# goes_on JOB COMMAND...: two ranks of a job under a launcher.  In each launch one of them dies; all
# that is left of it ends, and the next one goes on from the last commit.
goes_on() {
    local job=$1 number step
    shift
    ends 0 "$@"
    grep '^rank . of 2: launch' out | sort >resumed
    for number in 0 1; do
        for step in 0 2 4 6; do
            echo "rank $number of 2: launch goes on after $step"
        done
    done | diff - resumed || { cat err && exit 1; }
    ends 0 ckpt ls "$job"
    says out "^$job +7 "
    ends 0 ckpt verify "$job"
    echo "$job: 3 ranks killed, resumed from the newest each time"
}

start_ckptd
export CKPT_SOCKET=$TMP/d.sock CKPT_STORE=$TMP/s
run=(ckpt run --backoff 0)
rank=("$BUILD/tests/launched_rank")
