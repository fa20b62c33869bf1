#!/usr/bin/env python3
"""ckpt's S3 client beside those that are known for speed: awscrt's S3 client, aws-cli, rclone and
s5cmd, all against the same server, moving the same files, in turns within one run.

    tests/bench/s3_peers.py BUILD-DIR [--server sink] [--server tls] [--server rgw] ...

Servers: sink (default) is tests/s3/sink_server over HTTP, which does next to nothing, so that the
client is what is measured; tls is the same over HTTPS; rgw is a Ceph object gateway that is
started for this (Debian: ceph-mon ceph-osd ceph-common radosgw), HTTP, objects in memory.

A round is: each client in turn puts all files from a folder in memory (tmpfs) as one object each,
gets them into another one, which is compared, and then the objects are removed.  The bytes are
random.  Seconds and CPU seconds (user and system, of the client's processes, by wait4) are of
whole programs with all that they do to begin and end.  Ratios are of pairs within a round, what is
printed is their median and range; the second row, our client once more, says how much of that
is noise.  A first round with half of the files is not measured: programs are loaded then,
and the difference of requests between half and whole is what more data costs.  Each client runs
with the settings that were best of those in its list (--tune tries them all).

Payload signing: each client is compared with ours in the same mode, which the sink server says, as
it came in.  Over HTTP bodies are signed, but by awscrt, whose S3 client cannot: ours leaves
it out there as well (payload=unsigned), and then sends a CRC32C of each body that awscrt does not.
Over HTTPS bodies are not signed, but by those that cannot leave it out.

"files alone": our program reads or writes the files and asks no server: what is in each row's
CPU seconds for the folders.  "socket alone": a few lines of Python get everything over one socket
(with TLS: OpenSSL's), into memory (sink server): with the files, what no client can do without.  "to memory": what is got is dropped instead of written to a file.  "ckptd": a
checkpoint of one tensor of that size in the directory of a daemon; put is a daemon's start,
drain of all of it as it lies there and end, get is "ckpt restore" without any daemon.

The clients are installed into a folder that is kept (--programs), by pip; rclone by apt.  Not
run by tools/check.  Memory: three times the payload, with rgw eight times.
"""
import argparse
import filecmp
import http.client
import json
import os
import pathlib
import shutil
import signal
import ssl
import statistics
import subprocess
import sys

from s3_peers_clients import (PATIENCE_S, Awscrt, AwsCli, Daemon, Failed, Files, Ours, Rclone,
                              S5cmd, Socket)

HERE = pathlib.Path(__file__).resolve().parent
S3_TESTS = HERE.parent / "s3"
BUCKET = "bench-peers"
PACKAGES = ("awscrt", "awscli", "s5cmd")
MEMORY_PREFIX = "s3-peers-"
TIB_IN_GIB = 1024


# ---- servers ----

class Sink:
    """tests/s3/sink_server: counts what comes in."""

    def __init__(self, args, scratch, tls):
        command = [args.build / "tests/sink_server", "--threads", "2"]
        self.context = self.ca = None
        if tls:
            subprocess.run([S3_TESTS / "make_ca", scratch], check=True)
            self.ca = scratch / "ca.pem"
            self.context = ssl.create_default_context(cafile=self.ca)
            command += ["--tls", scratch / "server.pem", scratch / "server.key"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.address = self.process.stdout.readline().strip()
        self.url = f"{'https' if tls else 'http'}://{self.address}"
        self.keys = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "nothing-secret",
                     "AWS_REGION": "us-east-1"}
        self.bucket = BUCKET
        self.keeps_bytes = False
        self.name = f"the sink server over {'HTTPS' if tls else 'HTTP'}"

    def counts(self):
        kind = http.client.HTTPSConnection if self.context else http.client.HTTPConnection
        more = {"context": self.context} if self.context else {}
        connection = kind(self.address, timeout=PATIENCE_S, **more)
        connection.request("GET", "/-/counts")
        return json.loads(connection.getresponse().read())

    def collect(self):
        pass

    def stop(self):
        self.process.kill()
        self.process.wait()


