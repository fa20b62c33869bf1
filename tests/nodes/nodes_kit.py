"""Several nodes on one machine: each is a ckptd with a directory of its own (and a network
namespace, if wanted), all have one home, and the ranks of the example trainer are spread over
them."""
import http.client
import os
import shutil
import signal
import subprocess
import sys
from xml.etree import ElementTree

import net

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "s3"))
import daemon_kit  # noqa: E402
import s3_kit  # noqa: E402
from daemon_kit import Node, World, await_true  # noqa: E402,F401

NOWHERE = "http://127.0.0.1:9"  # for nodes that have no object store


class Cluster(World):
    """Scratch space, and the home in it (or in the bucket, when there is one)."""

    def __init__(self, build, scratch, on_s3=False, with_links=False):
        os.environ.setdefault("CKPT_TEST_S3", NOWHERE)
        os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "no such key is used")
        os.environ.setdefault("CKPT_TEST_BUCKET", "none")
        super().__init__(build, scratch)
        self.with_links = with_links
        self.client = None
        if on_s3:
            self.client = s3_kit.Client(f"{build}/tests/sign_lines",
                                        os.environ["CKPT_TEST_S3"].removeprefix("http://"),
                                        key_id=os.environ["AWS_ACCESS_KEY_ID"], secret=self.secret)

    def home(self, name):
        return self.url(name) if self.client else f"dir://{self.path(name)}?shared=1"

    def place(self, name):
        """What lies in that home, for those who look past ckpt."""
        if self.client:
            return BucketPlace(self.client, self.bucket, name)
        return DirectoryPlace(self.path(name))

    def node(self, name, home, *options, local=True, **more):
        if local:
            options = ("--local", self.path(name, "local"), *options)
        node = ClusterNode(self, name, "--store", home, "--slot-bytes", "8M", *options, **more)
        if self.with_links:
            node.link = net.Link()
            node.prefix = node.link.prefix
        return node


class DirectoryPlace:
    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return self.path

    def __str__(self):
        return self.path

    def sizes(self, *folders):
        """{name: bytes} of the files there."""
        found = {}
        try:
            with os.scandir(os.path.join(self.path, *folders)) as entries:
                for entry in entries:
                    found[entry.name] = entry.stat().st_size
        except OSError:  # not yet, or no longer
            pass
        return found


class BucketPlace:
    KEYS_MAX = 1000  # of one answer; the tests stay below

    def __init__(self, client, bucket, name):
        self.client, self.bucket, self.name = client, bucket, name

    def __str__(self):
        return f"s3://{self.bucket}/{self.name}"

    def sizes(self, *folders):
        prefix = "/".join((self.name, *folders, ""))
        query = [("list-type", "2"), ("max-keys", str(self.KEYS_MAX)), ("prefix", prefix)]

        def answer():
            try:
                got = self.client.call("GET", f"/{self.bucket}", query=query)
            except (OSError, http.client.HTTPException):  # the gateway was started again
                return None
            return got if got.status == 200 else None
        root = ElementTree.fromstring(await_true(f"a list of {prefix}", answer).body)
        space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
        if root.findtext(f"{space}IsTruncated") != "false":
            raise AssertionError(f"{prefix} holds more than {self.KEYS_MAX} keys")
        return {entry.findtext(f"{space}Key")[len(prefix):]: int(entry.findtext(f"{space}Size"))
                for entry in root.iter(f"{space}Contents")}


class ClusterNode(Node):
    link = None  # its way to all others, when it has a namespace

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
    """Names of the checkpoints that the home has decided for."""
    return [name for name, size in place.sizes(job, "c").items()
            if size >= COMMIT_MIN and name.startswith(begin)]


def committed(place, job="gpt", begin=""):
    return len(commits(place, job, begin))


def step_of(name):
    return (1 << 64) - 1 - int(name.split("-")[1], 16)


def held(place, job="gpt"):
    return len(place.sizes(job, "h"))


def names(place, folder, epoch=None, begin="", job="gpt"):
    """What lies under c, h, or (with an epoch) l of the job."""
    folders = [folder] if epoch is None else [folder, f"{(1 << 64) - 1 - epoch:016x}"]
    return [n for n in place.sizes(job, *folders) if n.startswith(begin)]
