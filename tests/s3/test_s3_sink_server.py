"""The sink server: what it drops, what it keeps, what it gives back.

usage: test_s3_sink_server.py SINK_SERVER"""
import base64
import hashlib
import http.client
import json
import os
import random
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile

from s3_kit import HERE, Answer, Checks, Program
from s3_objects import crc32c

PATTERN = 64 << 20
checks = Checks()
server_path = sys.argv[1]


def pattern(first, end):
    """As sink_pattern.h says."""
    return bytes((((i % PATTERN >> 12) * 0x9E3779B1 + (i & 4095) * 167) >> 3) & 255
                 for i in range(first, end))


class Caller:
    """Requests without signatures."""

    def __init__(self, address, ca=None):
        if ca:
            self.connection = http.client.HTTPSConnection(
                address, timeout=30, context=ssl.create_default_context(cafile=ca))
        else:
            self.connection = http.client.HTTPConnection(address, timeout=30)

    def call(self, method, path, body=None, **headers):
        self.connection.request(method, path, body,
                                {k.replace("_", "-"): v for k, v in headers.items()})
        got = self.connection.getresponse()
        return Answer(got, got.read())

    def counts(self):
        return json.loads(self.call("GET", "/-/counts").body)


def test_small(caller):
    """Records and probes: bytes, conditions, digests."""
    data = os.urandom(65536)
    checks.equal(caller.call("PUT", "/b/a%20b/c", data).status, 200)
    checks.equal(caller.call("GET", "/b/a%20b/c").body, data)
    got = caller.call("GET", "/b/a%20b/c", Range="bytes=100-199")
    checks.equal((got.status, got.body), (206, data[100:200]))
    checks.equal(caller.call("PUT", "/b/a%20b/c", b"x", If_None_Match="*").status, 412)
    checks.equal(caller.call("GET", "/b/a%20b/c").body, data)
    checks.equal(caller.call("PUT", "/b/new", b"", If_None_Match="*").status, 200)
    checks.equal(caller.call("GET", "/b/new").body, b"")
    for name, digest in (("Content-MD5", hashlib.md5(data).digest()),
                         ("x-amz-checksum-crc32c", crc32c(data).to_bytes(4, "big"))):
        right, wrong = (base64.b64encode(d).decode() for d in (digest, digest[::-1]))
        checks.equal(caller.call("PUT", "/b/d", data, **{name: right}).status, 200)
        checks.equal(caller.call("PUT", "/b/d", data, **{name: wrong}).code, "BadDigest")
    sha = hashlib.sha256(data).hexdigest()
    for text, code in ((sha, ""), (sha[::-1], "XAmzContentSHA256Mismatch"),
                       ("UNSIGNED-PAYLOAD", "")):
        checks.equal(caller.call("PUT", "/b/d", data, x_amz_content_sha256=text).code, code)
    checks.equal(caller.call("DELETE", "/b/d").status, 204)
    checks.equal(caller.call("DELETE", "/b/d").status, 204)
    checks.equal(caller.call("GET", "/b/d").code, "NoSuchKey")
    checks.equal(caller.call("HEAD", "/b/d").status, 404)


def test_big(caller):
    """Only the length stays; what comes back is the pattern."""
    size = PATTERN + 300000
    before = caller.counts()
    checks.equal(caller.call("PUT", "/b/big", bytes(size)).status, 200)
    head = caller.call("HEAD", "/b/big")
    checks.equal((head.status, head.headers["content-length"], head.body), (200, str(size), b""))
    whole = caller.call("GET", "/b/big")
    checks.equal(len(whole.body), size)
    checks.equal(whole.body[:PATTERN][:300000], whole.body[PATTERN:])
    checks.true(len(set(whole.body[i:i + 4096] for i in range(0, PATTERN, 4096))) > 250, "blocks")
    rng = random.Random(1)
    for first in [0, PATTERN - 500, size - 1000] + [rng.randrange(size - 1000) for _ in range(20)]:
        got = caller.call("GET", "/b/big", Range=f"bytes={first}-{first + 999}")
        checks.equal((got.status, got.body), (206, pattern(first, first + 1000)), first)
        checks.equal(got.headers["content-range"], f"bytes {first}-{first + 999}/{size}")
    checks.equal(caller.call("GET", "/b/big", Range="bytes=-5").body, pattern(size - 5, size))
    checks.equal(caller.call("GET", "/b/big", Range=f"bytes={size}-").code, "InvalidRange")
    after = caller.counts()
    checks.true(after["bytes_in"] - before["bytes_in"] >= size, "bytes in")
    checks.true(after["bytes_out"] - before["bytes_out"] >= size, "bytes out")
    checks.equal(after["requests"] - before["requests"], 28)
    checks.equal([after[n] - before[n] for n in ("writes", "reads", "removes")], [1, 27, 0])
    checks.true(after["cpu_seconds"] > 0, "CPU")


