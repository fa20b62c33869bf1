#!/usr/bin/env python3
"""How long ckpt takes over a job of many checkpoints: ls, prune, gc.

    history.py --build BUILD [--dir DIR] [--count 10000] [--prune 1000] [--runs 5]

Makes a store with make_history (records of the real encoders, one launch) in DIR, on whose
disk it depends; syncs; then runs `ckpt ls` RUNS times (output to a file, warm page cache)
and, on a fresh store each time, prune of the oldest and gc of those without grace.  Prints
each wall time and the medians, for results.md.  Not a test: nothing is asserted about time."""
import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time


def timed(command):
    started = time.monotonic()
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return time.monotonic() - started, out


def report(what, seconds):
    each = " ".join(f"{s:.3f}" for s in seconds)
    print(f"{what}: median {statistics.median(seconds):.3f} s of {each}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True)
    parser.add_argument("--dir", default=None)
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--prune", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    ckpt = os.path.join(args.build, "tools", "ckpt")
    listed, pruned, collected = [], [], []
    for run in range(args.runs):
        store = tempfile.mkdtemp(prefix="ckpt-history-", dir=args.dir)
        try:
            timed([os.path.join(args.build, "tests", "make_history"), store, "job",
                   str(args.count)])
            os.sync()
            seconds, out = timed([ckpt, "--store", store, "ls"])
            listed.append(seconds)
            if len(out.splitlines()) != args.count + 1:
                sys.exit("ls does not list them all")
            seconds, out = timed([ckpt, "--store", store, "prune", "job", "--keep-last",
                                  str(args.count - args.prune)])
            pruned.append(seconds)
            if f"{args.prune} deleted" not in out:
                sys.exit("prune did not delete what it had to")
            seconds, out = timed([ckpt, "--store", store, "gc", "job", "--grace", "0s"])
            collected.append(seconds)
            if f"job: {args.prune} checkpoint" not in out:
                sys.exit("gc did not collect what it had to")
        finally:
            shutil.rmtree(store)
        print(f"run {run + 1} of {args.runs}", file=sys.stderr)
    report(f"ls of {args.count}", listed)
    report(f"prune of {args.prune} of them", pruned)
    report(f"gc of {args.prune}", collected)


if __name__ == "__main__":
    main()