class Gateway:
    """radosgw, which with_rgw.py started around this program."""

    def __init__(self):
        self.url, self.bucket = os.environ["CKPT_TEST_S3"], os.environ["CKPT_TEST_BUCKET"]
        self.keys = {n: os.environ[n] for n in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")}
        self.ca = None
        self.keeps_bytes = True
        self.name = "radosgw over HTTP"

    def counts(self):
        return None

    def collect(self):
        """Removed objects lie in memory until the gateway's collector has passed."""
        subprocess.run(["radosgw-admin", "gc", "process", "--include-all"], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self):
        pass


# ---- the run ----

class Bench:
    def __init__(self, args, server, scratch, memory):
        self.args, self.server, self.scratch, self.memory = args, server, scratch, memory
        self.programs = args.programs
        self.counts = (max(1, args.objects // 2), args.objects)
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(scratch), "XDG_RUNTIME_DIR": str(scratch),
                            "AWS_ENDPOINT_URL_S3": server.url, "AWS_EC2_METADATA_DISABLED": "true",
                            "CKPT_CKPTD": str(args.build / "ckptd/ckptd"), **server.keys}
        if server.ca:
            self.environment["AWS_CA_BUNDLE"] = str(server.ca)
        self.source, self.half, self.into = memory / "source", memory / "half", memory / "into"
        self.results = {}  # (client, verb): [(wall, cpu) or None per round]
        self.requests = {}  # (client, verb, count): of the sink server
        self.missing = {}

    def make_files(self):
        for folder in (self.source, self.half):
            folder.mkdir()
        for i in range(self.args.objects):
            (self.source / str(i)).write_bytes(os.urandom(self.args.mib << 20))
            if i < self.counts[0]:
                os.link(self.source / str(i), self.half / str(i))

    def check_files(self, client, count):
        """What came is what was put; the sink server gives a pattern instead."""
        if isinstance(client, Daemon):
            found = list(self.into.rglob("*.safetensors"))
            if len(found) != 1 or found[0].stat().st_size < count * self.args.mib << 20:
                raise Failed("restore: not there")
            return
        names = [str(i) for i in range(count)]
        if any((self.into / n).stat().st_size != self.args.mib << 20 for n in names):
            raise Failed("another length came back")
        if self.server.keeps_bytes and not isinstance(client, Files):
            if filecmp.cmpfiles(self.source, self.into, names, shallow=False)[0] != names:
                raise Failed("other bytes came back")

    def remove(self, client):
        """All that is under its prefix, by our client."""
        command = [self.args.build / "tests/bench_s3", client.place(), "--only", "clear"]
        subprocess.run([str(w) for w in command], check=True, stdout=subprocess.DEVNULL, env=self.environment)
        self.server.collect()

    def one(self, client, verb, folder, count):
        before = self.server.counts()
        measured = client.turn(verb, folder, count)
        after = self.server.counts()
        if after:
            seen = {n: after[n] - before[n] for n in after}
            self.requests[client.name, verb, count] = seen
            if verb == "put" and seen["bytes_in"] > 1 << 20:
                client.mode = "signed" if seen["bytes_signed"] > seen["bytes_unsigned"] else "unsigned"
        return measured

    def turn(self, client, count):
        """{verb: (seconds, CPU seconds)} of one client's turn."""
        folder = self.source if count == self.args.objects else self.half
        shutil.rmtree(self.into, ignore_errors=True)
        self.into.mkdir()
        got = {}
        try:
            got["put"] = self.one(client, "put", folder, count)
            if "get" in client.directions:
                got["get"] = self.one(client, "get", self.into, count)
                if client.writes_files:
                    self.check_files(client, count)
        except Exception:  # not when we are told to end: the server may be gone then
            self.remove(client)
            raise
        self.remove(client)
        return {verb: got[verb] for verb in client.directions}

    def rounds(self, clients):
        """Round -1 is with half of the files, and is not counted."""
        for number in range(-1, self.args.rounds):
            count = self.counts[0] if number < 0 else self.args.objects
            shift = max(0, number) % len(clients)
            for client in clients[shift:] + clients[:shift]:
                if client.name in self.missing:
                    continue
                try:
                    got = self.turn(client, count)
                except (Failed, OSError, subprocess.SubprocessError) as why:
                    self.missing[client.name] = " ".join(str(why).split())
                    continue
                for verb, measured in got.items():
                    if number >= 0:
                        self.results.setdefault((client.name, verb), {})[number] = measured
            print(f"round {number + 1} of {self.args.rounds}", file=sys.stderr, flush=True)


def ratio_text(pairs):
    return f"{statistics.median(pairs):5.2f} [{min(pairs):.2f} {max(pairs):.2f}]" if pairs else "-"


def ours_for(mode):
    return "ours" if mode == "signed" else "ours, unsigned"


class Table:
    def __init__(self, bench, clients):
        self.bench, self.clients = bench, [c for c in clients if c.name not in bench.missing]
        self.gib = bench.args.objects * bench.args.mib / 1024

    def partner(self, client):
        """With whom of ours it is compared; None: with nobody."""
        name = ours_for(client.mode)
        if not client.writes_files:
            name = "ours, to memory"
        present = [c.name for c in self.clients]
        return name if name in present and name != client.name and client.mode != "-" else None

    def pairs(self, client, verb):
        """(our speed over its, our CPU seconds over its) of each round with both."""
        ours = self.bench.results.get((self.partner(client), verb), {})
        its = self.bench.results.get((client.name, verb), {})
        both = sorted(set(ours) & set(its))
        return [its[i][0] / ours[i][0] for i in both], [ours[i][1] / max(its[i][1], 1e-3) for i in both]

    def charges(self, client, verb):
        """(requests a TiB, dollars a TiB, requests of a start)"""
        few, all_ = (self.bench.requests.get((client.name, verb, n)) for n in self.bench.counts)
        if not few or not all_:
            return "-", "-", "-"
        share = (self.bench.counts[1] - self.bench.counts[0]) * self.bench.args.mib / 1024 / TIB_IN_GIB
        more = {n: (all_[n] - few[n]) / share for n in ("requests", "writes", "reads")} if share else {}
        if not more:
            return "-", "-", "-"
        args = self.bench.args
        cost = (more["writes"] * args.price_put + more["reads"] * args.price_get) / 1000
        begin = all_["requests"] - more["requests"] * self.gib / TIB_IN_GIB
        return f"{more['requests']:.0f}", f"{cost:.4f}", f"{begin:.0f}"

    def row(self, client, verb):
        """One line, nothing where nothing was measured."""
        results = list(self.bench.results.get((client.name, verb), {}).values())
        if not results:
            return
        wall, cpu = (statistics.median(r[i] for r in results) for i in (0, 1))
        speed, work = self.pairs(client, verb)
        requests, cost, begin = self.charges(client, verb)
        print(f"{client.name:24} {client.mode:8} {wall:7.2f} {self.gib / wall:7.2f} {cpu:7.2f}   "
              f"{ratio_text(speed):18} {ratio_text(work):18} {requests:>8} {cost:>8} {begin:>5}")

    def verdict(self, verb):
        """Against all that others make."""
        peers = [c for c in self.clients
                 if not c.name.startswith(("ours", "socket")) and (c.name, verb) in self.bench.results]
        pairs = {c.name: self.pairs(c, verb) for c in peers}
        pairs = {n: p for n, p in pairs.items() if p[0]}
        if not pairs:
            return
        fast = min(pairs, key=lambda n: statistics.median(pairs[n][0]))
        lean = max(pairs, key=lambda n: statistics.median(pairs[n][1]))
        speed, work = statistics.median(pairs[fast][0]), statistics.median(pairs[lean][1])
        print(f"{verb}: {speed:.2f} of the speed of the best ({fast}; wanted 0.95): "
              f"{'yes' if speed >= 0.95 else 'NO'};   {work:.2f} of the CPU seconds of the leanest "
              f"({lean}; wanted 0.5): {'yes' if work <= 0.5 else 'NO'}")

    def floor(self):
        """What is left to getting files without any client of HTTP, beside the leanest client."""
        cpu = {name: statistics.median(r[1] for r in rows.values())
               for (name, verb), rows in self.bench.results.items() if verb == "get"}
        peers = [n for n in cpu if not n.startswith(("ours", "files", "socket")) and "to memory" not in n]
        if "files alone" not in cpu or "socket alone" not in cpu or not peers:
            return
        least, lean = cpu["files alone"] + cpu["socket alone"], min(peers, key=cpu.get)
        print(f"get: files alone and socket alone are {least:.2f} CPU seconds, {least / cpu[lean]:.2f} of "
              f"those of {lean}: no client that writes files can do with less")

    def print(self):
        args = self.bench.args
        print(f"\nAgainst {self.bench.server.name}: {args.objects} objects of {args.mib} MiB, "
              f"{args.rounds} rounds; medians.\nRequests: ${args.price_put} a thousand PUT, POST and "
              f"lists, ${args.price_get} a thousand GET and HEAD.")
        for verb in ("put", "get"):
            print(f"\n{verb:24} {'payload':8} {'s':>7} {'GiB/s':>7} {'CPU-s':>7}   {'our speed : its':18} "
                  f"{'our CPU : its':18} {'req/TiB':>8} {'$/TiB':>8} {'start':>5}")
            for client in self.clients:
                self.row(client, verb)
        print()
        for verb in ("put", "get"):
            self.verdict(verb)
        self.floor()
        for client in self.clients:
            words = " ".join(f"{k}={v}" for k, v in client.setting.items())
            print(f"  {client.name}: {words}")
        for name, why in self.bench.missing.items():
            print(f"  {name}: left out: {why}")


def clients_of(bench):
    everyone = [Ours(bench, "ours", "signed"), Ours(bench, "ours again", "signed"),
                Ours(bench, "ours, unsigned", "unsigned"),
                Ours(bench, "ours, to memory", "unsigned", files=False),
                Files(bench, "files alone", "-"),
                *([] if bench.server.keeps_bytes else
                  [Socket(bench, "socket alone", "-", files=False)]),
                Awscrt(bench, "awscrt"), Awscrt(bench, "awscrt, to memory", files=False),
                AwsCli(bench, "aws-cli"), S5cmd(bench, "s5cmd"),
                Rclone(bench, "rclone"), Daemon(bench, "ours, ckptd")]
    wanted = bench.args.clients.split(",") if bench.args.clients else None
    if wanted:
        everyone = [c for c in everyone if c.name.split(",")[0].split(" ")[0] in wanted + ["files", "socket"]]
    return everyone


# ---- programs ----

def install(programs):
    """{package: why it is not there}"""
    missing = {}
    python = programs / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", programs], check=True)
    for package in PACKAGES:
        done = subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                               package], capture_output=True, text=True, check=False)
        if done.returncode:
            missing[package] = done.stderr.strip().splitlines()[-1]
    if not shutil.which("rclone"):
        if os.geteuid() == 0 and shutil.which("apt-get"):
            subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", "rclone"], check=False,
                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                           env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
        if not shutil.which("rclone"):
            missing["rclone"] = "not installed, and apt did not do it (root?)"
    return missing