def test_charges(caller):
    """What is counted as what, and how the bodies are signed."""
    def difference(method, path, body=None, **headers):
        before = caller.counts()
        caller.call(method, path, body, **headers)
        after = caller.counts()
        return {n: after[n] - before[n] for n in after
                if n not in ("cpu_seconds", "bytes_in", "bytes_out") and after[n] != before[n]}

    body = bytes(100000)
    for sha, more in ((hashlib.sha256(body).hexdigest(), {"bytes_signed": 100000}),
                      ("UNSIGNED-PAYLOAD", {"bytes_unsigned": 100000}),
                      ("STREAMING-UNSIGNED-PAYLOAD-TRAILER", {}), ("", {})):
        checks.equal(difference("PUT", "/b/ch", body, x_amz_content_sha256=sha),
                     {"requests": 1, "writes": 1, **more}, sha)
    for method, path, kind in (("GET", "/b/ch", "reads"), ("HEAD", "/b/ch", "reads"),
                               ("GET", "/b/?list-type=2", "writes"),
                               ("POST", "/b/ch2?uploads=", "writes"), ("GET", "/b/no", "reads"),
                               ("DELETE", "/b/ch", "removes")):
        checks.equal(difference(method, path), {"requests": 1, kind: 1}, method + path)


def test_parts(caller):
    """What other clients do with big files."""
    checks.true(b"<UploadId>u</UploadId>" in caller.call("POST", "/b/mp?uploads=", b"").body, "id")
    for number in (1, 2, 3):
        checks.equal(caller.call("PUT", f"/b/mp?partNumber={number}&uploadId=u",
                                 bytes(100000)).status, 200)
    checks.equal(caller.call("GET", "/b/mp").status, 404, "not before it is complete")
    checks.equal(caller.call("POST", "/b/mp?uploadId=u", b"<x/>").status, 200)
    checks.equal(caller.call("HEAD", "/b/mp").headers["content-length"], "300000")
    checks.equal(caller.call("POST", "/b/other?uploadId=u", b"<x/>").code, "NoSuchUpload")


def test_list(caller):
    """Names in order, in pages, folded."""
    names = ["l/" + n for n in ("a/1", "a/2", "a0", "b", "c/d/e", "z&<")]
    for name in reversed(names):
        caller.call("PUT", "/b/" + name.replace("&", "%26").replace("<", "%3C"), b"x")

    def pages(size, more=""):
        keys, after = [], ""
        while True:
            text = caller.call("GET", f"/b?list-type=2&prefix=l/&max-keys={size}{more}"
                               + (f"&continuation-token={after}" if after else "")).body.decode()
            keys += re.findall("<(?:Key|Prefix)>(.*?)</", text)
            after = text.partition("<NextContinuationToken>")[2].partition("<")[0]
            if not after:
                return [k.replace("&lt;", "<").replace("&amp;", "&") for k in keys]
    for size in (1, 2, 5, 1000):
        checks.equal(pages(size), names)
        checks.equal(pages(size, "&delimiter=%2F"), ["l/a/", "l/a0", "l/b", "l/c/", "l/z&<"])
    checks.equal(caller.call("HEAD", "/b").status, 200)


