"""A network of its own for each test that wants one, and a namespace in it for each node.

      hub: this process, and the object store           node: ckptd
     ┌──────────────────────────────────────┐          ┌────────────────┐
     │ bridge 10.77.0.1 ── port2 ───────────┼── veth ──┼ eth0 10.77.0.2 │
     │                  └─ port3 ───────────┼── veth ──┼ ...            │
     └──────────────────────────────────────┘          └────────────────┘

No namespace has a name: each lives as long as a process in it or a descriptor of it, and its
links with it, so that nothing is left of a test however it ends, and nothing of the machine's
own network is ever touched."""
import ctypes
import os
import subprocess

ADDRESS = "10.77.0.1"
CLONE_NEWNET = 0x40000000
WAYS = ("down", "silent")
LINKS_MAX = 250


class NoNetwork(Exception):
    """Why this machine has no namespaces for us."""


def _system_call(name, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        raise NoNetwork(f"{name}: {os.strerror(ctypes.get_errno())}")


def _ip(*words, prefix=()):
    """Words as one line, or several."""
    try:
        done = subprocess.run([*prefix, "ip", *" ".join(words).split()], capture_output=True,
                              text=True, check=False)
    except FileNotFoundError as e:
        raise NoNetwork("there is no ip (Debian: iproute2)") from e
    if done.returncode:
        raise NoNetwork(f"ip {' '.join(words)}: {done.stderr.strip()}")


def enter_hub():
    """This process, and all that it starts from now on, is in a network of its own; raises
    NoNetwork."""
    _ip("-V")
    _system_call("unshare", CLONE_NEWNET)
    _ip("link set lo up")
    _ip("link add bridge type bridge")
    _ip(f"addr add {ADDRESS}/24 dev bridge")
    _ip("link set bridge up")


class Link:
    """A node's namespace and its way to the hub, which can be cut."""

    made = 0

    def __init__(self):
        Link.made += 1
        if Link.made > LINKS_MAX:
            raise NoNetwork(f"more than {LINKS_MAX} nodes")
        number = Link.made + 1
        self.port = f"port{number}"
        here = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        _system_call("unshare", CLONE_NEWNET)
        self.space = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        _system_call("setns", here, CLONE_NEWNET)
        os.close(here)
        space = f"/proc/{os.getpid()}/fd/{self.space}"
        # A process in it ends with the test.
        self.prefix = ("setpriv", "--pdeathsig", "KILL", "nsenter", f"--net={space}", "--")
        _ip(f"link add {self.port} type veth peer name eth0 netns {space}")
        _ip(f"link set {self.port} master bridge up")
        self.inside(f"addr add 10.77.0.{number}/24 dev eth0")
        self.inside("link set lo up")
        self.inside("link set eth0 up")

    def inside(self, words):
        _ip(words, prefix=self.prefix)

    def cut(self, way):
        """down: the node has no network; silent: packets are lost, and nobody says so."""
        if way == "down":
            self.inside("link set eth0 down")
        else:
            _ip(f"link set {self.port} nomaster")

    def heal(self):
        self.inside("link set eth0 up")
        _ip(f"link set {self.port} master bridge")
