"""Several nodes, each in a network namespace of its own, with an object store as their home.

usage: test_net.py BUILD [SCENARIO...]

With CKPT_DEEP the home is a bucket of radosgw and all scenarios run; else those of SHORT: that
the network itself can be cut and heals.  Losses of the example trainer are compared bit for bit with an
undisturbed run.  Where namespaces cannot be had all is on the loopback, and scenarios that cut a
node off are skipped, which is said and counted."""
import http.client
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import net
import test_nodes
from nodes_kit import Cluster, Training, await_true, commits, committed, held, names, step_of
from test_nodes import DEEP, EVERY, OF_EPOCH_1, STEPS, TooLate

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "s3"))
import s3_kit  # noqa: E402
from run_kills import part_run_kills  # noqa: E402,F401

UNASKED_S = 12    # saves begin unasked for 10 s after the home was found away
SPARSE = 2 * EVERY  # so few saves that none is refused while none can be committed


class NetRun(test_nodes.Run):
    def undisturbed_but(self, name, away, meanwhile, back, **more):
        """A training that goes on while something is away, from an early moment on; when it is
        back, every save is committed.  Each is called with the place and the second node."""
        home, place, a, b = self.two(name, **more)
        training = self.begin(name, [a, b], home, EVERY + 3, save_every=SPARSE)
        await_true("a first commit", lambda: committed(place) >= 1)
        training.stop()
        if len(training.lines()) > STEPS // 2:
            raise TooLate
        away(b)
        training.stop(go_on=True)
        try:
            stopped = meanwhile(training, place)
        finally:
            back(b)
        if stopped:  # else the last save might be waited for in vain
            await_true("it is caught up", lambda: committed(place) >= STEPS // SPARSE - 2)
            training.stop(go_on=True)
        said = training.finish()
        self.checks.equal(training.process.returncode, 0, said)
        self.checks.equal(training.lines(), self.reference, f"losses of {name}")
        await_true("every save is committed", lambda: committed(place) == STEPS // SPARSE)
        self.verified(home, place)
        print(f"  {name}: all {committed(place)} saves committed, losses as undisturbed")
        self.stop(a, b)


# -- a node is cut off --------------------------------------------------------------------------


def nearly_done(training):
    """All saves but the last have begun; and it stands still."""
    training.await_steps(STEPS - SPARSE + 3)
    training.stop()
    if len(training.lines()) >= STEPS - 1:
        raise TooLate


def part_cut(run, ways=net.WAYS):
    """Training goes on, what is saved waits, and is committed when the node is back."""
    def meanwhile(training, place):
        nearly_done(training)
        run.checks.true(committed(place) < STEPS // SPARSE - 2, "what is cut off commits nothing")
        return True
    for way in ways:
        run.undisturbed_but(f"cut-{way}", lambda b, way=way: b.link.cut(way), meanwhile,
                            lambda b: b.link.heal())


def part_links(run):
    """The network itself: what is cut is cut, others are not, and it heals."""
    links = [net.Link(), net.Link()]
    with socket.create_server((net.ADDRESS, 0)) as server:
        connect = ("import socket; socket.create_connection("
                   f"('{net.ADDRESS}', {server.getsockname()[1]}), 1).close()")

        def reaches(link):
            return subprocess.run([*link.prefix, sys.executable, "-c", connect], check=False,
                                  stderr=subprocess.DEVNULL).returncode == 0
        for way in net.WAYS:
            links[0].cut(way)
            run.checks.equal([reaches(link) for link in links][:1], [False], f"cut: {way}")
            await_true("the other link works", lambda: reaches(links[1]))
            links[0].heal()
            await_true("it heals", lambda: reaches(links[0]))


def part_cut_launch(run):
    """All ranks are started again while a node is cut off: the launch waits for it, whichever
    it is, and loses nothing."""
    for way, first in (("silent", False), ("down", True)):
        name = f"launch-{way}"
        home, place, a, b = run.two(name)
        training = run.begin(name, [a, b], home, 2)
        await_true("two commits", lambda: committed(place) >= 2)
        run.disturb(training, training.kill)
        newest = max(step_of(n) for n in commits(place))
        lost = a if first else b
        lost_name = lost.uuid().replace("-", "")
        lost.link.cut(way)

        def later(training):
            try:
                other = b if first else a
                await_true("ranks have come to the other node", lambda: other.page()["sessions"])
                if not first:
                    await_true("it has told of them", lambda: names(place, "l", 2, "node-"))
                time.sleep(2)  # the launch looks for the node that is cut off
                run.checks.equal(training.process.poll(), None, "the launch waits")
                told = names(place, "l", 2, "claim" if first else f"node-{lost_name}")
                run.checks.equal(told, [], "nobody has seen the node that is cut off")
            finally:
                lost.link.heal()
        step = run.ends_as_undisturbed(name, [a, b], home, f"a launch with a node {way}",
                                       meanwhile=later)
        run.checks.true(step >= newest, f"step {newest} was committed and is lost")
        run.verified(home, place)
        run.stop(a, b)


def part_restart_cut(run):
    """Saves wait for a node that is cut off; rank 0's daemon ends meanwhile.  The next launch decides
    for them, and each node brings home what it holds of what was decided without it."""
    home, place, a, b = run.two("restart")
    training = run.begin("restart", [a, b], home, 2)
    await_true("a commit", lambda: committed(place) >= 1)
    training.stop()
    at = len(training.lines())
    if at + 3 * EVERY > STEPS:
        raise TooLate
    await_true("all is at home", lambda: held(place) == committed(place))
    before = committed(place)
    b.link.cut("down")
    training.stop(go_on=True)
    training.await_steps(at + 2 * EVERY)
    run.disturb(training, training.kill)
    a.stop()
    run.checks.equal(committed(place), before, "nothing is committed without the other node")
    a.start()
    b.link.heal()
    step = run.ends_as_undisturbed("restart", [a, b], home, "saves that a launch decides for")
    run.checks.true(step > at, f"resumed from {step}, but what was saved after {at} is complete")
    run.verified(home, place)
    run.stop(a, b)


def part_zombie_cut(run):
    """The nodes of a launch are cut off and the job is started on others; back again, the old
    launch is told, and nobody resumes from what it brings."""
    home, place, a, b = run.two("fork")
    zombie = run.begin("fork-old", [a, b], home, 2)
    await_true("a commit", lambda: committed(place) >= 1)
    zombie.stop()
    at = len(zombie.lines())
    if at + 3 * EVERY > STEPS:
        raise TooLate
    await_true("all is at home", lambda: held(place) == committed(place))
    for node in (a, b):
        node.link.cut("silent")
    zombie.stop(go_on=True)
    zombie.await_steps(at + 2 * EVERY)  # it trains and saves, alone
    run.disturb(zombie, zombie.stop)    # for the other launch may take its time
    if len(zombie.lines()) > STEPS - EVERY:  # its last save has begun: it would not be told
        for node in (a, b):
            node.link.heal()
        raise TooLate
    before = committed(place, begin=OF_EPOCH_1)
    c, d = (run.node(f"fork.{i}", home) for i in "cd")
    shutil.copy(zombie.losses, run.world.path(run.losses("fork")))
    step = run.ends_as_undisturbed("fork", [c, d], home, "a launch beside one that is cut off")
    run.checks.true(step <= at, f"it resumed from {step}, which was cut off after {at}")
    run.checks.equal(committed(place, begin=OF_EPOCH_1), before, "what is cut off commits nothing")
    for node in (a, b):
        node.link.heal()
    time.sleep(UNASKED_S)
    zombie.stop(go_on=True)
    out = zombie.finish()
    run.checks.true("a newer launch has taken over" in out, f"the zombie is told: {out}")
    training = Training(run.world, run.losses("fork"), STEPS, [c, d], home, save_every=EVERY)
    out = training.finish()
    run.checks.true(f"resumed after step {STEPS}" in out, f"the third launch: {out}")
    run.checks.equal(training.lines(), run.reference, "losses after all")
    run.verified(home, place)
    run.stop(a, b, c, d)


# -- the object store is away -------------------------------------------------------------------


def answers():
    connection = http.client.HTTPConnection(os.environ["CKPT_TEST_S3"].removeprefix("http://"),
                                            timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read() is not None
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def gateway_away(*_):
    os.kill(int(os.environ["CKPT_TEST_RGW"]), signal.SIGUSR1)
    await_true("the gateway is gone", lambda: not answers())


def gateway_back(*_):
    os.kill(int(os.environ["CKPT_TEST_RGW"]), signal.SIGUSR2)
    await_true("the gateway is back", answers)


def part_gateway(run):
    """It is killed and comes back; saves wait on the nodes, or, where a node has no place of its
    own, in the arenas."""
    def to_the_end(training, _):
        nearly_done(training)
        return True

    def as_far_as_it_goes(training, _):
        training.await_steps(len(training.lines()) + 2)
        time.sleep(5)  # until the arenas are full
        print(f"  trained {len(training.lines())} steps of {STEPS} meanwhile")
    run.undisturbed_but("gateway", gateway_away, to_the_end, gateway_back)
    run.undisturbed_but("direct", gateway_away, as_far_as_it_goes, gateway_back, local=False)


SHORT = ("links",)
CUTS = ("cut", "cut_launch", "restart_cut", "zombie_cut")
PARTS = SHORT + CUTS + ("gateway", "lost_held", "world_size", "jobs", "run_kills")


def scenario(part):
    return globals().get(f"part_{part}") or getattr(test_nodes, f"part_{part}")


def run_all(build, wanted, checks):
    with tempfile.TemporaryDirectory() as scratch:
        world = Cluster(build, scratch, on_s3=True, with_links="CKPT_TEST_NO_NET" not in os.environ)
        try:
            run = NetRun(world, checks)
            for part in wanted:
                began = time.monotonic()
                print(f"{part}:", flush=True)
                test_nodes.scenario(run, scenario(part))
                print(f"  {time.monotonic() - began:.0f} s", flush=True)
        except BaseException:
            for node in world.nodes:
                print(f"-- {node.name}:\n{node.tail()}", file=sys.stderr)
            raise
        finally:
            world.stop_all()
            world.client.close()


def in_network():
    """From here on the rest of this process, in a network of its own or on the loopback."""
    try:
        net.enter_hub()
        os.environ["CKPT_TEST_ADDRESS"] = net.ADDRESS
    except net.NoNetwork as e:
        os.environ["CKPT_TEST_NO_NET"] = str(e)


def main():
    wanted = sys.argv[2:] or (PARTS if DEEP else SHORT)
    on_gateway = DEEP or bool(set(wanted) - set(CUTS) - set(SHORT))
    if "CKPT_TEST_S3" not in os.environ:
        in_network()
        if on_gateway:
            os.execv(sys.executable, [sys.executable, os.path.join(HERE, "..", "s3", "with_rgw.py"),
                                      sys.executable, *sys.argv])
    skipped = [part for part in wanted if part in CUTS + SHORT] \
        if "CKPT_TEST_NO_NET" in os.environ else []
    if skipped:
        print(f"SKIP: {len(skipped)} scenarios of nodes cut off ({', '.join(skipped)}): "
              f"no network namespaces ({os.environ['CKPT_TEST_NO_NET']})")
        wanted = [part for part in wanted if part not in skipped]
    if not wanted:
        sys.exit(77)
    checks = s3_kit.Checks()
    if on_gateway:
        run_all(sys.argv[1], wanted, checks)
    else:
        with s3_kit.FaultServer("--bucket", "nodes") as server:
            os.environ.update({"CKPT_TEST_S3": f"http://{server.s3}", "CKPT_TEST_BUCKET": "nodes",
                               "AWS_ACCESS_KEY_ID": s3_kit.KEY_ID, "AWS_REGION": "us-east-1",
                               "AWS_SECRET_ACCESS_KEY": s3_kit.SECRET})
            run_all(sys.argv[1], wanted, checks)
    print(f"{checks.count} cases")


if __name__ == "__main__":
    main()
