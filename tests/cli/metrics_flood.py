"""Strangers at ckptd's metrics port: whatever they send, the server stays, small, and answers
those who ask properly; ckptd has next to nothing to do with it.

    metrics_flood.py PORT SERVER_PID SEED
"""
import http.client
import os
import random
import select
import socket
import sys
import threading
import time

import metrics_kit

FDS_MAX = 32 + 24       # connections, and what a process has anyway
RSS_KIB_MAX = 96 << 10  # most of it libraries


def dial(port):
    s = socket.create_connection(("127.0.0.1", port), timeout=20)
    s.settimeout(20)
    return s


def rest_of(s):
    """Everything until the end; a reset is an end."""
    got = b""
    try:
        while True:
            part = s.recv(65536)
            if not part:
                return got
            got += part
    except ConnectionResetError:
        return got


def said(port, data):
    """What is answered to the bytes."""
    with dial(port) as s:
        try:
            s.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return rest_of(s)


def status_of(answer):
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else None


class Server:
    def __init__(self, pid):
        self.pid = pid
        self.most_fds = 0

    def check(self):
        fds = len(os.listdir(f"/proc/{self.pid}/fd"))
        self.most_fds = max(self.most_fds, fds)
        assert fds <= FDS_MAX, fds
        with open(f"/proc/{self.pid}/status", encoding="ascii") as f:
            lines = dict(line.split(":", 1) for line in f)
        if "asan" not in open(f"/proc/{self.pid}/maps", encoding="utf-8").read():
            assert int(lines["VmRSS"].split()[0]) <= RSS_KIB_MAX, lines["VmRSS"]
        assert int(lines["Threads"]) == 1, lines["Threads"]


def methods(port):
    get = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    assert said(port, get).startswith(b"HTTP/1.1 200")
    assert status_of(said(port, b"GET /metrics HTTP/1.0\r\n\r\n")) == 200
    status, headers, body = metrics_kit.ask(port, method="HEAD")
    assert status == 200 and not body and int(headers["Content-Length"]) > 1000
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "BREW"):
        assert metrics_kit.ask(port, method=method)[0] in (400, 405), method
    for path in ("/metricsx", "/../etc/passwd", "/metrics/", "//metrics", "/" + "a" * 2000):
        assert metrics_kit.ask(port, path=path)[0] in (404, 414), path
    assert metrics_kit.ask(port, path="/")[0] == 200
    assert metrics_kit.ask(port, path="/metrics?collect[]=x")[0] == 200
    assert metrics_kit.ask(port, path="/%00")[0] in (200, 400, 404)
    # A hundred in one go: each connection gets one answer.
    assert said(port, get * 100).count(b"HTTP/1.1 ") == 1
    # A body is not waited for.
    assert status_of(said(port, b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n"
                                b"\r\n" + b"x" * 100000)) in (405, None)
    return 20


def too_much(port):
    head = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"
    for data in (head + b"A: " + b"b" * (1 << 20) + b"\r\n\r\n", head + b"A: b\r\n" * 100000,
                 b"GET /" + b"x" * (1 << 20), b"G" * (1 << 20), b"\r\n" * 100000):
        assert status_of(said(port, data)) in (400, 413, 414, 431, None), data[:20]
    return 5


def noise(port, rng, count):
    words = [b"GET", b" ", b"/metrics", b"HTTP/1.1", b"\r\n", b"\n", b"\0", b":", b"Host", b"\xff",
             b"Content-Length: -1", b"Transfer-Encoding: chunked", b"ffffffffffffffff", b"Expect: 100"]
    for _ in range(count):
        data = b"".join(rng.choice(words) if rng.random() < 0.8 else rng.randbytes(rng.randrange(40))
                        for _ in range(rng.randrange(1, 30)))
        with dial(port) as s:
            s.sendall(data)  # what is half a request gets no answer: that is not waited for
            there = select.select([s], [], [], 0.01)[0]
            status = status_of(rest_of(s)) if there else None
        assert status is None or 200 <= status < 600, (data, status)
    return count


def crowd(port, server, rng, seconds, guests_max):
    """Many who say nothing, or a byte now and then; somebody proper still gets an answer."""
    stop, sent = threading.Event(), [0]

    def press():
        guests = []
        while not stop.is_set():
            while len(guests) < guests_max:
                try:
                    s = socket.create_connection(("127.0.0.1", port), timeout=1)
                except OSError:
                    break
                s.setblocking(False)
                guests.append(s)
            for s in list(guests):
                try:
                    if rng.random() < 0.3:
                        sent[0] += s.send(rng.choice(b"GET /metrics").to_bytes(1, "little"))
                    elif not select.select([s], [], [], 0)[0] or s.recv(100):
                        continue
                    else:
                        raise ConnectionResetError
                except BlockingIOError:
                    pass
                except OSError:
                    guests.remove(s)
                    s.close()
            time.sleep(0.05)
        for s in guests:
            s.close()

    thread = threading.Thread(target=press)
    thread.start()
    answers, end = 0, time.monotonic() + seconds
    try:
        while time.monotonic() < end or not answers:
            server.check()
            try:
                answers += bool(metrics_kit.scrape(port))
            except (OSError, http.client.HTTPException):
                pass  # its turn did not come: a scraper tries again
            assert time.monotonic() < end + 60, "nobody is answered"
            time.sleep(0.02)
    finally:
        stop.set()
        thread.join()
    print(f"a crowd sent {sent[0]} bytes; {answers} scrapes were answered; at most "
          f"{server.most_fds} descriptors")
    return answers


def dribble(port, others):
    """A head that comes a byte at a time is not waited for, least of all when others wait."""
    guests = [dial(port) for _ in range(others)]
    with dial(port) as s:
        s.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nA: ")
        for _ in range(1200):
            try:
                s.send(b"b")
                if select.select([s], [], [], 0.05)[0]:
                    break
            except OSError:
                break
        else:
            raise AssertionError("still listened to after a minute")
    for g in guests:
        g.close()
    return 1


def many_scrapes(port, count):
    """ckptd itself is asked far less often than the port is."""
    before, began = metrics_kit.scrape(port), time.monotonic()
    for _ in range(count):
        assert metrics_kit.ask(port)[0] == 200
    elapsed = time.monotonic() - began
    after = metrics_kit.await_true("fresh", lambda: metrics_kit.scrape(port))
    asked = after["ckpt_connections_total"].value() - before["ckpt_connections_total"].value()
    assert asked <= 3 + elapsed / 0.5, (asked, elapsed)
    return count


def main():
    port, pid, seed = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    print(f"seed {seed}")
    deep = bool(os.environ.get("CKPT_DEEP"))
    rng, server = random.Random(seed), Server(pid)
    cases = methods(port) + too_much(port) + noise(port, rng, 3000 if deep else 60)
    server.check()
    cases += dribble(port, 31) + (dribble(port, 0) if deep else 0)
    cases += many_scrapes(port, 1000 if deep else 100)
    cases += crowd(port, server, rng, 40 if deep else 0.5, 200 if deep else 60)
    metrics_kit.await_true("all is calm", lambda: metrics_kit.scrape(port)["ckpt_up"].value() == 1)
    server.check()
    print(f"{cases} cases")


if __name__ == "__main__":
    main()
