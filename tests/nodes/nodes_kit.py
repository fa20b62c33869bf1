"""Several nodes on one machine: each is a ckptd with a directory of its own, all have one home, and
the ranks of the example trainer are spread over them."""
import glob
import os
import shutil
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "s3"))
import daemon_kit  # noqa: E402
from daemon_kit import Node, World, await_true  # noqa: E402,F401

NOWHERE = "http://127.0.0.1:9"  # for nodes that have no object store


class Cluster(World):
    """Scratch space, and the home in it (or in the bucket, when there is one)."""

    def __init__(self, build, scratch, on_s3=False):
        os.environ.setdefault("CKPT_TEST_S3", NOWHERE)
        os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "no such key is used")
        os.environ.setdefault("CKPT_TEST_BUCKET", "none")
        super().__init__(build, scratch)
        self.on_s3 = on_s3

    def home(self, name):
        return self.url(name) if self.on_s3 else f"dir://{self.path(name)}?shared=1"

    def node(self, name, home, *options, **more):
        return ClusterNode(self, name, "--store", home, "--local", self.path(name, "local"),
                           "--slot-bytes", "8M", *options, **more)


class ClusterNode(Node):
    def lose(self):
        """The node is gone with its disk; a new one may come under the same name."""
        self.kill()
        shutil.rmtree(self.world.path(self.name))
        os.makedirs(self.world.path(self.name))

    def freeze(self, stop=True):
        for pid in (self.process.pid, *daemon_kit.children(self.process.pid)):
            os.kill(pid, signal.SIGSTOP if stop else signal.SIGCONT)

    def uuid(self):
        return self.page()["node"]

    def said(self, words):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return words in f.read()


class Training:
    """The example trainer over several nodes; without nodes: undisturbed and unsaved."""

    def __init__(self, world, losses, steps, nodes=(), home=None, ranks=4, save_every=10, job="gpt",
                 seed=7, **more):
        self.losses = world.path(losses)
        command = [f"{world.build}/tools/ckpt-train", "--size", "tiny", "--ranks", str(ranks),
                   "--steps", str(steps), "--seed", str(seed), "--val-every", "0", "--job", job,
                   "--loss-out", self.losses]
        if nodes:
            command += ["--store", home, "--save-every", str(save_every), "--sockets",
                        ",".join(node.socket for node in nodes)]
        self.world = world
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        env=world.environment(os.environ["CKPT_TEST_S3"],
                                                              **more),
                                        start_new_session=True)
        world.trainers.append(self)

    lines = daemon_kit.Trainer.lines
    await_steps = daemon_kit.Trainer.await_steps
    kill = daemon_kit.Trainer.kill
    finish = daemon_kit.Trainer.finish

    def stop(self, go_on=False):
        os.killpg(self.process.pid, signal.SIGCONT if go_on else signal.SIGSTOP)


COMMIT_MIN = 256  # a smaller record under c/ is an ABORT


def commits(place, job="gpt", begin=""):
    """Names of the checkpoints that the home (a directory) has decided for."""
    return [os.path.basename(name) for name in glob.glob(f"{place}/{job}/c/{begin}*")
            if os.path.getsize(name) >= COMMIT_MIN]


def committed(place, job="gpt", begin=""):
    return len(commits(place, job, begin))


def step_of(name):
    return (1 << 64) - 1 - int(name.split("-")[1], 16)


def held(place, job="gpt"):
    return len(glob.glob(os.path.join(place, job, "h", "*")))


def names(place, folder, epoch=None, begin="", job="gpt"):
    """What lies under c, h, or (with an epoch) l of the job."""
    if epoch is not None:
        folder = os.path.join(folder, f"{(1 << 64) - 1 - epoch:016x}")
    try:
        return [n for n in os.listdir(os.path.join(place, job, folder)) if n.startswith(begin)]
    except FileNotFoundError:
        return []
