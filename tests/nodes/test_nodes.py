"""Several nodes, one home: what is saved on all of them comes back, whatever happens to one.

usage: test_nodes.py BUILD [SCENARIO...]

The home is a shared directory.  With CKPT_DEEP every scenario runs, else those of SHORT.  Losses of
the example trainer are compared bit for bit with an undisturbed run."""
import os
import shutil
import sys
import tempfile
import time

from nodes_kit import Cluster, Training, await_true, commits, committed, held, names, step_of

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "s3"))
from s3_kit import Checks  # noqa: E402

DEEP = bool(os.environ.get("CKPT_DEEP"))
STEPS = 600
EVERY = 60
OF_EPOCH_1 = "fffffffffffffffe-"


TURNS = 10


class TooLate(Exception):
    """The trainer was at its end before the test could disturb it: once more."""


class Run:
    def __init__(self, world, checks):
        self.world, self.checks = world, checks
        self.turn = 1  # of the present scenario
        self.reference = self.undisturbed(7)

    def undisturbed(self, seed):
        training = Training(self.world, f"reference{seed}.loss", STEPS, seed=seed)
        training.finish()
        lines = training.lines()
        self.checks.equal(len(lines), STEPS, "steps of the undisturbed run")
        return lines

    def two(self, name, *options, **more):
        """(home, what lies there, two nodes that serve)"""
        home = self.world.home(f"{name}{self.turn}.home")
        a, b = (self.node(f"{name}.{i}", home, *options, **more) for i in "ab")
        return home, self.world.place(f"{name}{self.turn}.home"), a, b

    def node(self, name, home, *options, **more):
        return self.world.node(f"{name}{self.turn}", home, *options, **more).start()

    def losses(self, name):
        return f"{name}{self.turn}.loss"

    def disturb(self, training, how):
        """Kills or stops it (or a node) in the middle."""
        how()
        if len(training.lines()) >= STEPS:
            raise TooLate

    def await_held(self, place, count):
        await_true(f"{count} held in {place}", lambda: held(place) >= count)

    def begin(self, name, nodes, home, count, **more):
        """A run that goes on until so many steps are trained."""
        training = Training(self.world, self.losses(name), STEPS, nodes, home,
                            **{"save_every": EVERY, **more})
        training.await_steps(count)
        return training

    def ends_as_undisturbed(self, name, nodes, home, what, meanwhile=None, **more):
        """The next launch of the job; returns the step from which it resumed."""
        training = Training(self.world, self.losses(name), STEPS, nodes, home, save_every=EVERY,
                            **more)
        if meanwhile:
            meanwhile(training)
        out = training.finish()
        self.checks.equal(training.process.returncode, 0, f"{what}: {out}")
        self.checks.equal(training.lines(), self.reference, f"losses of {what}")
        said = [line for line in out.splitlines() if line.startswith("resumed after step")]
        self.checks.equal(len(said), 1, f"{what}: {out}")
        step = int(said[0].split()[-1])
        print(f"  {what}: resumed after step {step} of {STEPS}, losses as undisturbed")
        return step

    def verified(self, home, place, jobs=("gpt",)):
        for job in jobs:
            await_true("all is at home", lambda j=job: held(place, j) == committed(place, j))
        out = self.world.ckpt("--store", home, "verify")
        self.checks.true("0 damaged" in out, f"verify of {home}: {out}")

    def stop(self, *nodes):
        for node in nodes:
            node.kill()


# -- scenarios --------------------------------------------------------------------------------


def part_comes_back(run):
    """All ranks die; each comes back to its node at once: what nodes still hold alone is waited
    for, not lost."""
    home, place, a, b = run.two("back")
    training = run.begin("back", [a, b], home, 2)
    await_true("two commits", lambda: committed(place) >= 2)
    run.disturb(training, training.kill)
    newest = max(step_of(name) for name in commits(place))
    step = run.ends_as_undisturbed("back", [a, b], home, "each rank back on its node")
    run.checks.true(step >= newest, f"step {newest} was committed and is lost")
    said = {name.split("-")[1] for name in names(place, "l", 2, "node-")}
    run.checks.equal(said, {a.uuid(), b.uuid()}, "both nodes have told of their ranks")
    run.verified(home, place)
    a.stop()
    b.stop()


def part_late_node(run):
    """The same, and one node is late when it comes back: it is waited for."""
    home, place, a, b = run.two("late", "--remote-rate", "16K")  # what is saved stays on the nodes
    training = run.begin("late", [a, b], home, 2)
    await_true("two commits", lambda: committed(place) >= 2)
    run.disturb(training, training.kill)
    newest = min(commits(place))
    if newest in names(place, "h"):
        raise TooLate
    b.freeze()

    def late(_):
        try:
            await_true("the other node has told of its ranks",
                       lambda: names(place, "l", 2, "node-"))
            time.sleep(2)  # it looks for the late one's word meanwhile
        finally:
            b.freeze(stop=False)
    step = run.ends_as_undisturbed("late", [a, b], home, "a node that is late", meanwhile=late)
    run.checks.true(step >= step_of(newest), f"step {step_of(newest)} was committed and is lost")
    run.stop(a, b)


