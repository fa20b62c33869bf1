"""What the tests of ckptd on an object store share: a node with a daemon of its own, the ckpt
command, the example trainer, and what nobody may read anywhere (the canary)."""
import json
import os
import random
import re
import signal
import struct
import subprocess
import time

PATIENCE_S = 300  # on a machine that does much else, too
POLL_S = 0.02
NOISE_PART = 16 << 20


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
            return [int(word) for word in f.read().split()]
    except OSError:
        return []


def is_gone(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
            return f.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def await_true(what, condition, seconds=PATIENCE_S):
    """Returns the first true value; the test fails when the time is over."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"in vain: {what}")
        time.sleep(POLL_S)


def write_tensors(path, size, seed):
    """A safetensors file of one tensor of noise."""
    head = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head)
        noise = random.Random(seed)
        while size:  # randbytes ends short of 256 MiB
            part = min(size, NOISE_PART)
            f.write(noise.randbytes(part))
            size -= part


def is_sanitized(build):
    """Then the long tests do a fraction of what they do otherwise (as TEST_TENTH in check.h)."""
    with open(f"{build}/CMakeCache.txt", encoding="utf-8") as cache:
        return re.search(r"^CKPT_SANITIZE:\w+=.", cache.read(), re.MULTILINE) is not None


class World:
    """The built programs, a scratch directory, and all that they said."""

    def __init__(self, build, scratch):
        self.build, self.scratch = build, scratch
        self.sanitized = is_sanitized(build)
        self.secret = os.environ["AWS_SECRET_ACCESS_KEY"]
        self.bucket = os.environ["CKPT_TEST_BUCKET"]
        self.said = []  # outputs of programs that are over
        self.logs = []  # files of those that run
        self.pages = 0
        self.nodes, self.trainers = [], []

    def stop_all(self):
        """What a test that failed left running."""
        for node in self.nodes:
            if node.process and node.process.poll() is None:
                node.kill()
        for trainer in self.trainers:
            if trainer.process.poll() is None:
                trainer.kill()

    def path(self, *names):
        return os.path.join(self.scratch, *names)

    def url(self, prefix):
        return f"s3://{self.bucket}/{prefix}"

    def environment(self, endpoint, **more):
        kept = {k: v for k, v in os.environ.items() if not k.startswith("CKPT_")}
        return {**kept, "AWS_ENDPOINT_URL_S3": endpoint, "HOME": self.scratch,
                "XDG_RUNTIME_DIR": self.scratch, "CKPT_CKPTD": f"{self.build}/ckptd/ckptd", **more}

    def ckpt(self, *words, endpoint=None, status=0, **more):
        """Standard output; status None: any, and then (status, output, errors)."""
        done = subprocess.run(
            [f"{self.build}/tools/ckpt", *words], stdin=subprocess.DEVNULL, capture_output=True,
            text=True, check=False, timeout=300,
            env=self.environment(endpoint or os.environ["CKPT_TEST_S3"], **more))
        self.said += [done.stdout, done.stderr]
        if status is None:
            return done.returncode, done.stdout, done.stderr
        if done.returncode != status:
            raise AssertionError(f"ckpt {words} ended with {done.returncode}, expected {status}:\n"
                                 f"{done.stdout}{done.stderr}")
        return done.stdout

    def canary(self):
        """(texts looked through, where the secret was found)"""
        found = [text[:200] for text in self.said if self.secret in text]
        for name in self.logs:
            with open(name, encoding="utf-8", errors="replace") as f:
                if self.secret in f.read():
                    found.append(name)
        return len(self.said) + len(self.logs), found


class Node:
    """ckptd with a directory of its own."""

    prefix = ()  # words before its command

    def __init__(self, world, name, *options, endpoint=None, **more):
        self.world, self.name, self.options, self.more = world, name, options, more
        self.endpoint = endpoint or os.environ["CKPT_TEST_S3"]
        os.makedirs(world.path(name), exist_ok=True)
        self.store = world.path(name, "store")
        self.socket = world.path(name, "sock")
        self.log = world.path(name, "log")
        world.logs.append(self.log)
        self.process = None
        world.nodes.append(self)

    def start(self, *more):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, f"{self.world.build}/ckptd/ckptd", "--socket", self.socket,
                 *self.options, *more],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self.world.environment(self.endpoint, **self.more))
        await_true(f"{self.name} serves", self.page)
        for pid in (self.process.pid, *children(self.process.pid)):
            with open(f"/proc/{pid}/cmdline", encoding="utf-8") as f:
                self.world.said.append(f.read())
        return self

    def page(self):
        """The status page, None while nobody serves."""
        status, out, _ = self.world.ckpt("--json", "status", "--socket", self.socket, status=None)
        self.world.pages += 1
        return json.loads(out) if status == 0 and out.strip() else None

    def tier(self):
        """The tier that things go on to."""
        page = self.page()
        return page["tiers"][-1] if page else {"held": -1, "lag": -1, "state": "", "put_bytes": 0}

    def await_all(self, count, seconds=PATIENCE_S):
        """Nothing is left to go, and so many went."""
        def arrived():
            tier = self.tier()
            return tier["lag"] == 0 and tier["held"] == count
        try:
            await_true(f"{self.name}: all {count} there", arrived, seconds)
        except AssertionError as e:
            raise AssertionError(f"{e}; {self.tier()}\n{self.tail()}") from None

    def await_held(self, count):
        """So many have arrived since this worker began."""
        await_true(f"{self.name}: {count} there", lambda: self.tier()["held"] >= count)

    def await_drained(self, step):
        """Nothing is left to go, and the newest that went is this one."""
        def arrived():
            tier = self.tier()
            return tier["lag"] == 0 and tier.get("held_step") == step
        await_true(f"{self.name}: step {step} there", arrived)

    def save(self, files, step, job="j"):
        self.world.ckpt("--store", self.options[1], "save", *files, "--job", job, "--step",
                        str(step), "--socket", self.socket, endpoint=self.endpoint)

    def kill(self):
        """Both processes, without warning; the keeper first, or it starts another worker."""
        workers = children(self.process.pid)
        self.process.kill()
        self.process.wait()
        for pid in workers:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            await_true("the worker is gone", lambda pid=pid: is_gone(pid))

    def stop(self):
        self.process.terminate()
        if self.process.wait(timeout=PATIENCE_S) != 0:
            raise AssertionError(f"{self.name} ended with {self.process.returncode}")
        self.process = None

    def tail(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return "".join(f.readlines()[-15:])


class Trainer:
    """The example's training run, with checkpoints on a node or without any."""

    def __init__(self, world, losses, steps, node=None, save_every=5, size="tiny"):
        self.losses = world.path(losses)
        command = [f"{world.build}/tools/ckpt-train", "--size", size, "--ranks", "2", "--steps",
                   str(steps), "--seed", "7", "--val-every", "0", "--loss-out", self.losses]
        environment = world.environment(node.endpoint if node else "")
        if node:
            command += ["--store", node.options[1], "--save-every", str(save_every)]
            environment["CKPT_SOCKET"] = node.socket
        self.world = world
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        env=environment, start_new_session=True)
        world.trainers.append(self)

    def lines(self):
        try:
            with open(self.losses, encoding="ascii") as f:
                return f.read().splitlines()
        except OSError:
            return []

    def await_steps(self, count):
        def there():
            if self.process.poll() is not None:
                raise AssertionError(f"the trainer ended early: {self.finish()}")
            return len(self.lines()) >= count
        await_true(f"{count} steps trained", there)

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        return self.finish()

    def finish(self):
        """Its output."""
        out, _ = self.process.communicate(timeout=2 * PATIENCE_S)
        self.world.said.append(out)
        return out
