"""ckptd on a real object store: what is committed here arrives there, comes back on a node that
has nothing, and does so through kills, restarts and every fault that an object store is known for.

usage: with_rgw.py python3 test_s3_daemon.py BUILD

The fault server stands before radosgw as a proxy, and counts.  With CKPT_DEEP the runs are longer.
CKPT_TRAINED_STATE may name a folder of safetensors whose ratio in the bucket is wanted, too."""
import collections
import filecmp
import glob
import itertools
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time

from daemon_kit import Node, Trainer, World, await_true, children, write_tensors
from s3_kit import Checks, FaultServer

DEEP = bool(os.environ.get("CKPT_DEEP"))
MIB = 1 << 20
SLOT = 8 * MIB
STREAMS = 2
KILLS = 3
ENDLESS = 1_000_000  # steps: until it is killed
# Heads of packs and records beside the data, and what a store's probe puts.
SMALL = 2 * MIB
# Each "ckpt save" is a launch, and a launch waits for other tiers: 30 s by default.
HASTY = {"CKPT_TIER_MS": "500"}


class Proxy(FaultServer):
    """The fault server before radosgw, which checks the signatures itself."""

    def __init__(self, seed=1):
        super().__init__("--no-verify", "--upstream", os.environ["CKPT_TEST_S3"][len("http://"):],
                         "--seed", str(seed))
        self.url = f"http://{self.s3}"

    def counts(self):
        return self.ask("/counts")

    def forget(self):
        self.tell("/reset")

    def pack_puts(self):
        """{key: how often it was put completely}"""
        return {k: n for k, n in self.counts()["puts"].items() if "/d/" in k}


class Run:
    """What all parts share."""

    def __init__(self, world, checks, proxy):
        self.world, self.checks, self.proxy = world, checks, proxy

    def verified(self, prefix, count):
        """All that is visible there is whole, and there is that much of it."""
        out = self.world.ckpt("--store", self.world.url(prefix), "verify")
        self.checks.true(f"{count} sound, 0 damaged" in out, f"verify of {prefix}: {out}")

    def remote_node(self, name, prefix, *options, endpoint=None, **more):
        store = self.world.path(name, "store")
        return Node(self.world, name, "--store", store, "--remote", self.world.url(prefix), *options,
                    endpoint=endpoint, **more)

    def export(self, *place):
        """Folder with the newest checkpoint of job j from there."""
        to = tempfile.mkdtemp(dir=self.world.scratch)
        self.world.ckpt(*place, "restore", "j", "--to", f"{to}/x")
        return f"{to}/x"

    def same_exports(self, a, b, what):
        names = sorted(os.path.relpath(os.path.join(d, f), a) for d, _, fs in os.walk(a) for f in fs)
        self.checks.true(names, what)
        self.checks.equal(filecmp.cmpfiles(a, b, names, shallow=False)[0], names, what)


# -- training ---------------------------------------------------------------------------------


def train_and_lose(run, node, name, kill_at, steps):
    """A run that is killed, when something has arrived."""
    trainer = Trainer(run.world, name, steps, node)
    trainer.await_steps(kill_at)
    trainer.kill()
    await_true("all has arrived", lambda: node.tier()["held"] > 0 and node.tier()["lag"] == 0)
    return trainer


def resume(run, node, name, reference, steps, what):
    trainer = Trainer(run.world, name, steps, node)
    out = trainer.finish()
    run.checks.equal(trainer.process.returncode, 0, f"{what}: {out}")
    said = [line for line in out.splitlines() if line.startswith("resumed after step")]
    run.checks.equal(len(said), 1, f"{what}: {out}")
    run.checks.equal(trainer.lines(), reference, f"losses of {what}")
    print(f"  {what}: {said[0]} of {steps}, losses as undisturbed")


def part_training(run):
    """A second copy, a cold node; then the store as the home of a node."""
    steps, kill_at = (400, 150) if DEEP else (60, 20) if run.world.sanitized else (120, 40)
    undisturbed = Trainer(run.world, "reference.loss", steps)
    undisturbed.finish()
    reference = undisturbed.lines()
    run.checks.equal(len(reference), steps, "undisturbed")
    cold_node(run, reference, kill_at)
    home_node(run, reference, kill_at)