def part_lost_held(run):
    """A node is lost with its disk; all had arrived at home: nothing is lost."""
    home, place, a, b = run.two("lost")
    training = run.begin("lost", [a, b], home, 2)
    await_true("two commits", lambda: committed(place) >= 2)
    run.disturb(training, training.kill)
    await_true("all is at home", lambda: held(place) == committed(place))
    old = b.uuid()
    b.lose()
    b.start()
    run.checks.true(b.uuid() != old, "a new node has a new name")
    step = run.ends_as_undisturbed("lost", [a, b], home, "a replaced node")
    run.checks.true(step >= 2 * EVERY, "nothing that was at home is lost")
    run.stop(a, b)


def part_lost_not_held(run):
    """What a lost node alone held is gone: the launch goes back to what is complete."""
    home, place, a, b = run.two("gone")
    training = run.begin("gone", [a, b], home, 2)
    await_true("a commit", lambda: committed(place) >= 1)
    run.disturb(training, training.kill)
    await_true("all is at home", lambda: held(place) == committed(place))
    safe = held(place)
    b.stop()
    b.start("--remote-rate", "4K")  # what it saves from now on stays with it
    training = run.begin("gone", [a, b], home, 2)
    await_true("one more is committed", lambda: committed(place) > safe)
    run.disturb(training, training.kill)
    b.lose()
    lost = min(commits(place))  # the newest
    b.start()
    if lost in names(place, "h"):
        raise TooLate
    step = run.ends_as_undisturbed("gone", [a, b], home, "a lost node with what it alone held")
    run.checks.true(safe * EVERY <= step < step_of(lost), "an older one, but none that is at home is lost")
    run.checks.true(lost in commits(place) and lost not in names(place, "h"), "it stays listed")
    run.stop(a, b)


def part_remote(run):
    """All nodes and the home are lost: what has gone on to a store beyond them comes back."""
    beyond = f"remote{run.turn}.beyond"
    home, place, a, b = run.two("remote", "--remote", run.world.home(beyond))
    training = run.begin("remote", [a, b], home, 2)
    await_true("two commits", lambda: committed(place) >= 2)
    run.disturb(training, training.kill)
    run.await_held(run.world.place(beyond), 2)
    for node in (a, b):
        node.lose()
    shutil.rmtree(place)
    for node in (a, b):
        node.start()
    step = run.ends_as_undisturbed("remote", [a, b], home, "new nodes with a new home")
    run.checks.true(step >= 2 * EVERY, "nothing that was beyond them is lost")
    run.verified(run.world.home(beyond), run.world.place(beyond))
    run.stop(a, b)


def part_world_size(run):
    """Other numbers of ranks and nodes."""
    home, place, a, b = run.two("world")
    training = run.begin("world", [a, b], home, 2)
    await_true("two commits", lambda: committed(place) >= 2)
    run.disturb(training, training.kill)
    step = run.ends_as_undisturbed("world", [a, b], home, "six ranks instead of four", ranks=6)
    run.checks.true(step >= 2 * EVERY, "nothing committed is lost")
    c = run.node("world.c", home)
    run.await_held(place, committed(place))
    os.remove(run.world.path(run.losses("world")))
    training = Training(run.world, run.losses("world"), STEPS, [c], home, save_every=EVERY, ranks=2,
                        CKPT_RESUME=str(EVERY * 3))
    out = training.finish()
    run.checks.equal(training.process.returncode, 0, out)
    run.checks.equal(training.lines()[-30:], run.reference[-30:], "losses of two ranks on a third node")
    run.stop(a, b, c)


def part_zombie(run):
    """A launch that stands still while another takes over: it ends when it wakes, and what it
    had under way sorts behind."""
    home, place, a, b = run.two("zombie")
    zombie = run.begin("zombie-old", [a, b], home, 2)
    await_true("a commit", lambda: committed(place) >= 1)
    run.disturb(zombie, zombie.stop)
    await_true("all is at home", lambda: held(place) == committed(place))
    c, d = (run.node(f"zombie.{i}", home) for i in "cd")
    shutil.copy(zombie.losses, run.world.path(run.losses("zombie")))
    step = run.ends_as_undisturbed("zombie", [c, d], home, "a second launch beside a zombie")
    run.checks.true(EVERY <= step < STEPS, "the zombie stood still in between")
    before = committed(place, begin=OF_EPOCH_1)
    zombie.stop(go_on=True)
    out = zombie.finish()
    run.checks.true("a newer launch has taken over" in out, f"the zombie is told: {out}")
    run.checks.true(committed(place, begin=OF_EPOCH_1) <= before + 1,
                    "it commits at most what was under way")
    training = Training(run.world, run.losses("zombie"), STEPS, [c, d], home, save_every=EVERY)
    out = training.finish()
    run.checks.true(f"resumed after step {STEPS}" in out, f"the third launch: {out}")
    run.stop(a, b, c, d)


