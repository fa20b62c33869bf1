"""ckpt top on a terminal of our own: what it shows, resizing, keys, signals, a slow line, a
ckptd that goes and comes.

    top_screen.py SOCKET PID_OF_CKPTD          (in the folder with its store "s")
"""
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

SEQUENCE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])")


class Terminal:
    """As much of one as `ckpt top` may use: everything else is an error."""

    def __init__(self, rows, columns, *arguments, env=None):
        self.master, slave = pty.openpty()
        self.slave = slave
        self.size(rows, columns)
        self.before = termios.tcgetattr(slave)
        self.other, self.cursor = False, True
        self.rest = self.all = ""
        self.top = subprocess.Popen(["ckpt", "top", *arguments], stdin=slave, stdout=slave,
                                    stderr=slave, env={**os.environ, **(env or {})},
                                    start_new_session=True)

    def size(self, rows, columns):
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.rows, self.columns = rows, columns
        self.cells = [""] * rows
        self.row = self.column = 0

    def resize(self, rows, columns):
        self.read()
        self.size(rows, columns)
        self.top.send_signal(signal.SIGWINCH)

    def read(self, seconds=0.0):
        """Takes what has come."""
        while select.select([self.master], [], [], seconds)[0]:
            try:
                data = os.read(self.master, 65536).decode("utf-8", "replace")
            except OSError:
                return
            self.all += data
            self.rest += data
            self.show()
            seconds = 0

    def show(self):
        at = 0
        while at < len(self.rest):
            c = self.rest[at]
            found = SEQUENCE.match(self.rest, at) if c == "\x1b" else None
            if c == "\x1b" and not found:
                if len(self.rest) - at > 20:
                    raise AssertionError(f"a strange sequence: {self.rest[at:at + 20]!r}")
                break  # the other half is still to come
            if found:
                self.sequence(*found.groups())
                at = found.end()
                continue
            assert c >= " ", repr(c)
            at += 1
            if self.column >= self.columns:
                continue  # what was under way when the terminal was made narrower
            line = self.cells[self.row]
            self.cells[self.row] = line[:self.column] + c + line[self.column + 1:]
            self.column += 1
        self.rest = self.rest[at:]

    def sequence(self, numbers, letter):
        if numbers in ("?1049", "?25"):
            assert letter in "hl"
            if numbers == "?25":
                self.cursor = letter == "h"
            else:
                self.other = letter == "h"
        elif letter == "H":
            self.row, self.column = (int(n) - 1 for n in numbers.split(";"))
            assert self.row < self.rows and self.column == 0, numbers
        elif letter == "J":
            self.cells = [""] * self.rows
        elif letter == "K":
            self.cells[self.row] = self.cells[self.row][:self.column]
        else:
            assert letter == "m", (numbers, letter)

    def until(self, what, condition, seconds=60):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, (what, self.cells, self.all[-500:])
            self.read(0.05)
        return True

    def shows(self, pattern):
        return self.until(pattern, lambda: any(re.search(pattern, line) for line in self.cells))

    def key(self, key):
        os.write(self.master, key.encode())

    def ended(self, status):
        """And the terminal is as it was."""
        self.until("the end", lambda: self.top.poll() is not None)
        self.read(0.1)
        assert self.top.returncode == status, self.top.returncode
        assert not self.other and self.cursor
        assert termios.tcgetattr(self.slave) == self.before
        os.close(self.master)
        os.close(self.slave)
        return 1


def showing(socket):
    t = Terminal(30, 100, "--interval", "0.1", "--socket", socket)
    t.shows(r"^ckptd [0-9.]+, pid [0-9]+, up ")
    t.shows(r"^rates  +writing")
    t.shows(r"^JOB +IF ONLY IT IS LEFT")
    assert t.other and not t.cursor and "\x1b[2m" in t.all  # a job that is over is dim
    # Only what changes is sent: the uptime and little else.
    t.read()
    seen = len(t.all)
    up = t.cells[0]
    t.until("a change", lambda: t.cells[0] != up)
    assert len(t.all) - seen < 400, t.all[seen:]
    for rows, columns in ((10, 40), (3, 7), (1, 1), (50, 200)):
        t.resize(rows, columns)
        t.until("a frame", lambda: t.cells[0].startswith("ckptd 0.1"[:columns]))
        t.read(0.1)
        assert all(len(line) <= columns for line in t.cells)
    t.shows(r"^TIER ")
    t.key("x")
    t.key("q")
    return t.ended(0) + 5


def endings(socket):
    cases = 0
    hows = [lambda t: t.key("\x03"), lambda t: t.top.send_signal(signal.SIGTERM)]
    if os.environ.get("CKPT_DEEP"):
        hows += [lambda t: t.key("\x04"), lambda t: t.key("Q"),
                 lambda t: t.top.send_signal(signal.SIGINT),
                 lambda t: t.top.send_signal(signal.SIGHUP)]
    for how in hows:
        t = Terminal(24, 80, "--socket", socket)
        t.shows(r"^ckptd ")
        how(t)
        cases += t.ended(0)
    t = Terminal(24, 80, "--socket", socket, env={"NO_COLOR": "1"})
    t.shows(r"^TIER ")
    assert "\x1b[2m" not in t.all
    t.key("q")
    return cases + t.ended(0)


def slow_line(socket):
    """Nobody reads for a while: top waits, and frames do not pile up."""
    t = Terminal(40, 120, "--interval", "0.1", "--socket", socket)
    t.shows(r"^ckptd ")
    for _ in range(20):  # all of it again and again fills the line
        t.size(40, 120)
        t.size(41, 120)
        t.top.send_signal(signal.SIGWINCH)
        time.sleep(0.02)
    time.sleep(0.3)
    t.key("q")
    t.until("the end", lambda: t.top.poll() is not None)
    return t.ended(0)


def daemon_goes(socket, pid):
    t = Terminal(24, 100, "--interval", "0.1", "--socket", socket)
    t.shows(r"^ckptd ")
    os.kill(pid, signal.SIGTERM)
    t.shows(r"^no ckptd listens at ")
    assert not any(line.startswith("JOB") for line in t.cells)
    with open("log2", "wb") as log:
        again = subprocess.Popen(["ckptd", "--store", os.path.abspath("s"), "--socket", socket],
                                 stderr=log)
    t.shows(r"^ckptd ")
    t.key("q")
    t.ended(0)
    again.terminate()
    assert again.wait() == 0
    # It can be started when there is none yet.
    t = Terminal(24, 100, "--socket", socket)
    t.shows(r"^no ckptd listens at ")
    t.key("q")
    return t.ended(0) + 2


def main():
    socket, pid = sys.argv[1], int(sys.argv[2])
    cases = showing(socket) + endings(socket) + slow_line(socket) + daemon_goes(socket, pid)
    print(f"{cases} cases")


if __name__ == "__main__":
    main()