def cold_node(run, reference, kill_at):
    world, steps = run.world, len(reference)
    one = run.remote_node("one", "copy").start()
    train_and_lose(run, one, "copy.loss", kill_at, steps)
    tier = one.tier()
    run.checks.equal((tier["role"], tier["state"], tier["lag"]), ("remote", "idle", 0), "status")
    both = world.ckpt("--store", one.store, "--remote", world.url("copy"), "ls", "gpt")
    run.checks.true(" remote " in both, "level remote")
    one.stop()
    remote = ("--store", world.url("copy"))
    newest = f"gpt@{tier['held_step']}"
    run.checks.true(f" {tier['held_step']} " in world.ckpt(*remote, "ls", "gpt"), "ls")
    run.checks.true("tensors" in world.ckpt(*remote, "show", newest), "show")
    world.ckpt(*remote, "verify", "gpt")
    world.ckpt(*remote, "restore", newest, "--to", world.path("far"))
    world.ckpt("--store", one.store, "restore", newest, "--to", world.path("near"))
    run.same_exports(world.path("far"), world.path("near"), "restored from afar")
    shutil.rmtree(one.store)
    two = run.remote_node("two", "copy").start()
    shutil.copy(world.path("copy.loss"), world.path("cold.loss"))
    resume(run, two, "cold.loss", reference, steps, "a cold node")
    two.stop()


def home_node(run, reference, kill_at):
    world, steps = run.world, len(reference)
    for wipe in (False, True) if DEEP else (True,):
        name = f"home{wipe:d}"
        node = Node(world, name, "--store", world.url(name), "--local", world.path(name, "local"))
        node.start()
        train_and_lose(run, node, f"{name}.loss", kill_at, steps)
        run.checks.equal(node.tier()["role"], "home", "status")
        node.kill()
        if wipe:
            shutil.rmtree(world.path(name, "local"))
        node.start()
        resume(run, node, f"{name}.loss", reference, steps,
               "home on S3" + (", local disk lost" if wipe else ""))
        await_true("all is at home", lambda: node.tier()["lag"] == 0)
        node.stop()
        world.ckpt("--store", world.url(name), "verify")


# -- kills ------------------------------------------------------------------------------------


def part_kills(run):
    """ckptd dies mid-drain; nothing that arrived completely is sent again."""
    size = (512 if DEEP else 48) * MIB
    run.proxy.forget()
    write_tensors(run.world.path("big.safetensors"), size, 5)
    node = run.remote_node("kills", "kills", "--slot-bytes", str(SLOT), "--remote-streams",
                           str(STREAMS), "--remote-rate", f"{size // MIB // 3}M",
                           endpoint=run.proxy.url).start()
    node.save([run.world.path("big.safetensors")], 1)
    packs = size // SLOT
    for kill in range(1, KILLS + 1):
        wanted = packs * kill // (KILLS + 2)
        await_true(f"{wanted} packs there", lambda n=wanted: len(run.proxy.pack_puts()) >= n)
        # The worst moment: all bytes of each stream are sent, and nothing is there yet.
        run.proxy.rules({"fault": "stall", "method": "PUT", "key": ".*/d/.*", "count": -1})
        stalled = STREAMS * kill
        await_true("all streams wait",
                   lambda n=stalled: run.proxy.counts()["faults"].get("stall", 0) >= n)
        node.kill()
        run.checks.true(len(run.proxy.pack_puts()) < packs, "killed mid-drain")
        run.proxy.rules()
        node.start()
    node.await_drained(1)
    counts, again = run.proxy.counts(), {k: n for k, n in run.proxy.pack_puts().items() if n > 1}
    run.checks.equal(again, {}, "put again")
    limit = size + KILLS * STREAMS * SLOT + SMALL
    run.checks.true(counts["bytes_in"] <= limit, f"{counts['bytes_in']} bytes put, limit {limit}")
    print(f"  {KILLS} kills: {counts['bytes_in'] / size:.3f} x the data put, limit {limit / size:.3f};"
          f" {counts['requests']} requests for {len(run.proxy.pack_puts())} packs")
    node.stop()
    run.verified("kills", 1)
    run.same_exports(run.export("--store", run.world.url("kills")),
                     run.export("--store", node.store), "after kills")


def hasty_node(run, name, *options):
    """It holds step 1 and waits half a second for the bucket: a job's first launch, which may not
    go without the bucket's answer, got all the time it wanted."""
    run.proxy.forget()
    node = run.remote_node(name, name, *options, endpoint=run.proxy.url).start()
    some = run.world.path("some.safetensors")
    write_tensors(some, MIB, 1)
    node.save([some], 1)
    node.await_drained(1)
    node.stop()
    run.proxy.forget()
    node.more = HASTY
    return node.start()


