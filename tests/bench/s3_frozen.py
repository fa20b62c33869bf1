#!/usr/bin/env python3
"""What a bucket that answers nothing costs the saves to the local disk.

    tests/bench/s3_frozen.py BUILD-DIR [--rounds 7] [--mib 256]

Two daemons on the same disk, in turns: one has no other tier, the other one drains to a bucket that
held everything at first and then stands still, with connections open.  `ckpt save --json` says how
long its save took to be local.  The first round is not counted; a control, the daemon without a
tier once more, says how much of the ratio is noise."""
import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "s3"))
from daemon_kit import Node, World, await_true, write_tensors  # noqa: E402
import s3_kit  # noqa: E402

BUCKET = "frozen"


def local_seconds(node, file, step):
    said = node.world.ckpt("--json", "--store", node.store, "save", file, "--job", "j", "--step", str(step),
                           "--socket", node.socket, endpoint=node.endpoint)
    return json.loads(said)["local_seconds"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mib", type=int, default=256)
    return parser.parse_args()


def text(name, ratios):
    return f"{name}: {statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})"


def main():
    args = arguments()
    with tempfile.TemporaryDirectory(prefix="ckpt-frozen-") as scratch, \
            s3_kit.FaultServer("--bucket", BUCKET) as server:
        os.environ.update({"CKPT_TEST_S3": f"http://{server.s3}", "CKPT_TEST_BUCKET": BUCKET,
                           "AWS_ACCESS_KEY_ID": s3_kit.KEY_ID, "AWS_REGION": "us-east-1",
                           "AWS_SECRET_ACCESS_KEY": s3_kit.SECRET})
        world = World(str(args.build.resolve()), scratch)
        try:
            near, again = (Node(world, n, "--store", world.path(n, "store")).start() for n in ("near", "again"))
            far = Node(world, "far", "--store", world.path("far", "store"), "--remote", world.url("far"),
                       CKPT_TIER_MS="500").start()
            small, big = world.path("small"), world.path("big")
            write_tensors(small, 1 << 20, 1)
            write_tensors(big, args.mib << 20, 2)
            far.save([small], 1)
            far.await_drained(1)
            server.rules({"fault": "stall", "count": -1})
            seconds = []
            for turn in range(args.rounds + 1):
                seconds.append([local_seconds(n, big, 2 + turn) for n in (near, far, again)])
            await_true("they wait", lambda: far.tier()["lag"] > 0)
            seconds = seconds[1:]
            print(f"{args.mib} MiB, local after {statistics.median(s[0] for s in seconds):.3f} s without a tier; "
                  f"{far.tier()['lag']} checkpoints wait for the bucket")
            print(text("frozen bucket / no tier", [s[1] / s[0] for s in seconds]))
            print(text("no tier / no tier", [s[2] / s[0] for s in seconds]))
        finally:
            world.stop_all()


main()
