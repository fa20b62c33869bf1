"""The clients of s3_peers.py: one class each, which says how its program is called."""
import json
import os
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
PATIENCE_S = 300

AWS_CONFIG = """[default]
request_checksum_calculation = when_required
response_checksum_validation = when_required
s3 =
  addressing_style = path
  payload_signing_enabled = {signed}
  multipart_threshold = {part}MB
  multipart_chunksize = {part}MB
  max_concurrent_requests = {requests}
"""


class Failed(Exception):
    """Of a client: it is left out from then on."""


def run_measured(command, environment, log):
    """(seconds, CPU seconds of the process and what it waited for)"""
    with open(log, "wb") as out:
        started = time.perf_counter()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                 env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise Failed(f"{command[0]} ended with {child.returncode}: "
                     + pathlib.Path(log).read_text(errors="replace")[-300:].strip())
    return wall, usage.ru_utime + usage.ru_stime


class Client:
    """One row.  `settings` are tried by --tune; the first is the best that was found."""
    settings = ({},)
    directions = ("put", "get")
    writes_files = True
    mode = "signed"  # of the payload; set by what the sink server sees

    def __init__(self, bench, name):
        self.bench, self.name = bench, name
        self.setting = self.settings[0]
        self.prefix = name.replace(" ", "-").replace(",", "").replace(":", "")

    def place(self):
        return f"s3://{self.bench.server.bucket}/{self.prefix}"

    def prepare(self):
        """Before the first round; may raise Failed."""

    def command(self, verb, folder, count):
        raise NotImplementedError

    def environment(self):
        return self.bench.environment

    def turn(self, verb, folder, count):
        return run_measured([str(w) for w in self.command(verb, folder, count)], self.environment(),
                            self.bench.scratch / f"{self.prefix}.log")


class Ours(Client):
    settings = ({"threads": 4}, {"threads": 2}, {"threads": 8})

    def __init__(self, bench, name, payload, files=True):
        super().__init__(bench, name)
        self.payload, self.writes_files, self.mode = payload, files, payload
        if not files:
            self.directions = ("get",)

    def place(self):
        return f"{super().place()}?payload={self.payload}" if self.payload != "-" else super().place()

    def command(self, verb, folder, count):
        files = ["--files", folder] if self.writes_files or verb == "put" else []
        return [self.bench.args.build / "tests/bench_s3", self.place(), "--only", verb, "--objects", count,
                "--mib", self.bench.args.mib, "--threads", self.setting["threads"], *files]


class Files(Ours):
    """What the folders cost alone: put only reads, get only writes."""

    def command(self, verb, folder, count):
        command = super().command(verb, folder, count)
        command[command.index(verb)] = {"put": "read", "get": "write"}[verb]
        return command


class Socket(Ours):
    """What the kernel's part of getting costs, into memory."""

    def command(self, verb, folder, count):
        if verb == "put":
            return super().command(verb, folder, count)
        return [sys.executable, HERE / "s3_socket.py", self.bench.server.address, self.bench.server.ca or "-",
                f"{self.bench.server.bucket}/{self.prefix}/bench", *range(count)]


class Awscrt(Client):
    """gbps: its target; connections 0: what it makes of that."""
    mode = "unsigned"
    settings = ({"part": 32, "gbps": 10, "connections": 0}, {"part": 8, "gbps": 10, "connections": 0},
                {"part": 32, "gbps": 10, "connections": 4}, {"part": 32, "gbps": 40, "connections": 0})

    def __init__(self, bench, name, files=True):
        super().__init__(bench, name)
        self.writes_files = files
        if not files:
            self.directions = ("get",)

    def command(self, verb, folder, count):
        s = self.setting
        return [self.bench.programs / "bin/python", HERE / "s3_awscrt.py", verb, self.bench.server.url,
                f"{self.bench.server.bucket}/{self.prefix}/bench",
                folder if self.writes_files or verb == "put" else "-", s["part"], s["gbps"], s["connections"],
                *range(count)]


class AwsCli(Client):
    """The one of PyPI, version 1, which has no other transfer client than its own."""
    settings = ({"part": 64, "requests": 4}, {"part": 64, "requests": 10},
                {"part": 8, "requests": 10})

    def command(self, verb, folder, count):
        there = f"{self.place()}/bench"
        return [self.bench.programs / "bin/aws", "--endpoint-url", self.bench.server.url, "s3", "cp",
                "--recursive", "--only-show-errors", *([folder, there] if verb == "put" else [there, folder])]

    def environment(self):
        config = self.bench.scratch / f"{self.prefix}.conf"
        signed = "false" if self.bench.server.ca else "true"
        config.write_text(AWS_CONFIG.format(signed=signed, **self.setting), encoding="ascii")
        return {**self.bench.environment, "AWS_CONFIG_FILE": str(config)}


