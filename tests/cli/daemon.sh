# Sourced by the cases that run a ckptd of their own: store $TMP/s, socket $TMP/d.sock, log
# $TMP/log.  tests/cli/cases.sh first.
# shellcheck shell=bash

if [[ ! -x $BUILD/ckptd/ckptd ]]; then
    echo "this build has no ckptd"
    exit 77
fi
daemon='' gate=$TMP/gate

# What stops a save between "written" and "durable" while the file $gate is there.
gated=(env "LD_PRELOAD=$BUILD/tests/libgate_sync.so" "CKPT_TEST_GATE=$gate"
    "ASAN_OPTIONS=verify_asan_link_order=0")

# until_true SECONDS COMMAND...: waits for it; the case fails when the time is over.
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS > end)); then
            echo "in vain: $*"
            [[ ! -e $TMP/log ]] || tail -n 30 "$TMP/log"
            exit 1
        fi
        sleep 0.02
    done
}

# start_ckptd [COMMAND...]: by default ckptd on $TMP/s and $TMP/d.sock; returns when it serves.
start_ckptd() {
    (($#)) || set -- ckptd --store "$TMP/s"
    "$@" --socket "$TMP/d.sock" 2>>"$TMP/log" &
    daemon=$!
    until_true 20 ckpt status --socket "$TMP/d.sock"
}

# stop_ckptd [STATUS]
stop_ckptd() {
    local got=0
    kill -TERM "$daemon"
    wait "$daemon" || got=$?
    [[ $got == "${1:-0}" ]] || { echo "ckptd ended with $got" && tail -n 30 "$TMP/log" && exit 1; }
    daemon=''
}

# The worker is the keeper's only child.
worker() {
    tr -d ' ' <"/proc/$daemon/task/$daemon/children"
}

gone() {
    [[ ! -e /proc/$1 ]] || grep -q '^State:.*Z' "/proc/$1/status"
}

# tensor_file PATH BYTES SEED: a safetensors file with one tensor of noise.
tensor_file() {
    python3 - "$@" <<'P'
import json, random, struct, sys
path, size, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
head = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
with open(path, "wb") as f:
    f.write(struct.pack("<Q", len(head)) + head + random.Random(seed).randbytes(size))
P
}

# save STEP [ARGUMENT...]: $TMP/f.safetensors as a step of job j
save() {
    local step=$1
    shift
    ckpt --store "$TMP/s" save "$TMP/f.safetensors" --job j --step "$step" --socket "$TMP/d.sock" "$@"
}

# field EXPRESSION: of the status page p of the ckptd on $TMP/d.sock
field() {
    ckpt --json status --socket "$TMP/d.sock" >page
    python3 -c 'import json, sys; p = json.load(open("page")); print(eval(sys.argv[1]))' "$1"
}

# in_own_mounts: the case again, in a mount namespace where it may mount what it likes.
in_own_mounts() {
    [[ -z ${IN_OWN_MOUNTS:-} ]] || return 0
    if ((EUID != 0)) || ! unshare -m true 2>/dev/null; then
        echo "mounting needs root and unshare"
        exit 77
    fi
    IN_OWN_MOUNTS=1 exec unshare -m "$0"
}
