#!/usr/bin/env python3
"""What `ckpt run` adds to a restart.

    run_restart.py --build BUILD [--dir DIR] [--rounds 11] [--restarts 3] [--pause 0.1] [--count 100]

A command fails RESTARTS times and then ends well.  It is started again by `ckpt run --backoff
PAUSE:PAUSE` and by a bare shell loop with `sleep PAUSE`, in turns, ROUNDS times each: once as a
command that does nothing, without a store, and once as one that saves 4 KiB with `ckpt save` into a
job of COUNT checkpoints in DIR, of which `ckpt run` then reads the history.  A gap is the time
from the last line of a start to the first line of the next one, both written by the command (bash's
EPOCHREALTIME), less the pause: so it has in it the end of a bash and the start of another, in the
loop also that of a sleep.  Median and worst of all gaps are printed, and what the medians differ
by, for results.md.  Not a test: nothing is asserted about time."""
import argparse
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

COMMAND = r"""
echo "begin $EPOCHREALTIME" >>"$LOG"
mapfile -t lines <"$LOG"
starts=$(((${#lines[@]} + 1) / 2))
if [[ ${STEP-} ]]; then
    "$CKPT" save "$FILE" --job job --step $((STEP + starts)) --launch "$CKPT_LAUNCH" >/dev/null || exit 0
fi
((starts <= RESTARTS)) || exit 0
echo "end $EPOCHREALTIME" >>"$LOG"
exit 1
"""
LOOP = r'n=0; until CKPT_LAUNCH=$BASE-$n "$@"; do n=$((n + 1)); sleep "$PAUSE"; done'


def gaps_of(log, restarts, pause):
    with open(log, encoding="ascii") as f:
        lines = [line.split() for line in f]
    if [word for word, _ in lines] != ["begin", "end"] * restarts + ["begin"]:
        sys.exit(f"the command was not started {restarts + 1} times: {lines}")
    times = [float(at) for _, at in lines]
    return [1e3 * (times[i + 1] - times[i] - pause) for i in range(1, 2 * restarts, 2)]


class Bench:
    def __init__(self, args, folder):
        self.args, self.folder, self.step, self.runs = args, folder, 0, 0
        self.ckpt = os.path.abspath(os.path.join(args.build, "tools", "ckpt"))
        self.store, self.socket = os.path.join(folder, "s"), os.path.join(folder, "d.sock")
        self.file = os.path.join(folder, "f.safetensors")
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("CKPT_")}
        self.env.update(LC_ALL="C", RESTARTS=str(args.restarts), PAUSE=str(args.pause),
                        CKPT=self.ckpt, FILE=self.file)

    def start_daemon(self):
        daemon = subprocess.Popen([os.path.join(self.args.build, "ckptd", "ckptd"), "--config",
                                   "none", "--store", self.store, "--socket", self.socket],
                                  stderr=subprocess.DEVNULL)
        while subprocess.run([self.ckpt, "status", "--socket", self.socket], capture_output=True,
                             check=False).returncode:
            if daemon.poll() is not None:
                sys.exit("ckptd does not start")
            time.sleep(0.02)
        return daemon

    def make_job(self):
        head = json.dumps({"w": {"dtype": "U8", "shape": [4096], "data_offsets": [0, 4096]}})
        with open(self.file, "wb") as f:
            f.write(struct.pack("<Q", len(head)) + head.encode() + bytes(4096))
        for self.step in range(1, self.args.count + 1):
            subprocess.run([self.ckpt, "--store", self.store, "save", self.file, "--job", "job",
                            "--step", str(self.step), "--socket", self.socket], check=True,
                           capture_output=True)

    def measure(self, by_run, saves):
        """The gaps of one round, in milliseconds."""
        self.runs += 1
        log = os.path.join(self.folder, f"log{self.runs}")
        env = dict(self.env, LOG=log, BASE=f"loop-{self.runs}")
        if saves:
            env.update(STEP=str(self.step), CKPT_STORE=self.store, CKPT_SOCKET=self.socket)
            self.step += self.args.restarts + 1
        pause = str(self.args.pause)
        around = ([self.ckpt, "run", "--backoff", f"{pause}:{pause}", "--max-restarts", "1000", "--"]
                  if by_run else ["sh", "-c", LOOP, "loop"])
        subprocess.run(around + ["bash", "-c", COMMAND], env=env, check=True, capture_output=True)
        return gaps_of(log, self.args.restarts, self.args.pause)


def compare(bench, what, saves):
    gaps = {False: [], True: []}
    for turn in range(bench.args.rounds):
        for by_run in ((False, True), (True, False))[turn % 2]:
            gaps[by_run] += bench.measure(by_run, saves)
    for by_run, name in ((False, "shell loop"), (True, "ckpt run")):
        print(f"{what}, {name}: median {statistics.median(gaps[by_run]):.1f} ms, "
              f"worst {max(gaps[by_run]):.1f} ms of {len(gaps[by_run])} restarts")
    added = statistics.median(gaps[True]) - statistics.median(gaps[False])
    print(f"{what}: ckpt run adds {added:.1f} ms to the median", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True)
    parser.add_argument("--dir", default=None)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--restarts", type=int, default=3, help="a round")
    parser.add_argument("--pause", type=float, default=0.1, help="seconds")
    parser.add_argument("--count", type=int, default=100, help="checkpoints of the job at first")
    args = parser.parse_args()
    print(__doc__.split("\n\n", 2)[2])
    folder = tempfile.mkdtemp(prefix="ckpt-restart-", dir=args.dir)
    bench = Bench(args, folder)
    try:
        compare(bench, "no store", False)
        daemon = bench.start_daemon()
        try:
            bench.make_job()
            compare(bench, f"job of {args.count} checkpoints", True)
        finally:
            daemon.terminate()
            daemon.wait()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
