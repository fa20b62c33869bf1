#!/usr/bin/env python3
"""Planning and publishing a 405B model's checkpoint, from 8 to 16,384 ranks.

    tests/bench/scale.py BUILD-DIR SCRATCH-DIR [WORLD ...]

For each world: make_scale writes what the ranks would have saved (10 GB of manifests at
16,384; removed again), bench_scale publishes it and plans a restore of one rank, or of the
eight of a node, in a cold process each.  Prints one table; ends with 1 if a limit of rule G6 is not kept (memory
always; seconds only with SCALE_SECONDS=1, on a machine that is otherwise idle).
SCALE_KEEP=1 keeps the stores and uses those that are there.
"""
import os
import pathlib
import shutil
import subprocess
import sys

WORLDS = [8, 64, 512, 2048, 8192, 16384]
MIB_MAX = 1024


def run(tests, *arguments):
    out = subprocess.run([tests / "bench_scale", *map(str, arguments)], check=True,
                         capture_output=True, text=True).stdout
    return {k: float(v) for k, v in (field.split("=", 1) for field in out.split())}


def row(what, r, limit_s, failures):
    late = limit_s and r["seconds"] > limit_s
    large = r["peak_mib"] > MIB_MAX
    if large or (late and os.environ.get("SCALE_SECONDS")):
        failures.append(what)
    print(f"{what:50} {r['seconds']:8.3f} {r['cpu']:8.3f} {r['peak_mib']:6.0f} {r['gets']:8.0f} "
          f"{r['read_mib']:9.1f} {r.get('manifests', r['world']):9.0f} "
          f"{r.get('fragments', 0):9.0f}{'  over its limit' if late or large else ''}", flush=True)


def mesh(world):
    """tp, pp, dp as they are used at that size."""
    tp = min(8, world)
    pp = min(16, max(1, world // tp // 4))
    return f"tp={tp},pp={pp},dp={world // tp // pp}"


def store_of(tests, scratch, saved):
    store = scratch / ("scale-" + saved.translate(str.maketrans(":=,", "---")))
    if not (os.environ.get("SCALE_KEEP") and store.exists()):
        shutil.rmtree(store, ignore_errors=True)
        subprocess.run([tests / "make_scale", store, saved], check=True,
                       stdout=subprocess.DEVNULL)
    return store


def measure(tests, scratch, saved, plans, failures):
    """plans: what is wanted, the first rank, how many ranks, and the limit in seconds."""
    store = store_of(tests, scratch, saved)
    try:
        row(f"{saved}: publish", run(tests, "publish", store, saved), 10, failures)
        for wanted, rank, ranks, limit in plans:
            row(f"{saved} -> {wanted}: {ranks} rank{'s' * (ranks > 1)}",
                run(tests, "plan", store, saved, wanted, rank, ranks), limit, failures)
    finally:
        if not os.environ.get("SCALE_KEEP"):
            shutil.rmtree(store, ignore_errors=True)


def measure_world(tests, scratch, world, failures):
    saved = f"fsdp:{world}"
    plans = [(saved, world // 2, 1, 1), (f"fsdp:{max(1, world * 3 // 4)}", 0, 1, 1)]
    if world > 64:
        plans.append((f"fsdp:{world // 64}", 0, 1, 1))
    if world > 256:
        plans.append((f"fsdp:{world // 256}", 0, 1, 1))
    plans += [(mesh(world), 0, 1, None), (mesh(world), 0, min(8, world), None)]
    measure(tests, scratch, saved, plans, failures)
    if world >= 64:
        measure(tests, scratch, mesh(world), [(f"fsdp:{world}", world // 2, 1, None)], failures)


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    tests, scratch = pathlib.Path(sys.argv[1]) / "tests", pathlib.Path(sys.argv[2])
    worlds = [int(w) for w in sys.argv[3:]] or WORLDS
    failures = []
    print(f"{'what':50} {'seconds':>8} {'cpu':>8} {'MiB':>6} {'gets':>8} {'read MiB':>9} "
          f"{'manifests':>9} {'fragments':>9}")
    for world in worlds:
        measure_world(tests, scratch, world, failures)
    print(f"{len(worlds)} worlds, {len(failures)} over their limits")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