def raw(address, *pieces):
    """Sends the pieces one by one and reads to the end."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as s:
        for piece in pieces:
            s.sendall(piece)
        got = b""
        while True:
            more = s.recv(65536)
            if not more:
                return got
            got += more


def test_wire(address):
    """Pieces, several requests at once, 100-continue, nonsense."""
    close = b"Connection: close\r\n\r\n"
    request = b"PUT /b/w HTTP/1.1\r\nContent-Length: 6\r\n" + close + b"abcdef"
    checks.true(raw(address, *[request[i:i + 1] for i in range(len(request))])
                .startswith(b"HTTP/1.1 200"), "byte by byte")
    twice = b"PUT /b/w HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /b/w HTTP/1.1\r\n" + close
    got = raw(address, twice)
    checks.equal((got.count(b"HTTP/1.1 200 OK"), got[-3:]), (2, b"abc"))
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as s:
        s.sendall(b"PUT /b/w HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        checks.equal(s.recv(100), b"HTTP/1.1 100 Continue\r\n\r\n")
        s.sendall(b"abc")
        checks.true(s.recv(100).startswith(b"HTTP/1.1 200 OK"), "continued")
    for text in (b"nonsense\r\n\r\n", b"GET\r\n\r\n", b"GET /b HTTP/1.0\r\n\r\n", b"x" * 20000,
                 b"PUT /b/k HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
                 b"PUT /b/" + b"k" * 1025 + b" HTTP/1.1\r\n\r\n", b"GET b HTTP/1.1\r\n\r\n",
                 b"GET /b HTTP/1.1\r\nno colon\r\n\r\n"):
        try:
            checks.equal(raw(address, text), b"", text[:40])
        except ConnectionResetError:
            checks.count += 1
    checks.true(b" 501 " in raw(address, b"PUT /b/k HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
                                b"3\r\nabc\r\n0\r\n\r\n"), "chunked")


def test_any_bytes(address):
    """Requests with bytes changed: an answer or none, and the server lives."""
    rng = random.Random(int(os.environ.get("TEST_SEED", "5")))
    model = (b"GET /b/k%20x?list-type=2&prefix=a%2Fb HTTP/1.1\r\nRange: bytes=0-1\r\n"
             b"Content-Length: 0\r\nConnection: close\r\n\r\n")
    host, port = address.split(":")
    for _ in range(300):
        text = bytearray(model)
        for _ in range(3):
            text[rng.randrange(len(text))] = rng.randrange(256)
        with socket.create_connection((host, int(port)), timeout=30) as s:
            s.sendall(bytes(text))
            s.shutdown(socket.SHUT_WR)
            try:
                while s.recv(65536):
                    pass
            except ConnectionResetError:
                pass
        checks.count += 1
    checks.equal(Caller(address).call("HEAD", "/b").status, 200)


def test_many(address):
    """Forty connections at once, in both directions."""
    host, port = address.split(":")
    size = 3 << 20
    sockets = [socket.create_connection((host, int(port)), timeout=30) for _ in range(40)]
    for i, s in enumerate(sockets):
        s.sendall(b"PUT /b/many%d HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (i, size))
    for start in range(0, size, 1 << 18):
        for s in sockets:
            s.sendall(bytes(min(1 << 18, size - start)))
    for i, s in enumerate(sockets):
        checks.true(s.recv(4096).startswith(b"HTTP/1.1 200"), "put")
        s.sendall(b"GET /b/many%d HTTP/1.1\r\nConnection: close\r\n\r\n" % i)
    expected = pattern(size - 64, size)
    for s in sockets:
        got = b""
        while True:
            more = s.recv(1 << 20)
            if not more:
                break
            got += more
        checks.equal((len(got.partition(b"\r\n\r\n")[2]), got[-64:]), (size, expected))
        s.close()


def test_tls():
    """The same over TLS."""
    folder = tempfile.mkdtemp()
    try:
        subprocess.run([os.path.join(HERE, "make_ca"), folder], check=True)
        files = [os.path.join(folder, n) for n in ("server.pem", "server.key", "ca.pem")]
        with Program([server_path, "--threads", "2", "--tls", *files[:2]]) as server:
            caller = Caller(server.addresses[0], files[2])
            test_small(caller)
            test_big(caller)
            caller.connection.close()
    finally:
        shutil.rmtree(folder)


def main():
    for arguments in ([], ["--threads", "3"]):
        with Program([server_path, *arguments]) as server:
            address = server.addresses[0]
            caller = Caller(address)
            test_small(caller)
            test_big(caller)
            test_charges(caller)
            test_parts(caller)
            test_list(caller)
            caller.connection.close()
            test_wire(address)
            test_any_bytes(address)
            test_many(address)
    test_tls()
    checks.equal(subprocess.run([server_path, "nonsense"], stderr=subprocess.DEVNULL,
                                check=False).returncode, 2)
    checks.report()


main()
