"""Scraping ckptd --metrics: a client that trusts nothing, and the numbers strictly read."""
import http.client
import os
import random
import socket
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "python"))
import prometheus_text  # noqa: E402

TYPE = "text/plain; version=0.0.4; charset=utf-8"


def free_port():
    """Below those that connections get, so that it is still free some time later."""
    while True:
        port = random.randrange(12000, 32768)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def ask(port, method="GET", path="/metrics", timeout=20):
    """(status, headers, body)"""
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        c.request(method, path)
        r = c.getresponse()
        return r.status, r.headers, r.read()
    finally:
        c.close()


def scrape(port):
    status, headers, body = ask(port)
    assert status == 200 and headers["Content-Type"] == TYPE, (status, headers)
    assert headers["Connection"] == "close" and int(headers["Content-Length"]) == len(body)
    return prometheus_text.parse(body.decode())


def await_true(what, condition, seconds=60):
    """Polls; a condition may raise while things are not there yet."""
    end, last = time.monotonic() + seconds, None
    while time.monotonic() < end:
        try:
            last = condition()
            if last:
                return last
        except (OSError, KeyError, http.client.HTTPException) as trouble:
            last = trouble
        time.sleep(0.05)
    raise AssertionError(f"in vain: {what}: {last!r}")


def check_rising(before, after):
    """What only grows has not become less."""
    for name, family in before.items():
        if family.type != "counter":
            continue
        for labels, value in family.samples.items():
            # A rank that comes again begins anew; all else is kept.
            if labels in after[name].samples and not name.startswith("ckpt_rank_"):
                assert after[name].samples[labels] >= value, (name, labels)


def main():
    """metrics_kit.py PORT EXPRESSION...: waits until each is true of the metrics m."""
    port = int(sys.argv[1])
    for expression in sys.argv[2:]:
        await_true(expression, lambda e=expression: eval(e, {"m": scrape(port)}))
    return 0


if __name__ == "__main__":
    if sys.argv[1:] == ["port"]:
        print(free_port())
    else:
        sys.exit(main())
