"""The example trainer under `ckpt run`, its ranks on several nodes: ranks, workers, whole daemons and
whole nodes are killed at random moments, again and again, and the losses stay the same."""
import collections
import os
import random
import shutil
import signal
import subprocess
import time

import daemon_kit
import test_nodes
from nodes_kit import Training, await_true, commits

STEPS = 1600
EVERY = 10
RANKS = 3
KILLS_OF_KIND = 4
RESTARTS = 100
HOLD_S = 5     # a lost node waits so long for the home
GAP = (10, 40)  # steps from one kill to the next


class SupervisedRun:
    """One `ckpt run` around what starts all ranks, as mpirun or srun would."""

    def __init__(self, world, nodes, home, name):
        self.world, self.nodes = world, nodes
        self.losses, self.log = world.path(f"{name}.loss"), world.path(f"{name}.out")
        world.logs.append(self.log)
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", f"{world.build}/tools/ckpt", "--store", home,
                 "run", "--backoff", "0", "--max-restarts", str(RESTARTS), "--",
                 f"{world.build}/tools/ckpt-train", "--size", "tiny", "--ranks", str(RANKS),
                 "--steps", str(STEPS), "--seed", "7", "--val-every", "0", "--quiet",
                 "--save-every", str(EVERY), "--store", home, "--loss-out", self.losses,
                 "--sockets", ",".join(node.socket for node in nodes)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=world.environment(os.environ["CKPT_TEST_S3"]))
        world.trainers.append(self)

    def steps(self):
        try:
            with open(self.losses, "rb") as f:
                return f.read().count(b"\n")
        except OSError:
            return 0

    def said(self):
        with open(self.log, encoding="utf-8") as f:
            return f.read()

    def over(self):
        return self.process.poll() is not None

    def kill(self):
        for pid in self.launcher():
            os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()

    def launcher(self):
        return [pid for pid in daemon_kit.children(self.process.pid)
                if command_of(pid) == "ckpt-train"]

    def ranks(self):
        """Processes in the order of ranks; none between two launches."""
        for pid in self.launcher():
            pids = daemon_kit.children(pid)
            if len(pids) == RANKS:
                return pids
        return []

    def ranks_of(self, node):
        of_node = RANKS // len(self.nodes)
        first = self.nodes.index(node) * of_node
        return self.ranks()[first:first + of_node]


def command_of(pid):
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8") as f:
            return f.read().strip()
    except OSError:
        return ""


def signal_all(pids, number):
    """How many of them got it."""
    count = 0
    for pid in pids:
        try:
            os.kill(pid, number)
            count += 1
        except ProcessLookupError:
            pass
    return count


# -- what is killed: each returns whether something was ----------------------------------------


def kill_rank(training, node, place, dice):
    pids = training.ranks()
    return bool(pids) and signal_all([dice.choice(pids)], signal.SIGKILL) == 1


def kill_worker(training, node, place, dice):
    return signal_all(daemon_kit.children(node.process.pid), signal.SIGKILL) == 1


def kill_daemon(training, node, place, dice):
    node.kill()
    node.start()
    return True


def kill_node(training, node, place, dice):
    ranks = training.ranks_of(node)
    node.kill()
    killed = signal_all(ranks, signal.SIGKILL)
    node.start()
    return killed > 0


def newest_is_held(place):
    def held_now():
        names = commits(place)
        return bool(names) and min(names) in place.sizes("gpt", "h")
    try:
        return await_true("the newest at home", held_now, HOLD_S)
    except AssertionError:
        return False


def lose_node(training, node, place, dice):
    """With its disk, when the home holds the newest checkpoint.  (What another node that was lost
    held alone will never be there: then later.)"""
    ranks, mine = training.ranks(), training.ranks_of(node)
    signal_all(ranks, signal.SIGSTOP)
    try:
        if not mine or not newest_is_held(place):
            return False
        node.kill()
        signal_all(mine, signal.SIGKILL)
        shutil.rmtree(node.world.path(node.name))
        os.makedirs(node.world.path(node.name))
    finally:
        signal_all(ranks, signal.SIGCONT)
    node.start()
    return True


KINDS = {"ranks": kill_rank, "workers": kill_worker, "daemons": kill_daemon, "nodes": kill_node,
         "nodes with their disks": lose_node}


def part_run_kills(run):
    """At least twenty kills in one run."""
    seed = int(os.environ.get("SEED") or random.randrange(1 << 31))
    print(f"  SEED={seed}", flush=True)
    dice = random.Random(seed)
    world, name = run.world, f"kills{run.turn}"
    home, place = world.home(f"{name}.home"), world.place(f"{name}.home")
    undisturbed = Training(world, f"{name}.whole", STEPS, seed=7)
    undisturbed.finish()
    reference = undisturbed.lines()
    run.checks.equal(len(reference), STEPS, "steps of the undisturbed run")
    nodes = [run.node(f"kills.{i}.", home) for i in "abc"]
    training = SupervisedRun(world, nodes, home, name)
    counts = kill_all(run, training, place, dice)
    await_true("the run is over", training.over)
    out = training.said()
    run.checks.equal(training.process.returncode, 0, out[-6000:])
    with open(training.losses, encoding="ascii") as f:
        run.checks.true(f.read().splitlines() == reference, "losses as undisturbed")
    for kind in KINDS:
        run.checks.equal(counts[kind], KILLS_OF_KIND, f"kills of {kind}")
    said = ", ".join(f"{n} {kind}" for kind, n in counts.items())
    print(f"  {sum(counts.values())} kills ({said}), {out.count('ckpt run: launch')} launches "
          f"started again, losses as undisturbed")
    run.stop(*nodes)


def kill_all(run, training, place, dice):
    deck = [kind for kind in KINDS for _ in range(KILLS_OF_KIND)]
    dice.shuffle(deck)
    counts = collections.Counter()
    after = GAP[0]
    for kind in deck:
        killed = False
        while not killed:
            await_true(f"{after} steps", lambda: training.over() or training.steps() >= after)
            if training.over() and training.process.returncode == 0:
                raise test_nodes.TooLate
            if training.over():
                raise AssertionError(f"over after {dict(counts)}: {training.said()}")
            killed = KINDS[kind](training, dice.choice(training.nodes), place, dice)
            after += 1
        counts[kind] += 1
        if os.environ.get("VERBOSE"):
            print(f"  {time.monotonic():.1f} {kind} {training.steps()}", flush=True)
        after = training.steps() + dice.randint(*GAP)
    return counts
