"""Runs a command with a Ceph object gateway (radosgw) of its own: mon, osd and gateway on
free ports of the loopback, objects in memory, everything below one temporary directory.
With CKPT_TEST_ADDRESS the gateway listens there instead.

usage: with_rgw.py [--memory BYTES] COMMAND [ARGUMENT...] [-- COMMAND ...]
The commands, one after the other, find in their environment
    CKPT_TEST_S3           http://ADDRESS:PORT
    CKPT_TEST_S3_NAMED     http://s3.localhost:PORT, for virtual hosts below it
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION
    CKPT_TEST_BUCKET       a bucket that exists, empty
    CKPT_TEST_BUCKET_NAMED another one, for virtual hosts
    CKPT_TEST_RGW          the process to signal: SIGUSR1 kills the gateway without warning,
                           SIGUSR2 starts it again on the same port, over the same objects
    CEPH_CONF              what radosgw-admin needs
and the first exit status that is not 0 is ours; 77 with "SKIP: reason" when Debian's packages are not there.
The daemons die with this process, however it ends.  Starting takes some 12 seconds.

Overwritten objects stay until the gateway's collector finds them, so the memory (a limit,
not a reservation) is 4 GiB by default for tests of at most 1 GiB."""
import ctypes
import datetime
import hashlib
import hmac
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
START_LIMIT_S = 120
PREFIX = "ckpt-rgw-"
PR_SET_PDEATHSIG = 1

CONF = """[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon2},v1:127.0.0.1:{mon1}]
ms bind ipv6 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
auth allow insecure global id reclaim = false
run dir = {dir}/run
admin socket = {dir}/run/$name.asok
pid file = {dir}/run/$name.pid
log file = {dir}/log/$name.log
crash dir = {dir}/log
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 2
osd pool default pgp num = 2
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon max pg per osd = 1000
mon warn on pool no redundancy = false
mon data avail crit = 0
[mon.a]
mon data = {dir}/mon
[osd.0]
osd data = {dir}/osd
osd objectstore = memstore
memstore device bytes = {memory}
osd class load list = *
osd class default list = *
osd op num shards = 1
osd op num threads per shard = 2
[client.rgw.a]
rgw frontends = beast endpoint={address}
rgw data = {dir}/rgw
rgw dns name = s3.localhost
rgw enable usage log = false
rgw gc obj min wait = 1
rgw run sync thread = false
# Without cephx there is no secure mode, and by default the gateway asks for it.
ms mon client mode = crc
"""