def part_jobs(run):
    """Two jobs side by side on the same daemons; one is killed and comes back."""
    home, place, a, b = run.two("jobs")
    other = run.undisturbed(8)
    second = Training(run.world, run.losses("jobs-other"), STEPS, [b, a], home, job="other",
                      seed=8, save_every=EVERY)
    second.await_steps(3)
    first = run.begin("jobs", [a, b], home, 2)
    await_true("a commit", lambda: committed(place) >= 1)
    run.disturb(first, first.kill)
    run.ends_as_undisturbed("jobs", [a, b], home, "one of two jobs")
    out = second.finish()
    run.checks.equal(second.process.returncode, 0, out)
    run.checks.equal(second.lines(), other, "losses of the other job")
    run.verified(home, place, ("gpt", "other"))
    run.stop(a, b)


def point(link, target):
    """At once: nobody finds nothing there."""
    os.symlink(target, link + ".new")
    os.rename(link + ".new", link)


def part_home_away(run):
    """The home is out of reach for a while: training goes on, saves wait on the nodes, and are
    committed when it is back."""
    path = run.world.path(f"away{run.turn}.home")
    os.mkdir(path + ".there")
    point(path, path + ".there")
    home, place, a, b = run.two("away")
    training = run.begin("away", [a, b], home, EVERY + 3, save_every=2 * EVERY)
    await_true("a first commit", lambda: committed(place) >= 1)
    if len(training.lines()) > STEPS // 2:
        raise TooLate
    with open(path + ".none", "w", encoding="ascii"):
        pass  # a plain file where the directory was: every request fails
    point(path, path + ".none")
    training.await_steps(STEPS - 1)
    point(path, path + ".there")
    said = training.finish()
    run.checks.equal(training.process.returncode, 0, said)
    run.checks.equal(training.lines(), run.reference, "losses without a home")
    await_true("every save is committed", lambda: committed(place) == STEPS // EVERY // 2)
    run.checks.true(a.said("the home is away") or b.said("the home is away"),
                    "the nodes say so")
    out = run.world.ckpt("--store", home, "ls", "gpt")
    run.checks.true(f" {STEPS} " in out, f"the last save: {said}\n{out}")
    print(f"  without the home for a while: {committed(place)} committed in all")
    run.stop(a, b)


def part_straggler(run):
    """A save that waits for another node says for which rank."""
    home, place, a, b = run.two("slow")
    training = run.begin("slow", [a, b], home, 3)
    await_true("a commit", lambda: committed(place) >= 1)  # the first one waits for fences, too
    try:
        run.disturb(training, b.freeze)

        def waits():
            page = a.page()
            return [op["slowest_rank"] for s in page["sessions"] for op in s["ops"]
                    if op["kind"] == "save" and op.get("slowest_rank") == 2]
        await_true("a save waits for rank 2", waits)
        text = run.world.ckpt("status", "--socket", a.socket)
        run.checks.true("rank 2, on another node" in text, f"ckpt status: {text}")
    finally:
        b.freeze(stop=False)
    out = training.finish()
    run.checks.equal(training.process.returncode, 0, out)
    run.checks.equal(training.lines(), run.reference, "losses with a slow node")
    run.stop(a, b)


def part_private_home(run):
    """Several nodes with a home that only one has."""
    world = run.world
    store = world.path("private")
    a = world.node("private.a", store).start()
    training = Training(world, "private.loss", STEPS, [a], store, LOCAL_WORLD_SIZE="2",
                        save_every=EVERY)
    out = training.finish()
    run.checks.equal(training.process.returncode, 1, out)
    run.checks.true("shared=1" in out and "s3://" in out, f"what to do: {out}")
    run.stop(a)


SHORT = ("comes_back", "private_home")
PARTS = SHORT + ("late_node", "lost_held", "lost_not_held", "remote", "world_size", "jobs", "straggler", "zombie", "home_away")


def scenario(run, part):
    for run.turn in range(1, TURNS + 1):
        try:
            part(run)
            return
        except TooLate:
            run.world.stop_all()
    raise AssertionError(f"the trainer was too fast {TURNS} times")


def main():
    build, wanted = sys.argv[1], sys.argv[2:] or (PARTS if DEEP else SHORT)
    checks = Checks()
    with tempfile.TemporaryDirectory() as scratch:
        world = Cluster(build, scratch)
        try:
            run = Run(world, checks)
            for part in wanted:
                print(f"{part}:")
                scenario(run, globals()[f"part_{part}"])
        except BaseException:
            for node in world.nodes:
                print(f"-- {node.name}:\n{node.tail()}", file=sys.stderr)
            raise
        finally:
            world.stop_all()
    print(f"{checks.count} cases")


if __name__ == "__main__":
    main()