def part_gateway(run):
    """radosgw dies mid-drain and comes back."""
    size = (512 if DEEP else 48) * MIB
    node = hasty_node(run, "gateway", "--slot-bytes", str(SLOT), "--remote-rate",
                      f"{size // MIB // 3}M")
    write_tensors(run.world.path("big.safetensors"), size, 6)
    node.save([run.world.path("big.safetensors")], 2)
    await_true("two packs there", lambda: len(run.proxy.pack_puts()) >= 2)
    gateway = int(os.environ["CKPT_TEST_RGW"])
    os.kill(gateway, signal.SIGUSR1)
    failed = await_true("requests fail", lambda: run.proxy.counts()["statuses"].get("502", 0))
    write_tensors(run.world.path("small.safetensors"), MIB, 1)
    node.save([run.world.path("small.safetensors")], 3)  # nobody waits for the bucket
    os.kill(gateway, signal.SIGUSR2)
    node.await_all(2)
    again = {k: n for k, n in run.proxy.pack_puts().items() if n > 1}
    run.checks.equal(again, {}, "put again")
    print(f"  radosgw restarted: {failed} or more requests failed, nothing was put twice")
    node.stop()
    run.verified("gateway", 3)


# -- faults -----------------------------------------------------------------------------------


def part_random(run):
    """One request of ten goes wrong in one of many ways."""
    kinds = ("slowdown", "internal", "reset", "reset_upload", "lost", "truncate", "flip", "short",
             "ok_error", "garbage")
    saves = 40 if DEEP else 3
    run.proxy.forget()
    node = run.remote_node("random", "random", "--slot-bytes", str(SLOT),
                           endpoint=run.proxy.url).start()
    write_tensors(run.world.path("some.safetensors"), 3 * SLOT, 1)
    node.save([run.world.path("some.safetensors")], 1)  # a job's first launch needs the bucket
    run.proxy.rules(*({"fault": kind, "count": -1, "probability": 0.1 / len(kinds)}
                      for kind in kinds))
    for step in range(2, saves + 1):
        write_tensors(run.world.path("some.safetensors"), 3 * SLOT, step)
        node.save([run.world.path("some.safetensors")], step)
    node.await_all(saves, 400)
    hits = sum(run.proxy.counts()["faults"].values())
    run.proxy.rules()
    node.stop()
    run.checks.true(hits > 0, "faults were met")
    print(f"  {saves} checkpoints through {hits} faults in {run.proxy.counts()['requests']} requests")
    run.verified("random", saves)
    run.same_exports(run.export("--store", run.world.url("random")),
                     run.export("--store", node.store), "through random faults")


def part_frozen(run):
    """The bucket answers nothing; local saves go on."""
    seconds = 60 if DEEP else 2
    node = hasty_node(run, "frozen")
    write_tensors(run.world.path("some.safetensors"), 4 * MIB, 1)
    run.proxy.rules({"fault": "stall", "count": -1})
    end, saves = time.monotonic() + seconds, 0
    while time.monotonic() < end or saves < 2:
        node.save([run.world.path("some.safetensors")], 2 + saves)
        saves += 1
    run.checks.true(node.tier()["lag"] > 0, "they wait")
    run.proxy.rules()
    await_true("all there", lambda: node.tier()["lag"] == 0)
    print(f"  frozen for {seconds} s: {saves} local saves meanwhile")
    run.checks.true(saves >= 2, "saves went on")
    node.stop()
    run.verified("frozen", saves + 1)


def part_away(run):
    """The home answers nothing, and then a worker dies: the next one serves, training goes on, and
    what was saved meanwhile arrives in the end."""
    world = run.world
    run.proxy.forget()
    node = Node(world, "away", "--store", world.url("away"), "--local", world.path("away", "local"),
                endpoint=run.proxy.url).start()
    trainer = Trainer(world, "away.loss", ENDLESS, node, save_every=50)
    await_true("a checkpoint is at home", lambda: node.tier()["held"])
    run.proxy.rules({"fault": "stall", "count": -1})
    stalled = await_true("the home is away", lambda: run.proxy.counts()["faults"].get("stall", 0))
    dead = children(node.process.pid)
    os.kill(dead[0], signal.SIGKILL)
    await_true("another worker serves", lambda: dead != children(node.process.pid) and node.page())
    before = len(trainer.lines())
    trainer.await_steps(before + 10)
    run.proxy.rules()
    def at_home():
        step = node.tier().get("held_step", 0)
        return step if step > before else 0
    step = await_true("it is at home", at_home)
    trainer.kill()
    node.stop()
    world.ckpt("--store", world.url("away"), "verify", f"gpt@{step}")
    # Whose saves lie on the node is known all the same, or what fails there would stay for ever.
    marks = {os.path.basename(p) for p in glob.glob(world.path("away", "local", "gpt/o/*/*"))}
    assert len(marks) == 1 and marks != {"0" * 32}, marks
    print(f"  a worker died while the home was away ({stalled} requests waited)")