def free_ports(count):
    """Ports that are free now and not ours to hold: taken all at once, then let go."""
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("0.0.0.0", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Gateway:
    def __init__(self, memory):
        self.dir = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")
        self.daemons = []
        port, mon1, mon2 = free_ports(3)
        self.address = f"{os.environ.get('CKPT_TEST_ADDRESS', '127.0.0.1')}:{port}"
        for name in ("mon", "osd", "rgw", "run", "log"):
            os.mkdir(os.path.join(self.dir, name))
        self.fsid, self.mon1, self.mon2 = str(uuid.uuid4()), mon1, mon2
        conf = os.path.join(self.dir, "ceph.conf")
        with open(conf, "w", encoding="utf-8") as f:
            f.write(CONF.format(dir=self.dir, fsid=self.fsid, mon1=mon1, mon2=mon2,
                                address=self.address, memory=memory))
        self.env = {**os.environ, "CEPH_CONF": conf, "CEPH_ARGS": ""}

    def call(self, *command):
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False,
                              preexec_fn=die_with_parent)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
        return done.stdout

    def daemon(self, *command):
        with open(os.path.join(self.dir, "log", "output"), "ab") as log:
            child = subprocess.Popen(command, env=self.env, stdin=subprocess.DEVNULL, stdout=log,
                                     stderr=log, preexec_fn=die_with_parent)
        self.daemons.append(child)
        return child

    def start(self):
        monmap = os.path.join(self.dir, "monmap")
        addresses = f"[v2:127.0.0.1:{self.mon2},v1:127.0.0.1:{self.mon1}]"
        self.call("monmaptool", "--create", "--fsid", self.fsid, "--addv", "a", addresses, monmap)
        self.call("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap, "--keyring", "/dev/null")
        open(os.path.join(self.dir, "mon", "keyring"), "w", encoding="utf-8").close()
        self.daemon("ceph-mon", "-f", "-i", "a")
        self.call("ceph", "osd", "new", str(uuid.uuid4()))
        osd = json.loads(self.call("ceph", "osd", "dump", "-f", "json"))["osds"][0]["uuid"]
        self.call("ceph", "osd", "crush", "add", "osd.0", "1", "root=default", "host=localhost")
        self.call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self.daemon("ceph-osd", "-f", "-i", "0")
        self.start_gateway()

    def start_gateway(self):
        self.gateway = self.daemon("radosgw", "-f", "-n", "client.rgw.a")
        end = time.monotonic() + START_LIMIT_S
        while time.monotonic() < end:
            if self.gateway.poll() is not None:
                raise RuntimeError(f"radosgw ended with {self.gateway.returncode}")
            try:
                connection = http.client.HTTPConnection(self.address, timeout=5)
                connection.request("GET", "/")
                connection.getresponse().read()
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("radosgw does not answer")

    def user(self):
        """A user with fresh keys, and a bucket of its own."""
        key, secret = "CKPT" + secrets.token_hex(8).upper(), secrets.token_hex(20)
        self.call("radosgw-admin", "user", "create", "--uid", "test", "--display-name", "test",
                  "--access-key", key, "--secret-key", secret)
        bucket, named = "ckpt-test", "ckpt.test"
        for name in (bucket, named):
            status = put_bucket(self.address, name, key, secret)
            if status != 200:
                raise RuntimeError(f"bucket {name} was not made: HTTP {status}")
        port = self.address.rsplit(":", 1)[1]
        return {"CKPT_TEST_S3": f"http://{self.address}", "CKPT_TEST_BUCKET": bucket,
                "CKPT_TEST_S3_NAMED": f"http://s3.localhost:{port}",
                "CKPT_TEST_BUCKET_NAMED": named,
                "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret,
                "AWS_REGION": "us-east-1"}

    def kill_gateway(self):
        self.gateway.kill()
        self.gateway.wait()
        self.daemons.remove(self.gateway)

    def stop(self):
        for child in reversed(self.daemons):
            child.kill()
            child.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


def put_bucket(host, bucket, key, secret):
    """PUT /bucket, signed (Signature Version 4)."""
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{date[:8]}/us-east-1/s3/aws4_request"
    empty = hashlib.sha256(b"").hexdigest()
    names = "host;x-amz-content-sha256;x-amz-date"
    canonical = (f"PUT\n/{bucket}\n\nhost:{host}\nx-amz-content-sha256:{empty}\nx-amz-date:{date}\n"
                 f"\n{names}\n{empty}")
    to_sign = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signing = ("AWS4" + secret).encode()
    for part in scope.split("/"):
        signing = hmac.new(signing, part.encode(), "sha256").digest()
    signature = hmac.new(signing, to_sign.encode(), "sha256").hexdigest()
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.request("PUT", f"/{bucket}", headers={
        "x-amz-date": date, "x-amz-content-sha256": empty,
        "Authorization": f"AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={names}, "
                         f"Signature={signature}"})
    return connection.getresponse().status


def sweep():
    """Directories of runs that were killed."""
    for name in os.listdir(tempfile.gettempdir()):
        pid = name[len(PREFIX):].split("-")[0] if name.startswith(PREFIX) else ""
        if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            shutil.rmtree(os.path.join(tempfile.gettempdir(), name), ignore_errors=True)


def run_all(arguments, environment):
    """The commands between the "--"s, up to the first that fails."""
    while arguments:
        end = arguments.index("--") if "--" in arguments else len(arguments)
        command, arguments = arguments[:end], arguments[end + 1:]
        status = subprocess.run(command, env=environment, check=False,
                                preexec_fn=die_with_parent).returncode
        if status:
            return status
    return 0


def main():
    arguments = sys.argv[1:]
    memory = 4 << 30
    if arguments[:1] == ["--memory"]:
        memory, arguments = int(arguments[1]), arguments[2:]
    missing = [p for p in PROGRAMS if not shutil.which(p)]
    if missing:
        print(f"SKIP: no {missing[0]} (Debian: ceph-mon ceph-osd ceph-common radosgw)")
        sys.exit(77)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    sweep()
    gateway = Gateway(memory)
    try:
        gateway.start()
        environment = {**os.environ, **gateway.user(), "CKPT_TEST_RGW": str(os.getpid()),
                       "CEPH_CONF": gateway.env["CEPH_CONF"]}
        signal.signal(signal.SIGUSR1, lambda *_: gateway.kill_gateway())
        signal.signal(signal.SIGUSR2, lambda *_: gateway.start_gateway())
        for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_ENDPOINT_URL", "AWS_CA_BUNDLE"):
            environment.pop(name, None)
        status = run_all(arguments, environment)
    finally:
        gateway.stop()
    sys.exit(status if status >= 0 else 1)


main()