def versions(programs):
    words = []
    for command in ([programs / "bin/python", "-c", "import awscrt; print('awscrt', awscrt.__version__)"],
                    [programs / "bin/aws", "--version"], [programs / "bin/s5cmd", "version"],
                    ["rclone", "version"]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            name = "s5cmd " if str(command[0]).endswith("s5cmd") else ""
            words.append(name + done.stdout.splitlines()[0].split(" Python")[0])
        except (OSError, subprocess.CalledProcessError, IndexError):
            pass
    return ", ".join(words)


def prepare(bench, clients, missing):
    """What is not there is left out and named."""
    packages = {Awscrt: "awscrt", AwsCli: "awscli", S5cmd: "s5cmd", Rclone: "rclone"}
    for client in clients:
        package = packages.get(type(client))
        if package in missing:
            bench.missing[client.name] = missing[package]
            continue
        try:
            client.prepare()
        except (Failed, OSError, subprocess.SubprocessError) as why:
            bench.missing[client.name] = str(why)


def tuned(bench, clients):
    """Each client once with each of its settings."""
    several = []
    for client in clients:
        for number, setting in enumerate(client.settings):
            one = type(client).__new__(type(client))
            one.__dict__.update(client.__dict__)
            one.setting = setting
            if number:
                one.name = f"{client.name} #{number + 1}"
            several.append(one)
    return several


def run_server(args, kind, missing):
    scratch = args.scratch / kind
    memory = args.memory / f"{MEMORY_PREFIX}{os.getpid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    memory.mkdir(parents=True)
    server = Gateway() if kind == "rgw" else Sink(args, scratch, kind == "tls")
    try:
        bench = Bench(args, server, scratch, memory)
        bench.make_files()
        clients = clients_of(bench)
        prepare(bench, clients, missing)
        if args.tune:
            clients = tuned(bench, clients)
        bench.rounds(clients)
        Table(bench, clients).print()
    finally:
        server.stop()
        shutil.rmtree(memory, ignore_errors=True)


def sweep(folder):
    """Files of runs that were killed."""
    for left in folder.glob(MEMORY_PREFIX + "*"):
        pid = left.name[len(MEMORY_PREFIX):]
        if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            shutil.rmtree(left, ignore_errors=True)


def run_under_gateway(args):
    """This program once more, with a radosgw around it."""
    memory = 4 * args.objects * args.mib << 20
    command = [sys.executable, S3_TESTS / "with_rgw.py", "--memory", memory, sys.executable, *sys.argv]
    done = subprocess.run([str(w) for w in command], check=False,
                          env={**os.environ, "S3_PEERS_INSIDE": "1"})
    if done.returncode == 77:
        print("rgw: left out (above)")
    elif done.returncode:
        sys.exit(done.returncode)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path, help="a build tree with tests")
    parser.add_argument("--server", action="append", choices=["sink", "tls", "rgw"], help="may be repeated")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--objects", type=int, default=32)
    parser.add_argument("--mib", type=int, default=32, help="of an object")
    parser.add_argument("--clients", help="of ours,awscrt,aws-cli,s5cmd,rclone (default: all)")
    parser.add_argument("--tune", action="store_true", help="each client with each of its settings")
    parser.add_argument("--price-put", type=float, default=0.005,
                        help="dollars a thousand PUT, POST and lists (default: S3 Standard, us-east-1)")
    parser.add_argument("--price-get", type=float, default=0.0004, help="the same of GET and HEAD")
    parser.add_argument("--scratch", type=pathlib.Path, default=pathlib.Path("/tmp/s3-peers"))
    parser.add_argument("--memory", type=pathlib.Path, default=pathlib.Path("/dev/shm"),
                        help="a folder in memory for the files")
    parser.add_argument("--programs", type=pathlib.Path, help="of the clients (default: SCRATCH/programs)")
    args = parser.parse_args()
    args.build, args.scratch = args.build.resolve(), args.scratch.resolve()
    args.programs = (args.programs or args.scratch / "programs").resolve()
    if min(args.rounds, args.objects, args.mib) < 1:
        parser.error("numbers are 1 or more")
    return args


def main():
    args = arguments()
    inside = os.environ.get("S3_PEERS_INSIDE")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    args.scratch.mkdir(parents=True, exist_ok=True)
    missing = {} if inside else install(args.programs)
    sweep(args.memory)
    if not inside:
        print(versions(args.programs))
    for kind in ["rgw"] if inside else args.server or ["sink"]:
        if kind == "rgw" and not inside:
            run_under_gateway(args)
        else:
            run_server(args, kind, missing)


main()