class S5cmd(Client):
    settings = ({"workers": 8, "part": 50}, {"workers": 256, "part": 50}, {"workers": 8, "part": 8},
                {"workers": 4, "part": 50})

    def command(self, verb, folder, count):
        there = f"{self.place()}/bench/"
        return [self.bench.programs / "bin/s5cmd", "--endpoint-url", self.bench.server.url, "--log", "error",
                "--numworkers", self.setting["workers"], "cp", "--part-size", self.setting["part"],
                *([f"{folder}/", there] if verb == "put" else [f"{there}*", f"{folder}/"])]


class Rclone(Client):
    """Version 1.60 (Debian 12) puts without a signature of the body."""
    mode = "unsigned"
    settings = ({"transfers": 8, "cutoff": "64Mi"}, {"transfers": 4, "cutoff": "64Mi"},
                {"transfers": 8, "cutoff": "8Mi"}, {"transfers": 8, "cutoff": "64Mi", "presigned": True})

    def command(self, verb, folder, count):
        s = self.setting
        there = f":s3:{self.bench.server.bucket}/{self.prefix}/bench"
        more = ["--s3-use-presigned-request"] if s.get("presigned") else []
        return ["rclone", "copy", *([folder, there] if verb == "put" else [there, folder]),
                "--config", "/dev/null", "--s3-provider", "Ceph", "--s3-env-auth", "--s3-endpoint",
                self.bench.server.url, "--s3-region", "us-east-1", "--s3-list-version", "2",
                "--s3-no-check-bucket", "--s3-no-head", "--s3-disable-checksum",
                "--ignore-checksum", "--ignore-times", "--no-traverse", "--quiet",
                "--transfers", s["transfers"], "--s3-upload-cutoff", s["cutoff"], "--s3-chunk-size", "8Mi",
                *more, *(["--ca-cert", self.bench.server.ca] if self.bench.server.ca else [])]

    def environment(self):
        """rclone 1.60 does not start with AWS_CA_BUNDLE set."""
        return {k: v for k, v in self.bench.environment.items() if k != "AWS_CA_BUNDLE"}


class Daemon(Client):
    """ckptd's drain, and a restore that needs no daemon."""
    settings = ({"streams": 4}, {"streams": 2}, {"streams": 8})

    def __init__(self, bench, name):
        super().__init__(bench, name)
        if not bench.server.keeps_bytes:
            self.directions = ("put",)  # nothing to restore

    def tool(self, *words):
        done = subprocess.run([self.bench.args.build / "tools/ckpt", *map(str, words)], capture_output=True,
                              text=True, check=False, env=self.bench.environment, timeout=PATIENCE_S)
        if done.returncode:
            raise Failed(f"ckpt {words[0]} ended with {done.returncode}: {done.stderr[-300:]}")
        return done.stdout

    def start(self, store, *options):
        log = open(self.bench.scratch / "ckptd.log", "ab")
        with log:
            child = subprocess.Popen([self.bench.args.build / "ckptd/ckptd", "--store", store, "--socket",
                                      self.socket, *map(str, options)], stdin=subprocess.DEVNULL, stdout=log,
                                     stderr=log, env=self.bench.environment)
        self.await_page(child, lambda page: True)
        return child

    def page(self):
        done = subprocess.run([self.bench.args.build / "tools/ckpt", "--json", "status", "--socket",
                               self.socket], capture_output=True, text=True, check=False,
                              env=self.bench.environment)
        return json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip() else None

    def await_page(self, child, condition):
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end and child.poll() is None:
            page = self.page()
            if page and condition(page):
                return
            time.sleep(0.02)
        raise Failed("ckptd: in vain; " + (self.bench.scratch / "ckptd.log").read_text()[-300:])

    @staticmethod
    def end(child):
        child.terminate()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        return usage.ru_utime + usage.ru_stime

    def prepare(self):
        self.socket = self.bench.scratch / "sock"
        for count in self.bench.counts:
            self.save(self.bench.memory / f"ckptd-{count}", count)

    def save(self, store, count):
        """A checkpoint of one tensor: all files, one behind the other."""
        tensors = self.bench.memory / "w.safetensors"
        size = count * self.bench.args.mib << 20
        head = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
        with open(tensors, "wb") as out:
            out.write(len(head).to_bytes(8, "little") + head)
            for i in range(count):
                out.write((self.bench.source / str(i)).read_bytes())
        child = self.start(store)
        self.tool("--store", store, "save", tensors, "--job", "j", "--step", 1, "--socket", self.socket)
        self.end(child)
        if count == self.bench.args.objects:
            tensors.rename(self.bench.memory / "saved.safetensors")
        tensors.unlink(missing_ok=True)

    def turn(self, verb, folder, count):
        if verb == "get":
            return run_measured([str(self.bench.args.build / "tools/ckpt"), "--store", self.place(),
                                 "restore", "j", "--to", f"{folder}/x"], self.bench.environment,
                                self.bench.scratch / "restore.log")
        started = time.perf_counter()
        child = self.start(self.bench.memory / f"ckptd-{count}", "--remote", self.place(), "--remote-codec",
                           "copy", "--remote-streams", self.setting["streams"])
        self.await_page(child, lambda page: page["tiers"][-1]["held"] == 1 and page["tiers"][-1]["lag"] == 0)
        wall = time.perf_counter() - started
        return wall, self.end(child)