def part_home_away(run):
    """The home is out of reach when a launch begins: that waits, until the home is back."""
    world, some = run.world, run.world.path("some.safetensors")
    run.proxy.forget()
    write_tensors(some, MIB, 1)
    node = Node(world, "home-away", "--store", world.url("home-away"), "--local",
                world.path("home-away", "local"), endpoint=run.proxy.url).start()
    run.proxy.rules({"fault": "no_bucket", "count": -1})
    saved = []
    launch = threading.Thread(target=lambda: saved.append(node.save([some], 1)))
    launch.start()
    await_true("a launch waits", lambda: "a launch waits for its home" in node.tail())
    run.checks.equal(saved, [], "it has not begun")
    run.proxy.rules()
    launch.join()
    run.checks.equal(len(saved), 1, "it went on")
    node.await_drained(1)
    node.stop()
    run.verified("home-away", 1)
    print(f"  a launch waited for its home: {run.proxy.counts()['faults']}")


# Met once it must pass by itself.
PASSING = ("conflict", "reset_upload", "lost", "flip_stored")
if DEEP:
    PASSING += ("slowdown", "internal", "unavailable", "precondition", "reset", "ok_error", "garbage",
                "timeout", "expired")
# For as long as it lasts it must be told in words, and afterwards it must pass.
LASTING = {"quota": "[Qq]uota|full|space"}
if DEEP:
    LASTING |= {"denied": "denied|AccessDenied|allowed", "no_bucket": "bucket does not exist"}
# On the way back, of an index and of a pack.  (A range cannot be ignored here: it is signed.)
READING = ("truncate", "flip", "long")
if DEEP:
    READING += ("slowdown", "internal", "reset", "reset_body", "short", "wrong_range", "no_length",
                "garbage", "ok_error")
READ_KEYS = {"an index": ".*/d/.*/i[0-9]+", "a pack": ".*/d/.*/[0-9]+-[0-9]+-[0-9a-f]+"}


def part_matrix(run):
    """Each fault, on the way there and on the way back."""
    run.proxy.forget()
    node = run.remote_node("matrix", "matrix", endpoint=run.proxy.url).start()
    some = run.world.path("some.safetensors")
    step = 0
    skewed = {"fault": "error", "status": 403, "code": "RequestTimeTooSkewed"}
    for rule in [{"fault": f} for f in PASSING] + [skewed]:
        step += 1
        write_tensors(some, MIB, step)
        run.proxy.rules({**rule, "method": "PUT", "count": 1})
        node.save([some], step)
        node.await_drained(step)
        run.checks.equal(node.tier()["state"], "idle", f"after {rule}")
    for fault, words in LASTING.items():
        step += 1
        lasting_fault(run, node, fault, words, step)
    hits = run.proxy.counts()["faults"]
    run.checks.equal(sum(hits[f] > 0 for f in (*PASSING, *LASTING)), len(PASSING) + len(LASTING),
                     f"faults met: {hits}")
    node.stop()
    run.verified("matrix", step)
    reading(run, node)
    print(f"  {len(PASSING) + 1 + len(LASTING)} faults on the way there, "
          f"{len(READING) * len(READ_KEYS)} on the way back, and for good")


def lasting_fault(run, node, fault, words, step):
    some = run.world.path("some.safetensors")
    write_tensors(some, MIB, step)
    run.proxy.rules({"fault": fault, "method": "PUT", "count": -1})
    node.save([some], step)
    tier = await_true(f"{fault} is told", lambda: "error" in node.tier() and node.tier())
    run.checks.true(re.search(words, tier["error"]), f"{fault}: {tier['error']}")
    run.checks.equal(tier["state"], "trouble", fault)
    status, out, _ = run.world.ckpt("--json", "--store", run.world.url("matrix"), "ls", "j",
                                    status=None)
    run.checks.equal(status, 0, f"ls beside {fault}")
    run.checks.true(step not in [e["step"] for e in json.loads(out)], f"{fault}: it is not listed")
    run.proxy.rules()
    node.await_drained(step)


def reading(run, node):
    world, right = run.world, run.export("--store", node.store)
    for fault, what in itertools.product(READING, READ_KEYS):
        run.proxy.forget()
        run.proxy.rules({"fault": fault, "method": "GET", "key": READ_KEYS[what], "count": 1})
        to = tempfile.mkdtemp(dir=world.scratch) + "/x"
        status, _, err = world.ckpt("--store", world.url("matrix"), "restore", "j", "--to", to,
                                    endpoint=run.proxy.url, status=None)
        run.checks.equal(run.proxy.counts()["faults"], {fault: 1}, f"met in {what}")
        run.checks.equal(status, 0, f"one {fault} in {what}: {err}")
        run.same_exports(to, right, f"{fault} in {what}")
    run.proxy.rules({"fault": "flip", "method": "GET", "key": ".*/d/.*", "count": -1})
    told(run, "flipped for good", "damaged|CRC|digest", run.proxy.url, 1, "restore", "j", "--to",
         world.path("never"))
    run.checks.equal(glob.glob(world.path("never") + "/*"), [], "nothing wrong is written")
    run.proxy.rules({"fault": "expired", "count": -1})
    told(run, "expired", "expired|credentials", run.proxy.url, 4, "ls")
    run.proxy.rules({"fault": "denied", "count": -1})
    told(run, "denied", "denied|allowed", run.proxy.url, 4, "ls")
    run.proxy.rules()
    if DEEP:  # these take some seconds
        told(run, "no such name", "nowhere.invalid", "http://nowhere.invalid", 4, "ls")
        told(run, "no TLS there", "TLS|SSL", f"https://{run.proxy.s3}", 4, "ls")


def told(run, what, words, endpoint, wanted, *verb):
    status, out, err = run.world.ckpt("--store", run.world.url("matrix"), *verb, endpoint=endpoint,
                                      status=None)
    run.checks.equal(status, wanted, f"{what}: {out}{err}")
    run.checks.true(re.search(words, out + err), f"{what}: {out}{err}")


# -- figures ----------------------------------------------------------------------------------


def ratio(run, prefix, job):
    rows = json.loads(run.world.ckpt("--json", "--store", run.world.url(prefix), "ls", job))
    return rows[0]["bytes_stored"] / rows[0]["bytes_raw"]


def part_size(run):
    """A trained state arrives compressed without any option."""
    node = run.remote_node("size", "size").start()
    trainer = Trainer(run.world, "size.loss", 60 if DEEP else 12, node, save_every=0, size="tiny")
    trainer.finish()
    given = os.environ.get("CKPT_TRAINED_STATE")
    if given:
        files = sorted(glob.glob(f"{given}/*.safetensors"))
        node.save(files, 1, job="given")
        node.await_drained(1)
        print(f"  {given}: {ratio(run, 'size', 'given'):.4f} of its raw size")
        run.checks.true(ratio(run, "size", "given") <= 0.92, "ratio")
    node.stop()
    print(f"  the example's state: {ratio(run, 'copy', 'gpt'):.4f} of its raw size")
    run.checks.true(ratio(run, "copy", "gpt") < 1, "ratio of the example")


def part_requests(run):
    """What finding the newest checkpoint costs."""
    totals = collections.OrderedDict()
    steps = len(json.loads(run.world.ckpt("--json", "--store", run.world.url("matrix"), "ls", "j")))
    for what, verb in (("ls", ("ls", "j")), ("show", ("show", "j"))):
        run.proxy.forget()
        run.world.ckpt("--store", run.world.url("matrix"), *verb, endpoint=run.proxy.url)
        totals[what] = run.proxy.counts()["requests"]
    run.checks.true(all(totals.values()), "counted")
    print(f"  requests with {steps} checkpoints of as many launches:",
          ", ".join(f"{what} {n}" for what, n in totals.items()))


def main():
    build = os.path.abspath(sys.argv[1])
    parts = [globals()[f"part_{name}"] for name in sys.argv[2:]] or [
        part_training, part_kills, part_gateway, part_random, part_frozen, part_away, part_home_away, part_matrix,
        part_size, part_requests]
    checks = Checks()
    with tempfile.TemporaryDirectory(prefix="ckpt-s3-daemon-") as scratch, Proxy() as proxy:
        run = Run(World(build, scratch), checks, proxy)
        try:
            for part in parts:
                started = time.monotonic()
                print(part.__name__[5:], flush=True)
                part(run)
                print(f"  {time.monotonic() - started:.1f} s", flush=True)
        finally:
            run.world.stop_all()
        texts, found = run.world.canary()
        checks.equal(found, [], "the secret was told")
        print(f"no secret in {texts} outputs, logs, argument lists and status pages")
    checks.report()


main()
