"""The fault server itself: what it accepts, what it refuses, and that each fault is what
its name says.

usage: test_s3_fault_server.py SIGN_LINES"""
import base64
import hashlib
import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

from s3_faults import AFTER, ERRORS, INSTEAD
from s3_kit import HERE, KEY_ID, SECRET, Checks, Client, FaultServer
from s3_objects import _TABLE, crc32c
from s3_verify import Refused, Verifier

BROKEN = (OSError, http.client.HTTPException)
EMPTY = hashlib.sha256(b"").hexdigest()
checks = Checks()
sign_lines = sys.argv[1]


def test_verifier():
    """Two of AWS's examples are accepted; each with one thing changed is not."""
    verifier = Verifier({KEY_ID: {"secret": SECRET}}, "us-east-1", lambda: 1369353600)
    scope = f"AWS4-HMAC-SHA256 Credential={KEY_ID}/20130524/us-east-1/s3/aws4_request, "
    host = ("Host", "examplebucket.s3.amazonaws.com")
    date, empty = ("x-amz-date", "20130524T000000Z"), ("x-amz-content-sha256", EMPTY)
    listing = ("GET", "/?max-keys=2&prefix=J", [host, date, empty, (
        "Authorization", scope + "SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature="
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7")], b"")
    body = b"Welcome to Amazon S3."
    put = ("PUT", "/test%24file.text", [
        host, date, ("Date", "Fri, 24 May 2013 00:00:00 GMT"),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ("x-amz-content-sha256", hashlib.sha256(body).hexdigest()),
        ("Authorization", scope + "SignedHeaders=date;host;x-amz-content-sha256;x-amz-date;"
         "x-amz-storage-class, Signature="
         "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd")], body)
    for example in (listing, put):
        verifier.check(*example)
        checks.count += 1
    method, target, headers, body = put
    checks.raises(Refused, lambda: verifier.check("GET", target, headers, body), "method")
    checks.raises(Refused, lambda: verifier.check(method, target + "x", headers, body), "path")
    checks.raises(Refused, lambda: verifier.check(method, target + "?a", headers, body), "query")
    checks.raises(Refused, lambda: verifier.check(method, target, headers, b"other"), "body")
    for i, (name, value) in enumerate(headers):
        less = headers[:i] + headers[i + 1:]
        changed = less + [(name, value[:-1] + ("0" if value[-1] != "0" else "1"))]
        checks.raises(Refused, lambda h=less: verifier.check(method, target, h, body), name)
        checks.raises(Refused, lambda h=changed: verifier.check(method, target, h, body), name)
    more = headers + [("x-amz-acl", "private")]
    checks.raises(Refused, lambda: verifier.check(method, target, more, body), "unsigned")
    twice = headers + [date]
    checks.raises(Refused, lambda: verifier.check(method, target, twice, body), "two dates")


def test_refusals(server, client):
    """Over the wire, with the codes of S3."""
    server.tell("/reset")

    def code(**changes):
        before = {name: getattr(client, name) for name in changes}
        for name, value in changes.items():
            setattr(client, name, value)
        answer = client.call("PUT", "/bucket/k", b"x")
        for name, value in before.items():
            setattr(client, name, value)
        return answer.code or answer.status
    checks.equal(code(), 200)
    checks.equal(code(secret="wrong"), "SignatureDoesNotMatch")
    checks.equal(code(key_id="OTHER"), "InvalidAccessKeyId")
    checks.equal(code(token="t"), "InvalidToken")
    checks.equal(code(region="eu-west-1"), "AuthorizationHeaderMalformed")
    checks.equal(code(service="sts"), "AuthorizationHeaderMalformed")
    checks.equal(code(offset_s=-1000), "RequestTimeTooSkewed")
    checks.equal(code(host="elsewhere:1"), 200)
    server.tell("/clock", {"offset_s": 3600})
    answer = client.call("GET", "/bucket/k")
    checks.equal(answer.code, "RequestTimeTooSkewed")
    checks.equal(code(offset_s=3600), 200)
    server.tell("/clock", {"offset_s": 0})
    server.tell("/region", {"region": "eu-west-1"})
    checks.true(b"<Region>eu-west-1</Region>" in client.call("GET", "/bucket/k").body, "region")
    server.tell("/region", {"region": None})
    checks.equal(code(region="mars"), 200)
    server.tell("/keys", {KEY_ID: {"secret": SECRET, "token": "tt", "expired": True}})
    checks.equal(code(token="tt"), "ExpiredToken")
    checks.equal(code(), "InvalidToken")
    server.tell("/keys", {KEY_ID: {"secret": SECRET}})
    target, headers = client.sign("PUT", "/bucket/k", headers=[("if-none-match", "*")])
    headers = [h for h in headers if h[0] != "if-none-match"]
    checks.equal(client.send("PUT", target, headers, b"x").code, "AccessDenied")
    target, headers = client.sign("PUT", "/bucket/k")
    late = client.send("PUT", target, headers + [("if-none-match", "*")], b"x")
    checks.equal(late.code, "AccessDenied", "a condition that is not signed")
    checks.equal(client.send("PUT", target, [("Host", client.host)], b"x").code, "AccessDenied")
    answer = client.call("PUT", "/bucket/k", b"x", headers=[("content-md5", "AAAA")])
    checks.equal(answer.code, "BadDigest")
    checks.equal(client.call("PUT", "/bucket/k", b"x", signed_payload=True).status, 200)
    target, headers = client.sign("PUT", "/bucket/k", payload_hash=EMPTY)
    checks.equal(client.send("PUT", target, headers, b"x").code, "XAmzContentSHA256Mismatch")
    checks.true(len(server.ask("/counts")["refused"]) >= 10, "refusals are kept")


def test_objects(server, client):
    """Whole objects: put, get, ranges, conditions, digests."""
    server.tell("/reset")
    data = bytes(range(256)) * 40
    etag = '"' + hashlib.md5(data).hexdigest() + '"'
    path = "/bucket/step=10/a b+c/ü%25//x"
    checks.equal(client.call("PUT", path, data).headers["etag"], etag)
    got = client.call("GET", path)
    checks.equal((got.status, got.body, got.headers["etag"]), (200, data, etag))
    head = client.call("HEAD", path)
    checks.equal((head.headers["content-length"], head.body), (str(len(data)), b""))
    for text, first, last in (("bytes=0-0", 0, 0), ("bytes=5-99", 5, 99), ("bytes=10000-", 10000,
                              10239), ("bytes=-7", 10233, 10239), ("bytes=9-99999", 9, 10239)):
        got = client.call("GET", path, headers=[("range", text)])
        checks.equal((got.status, got.body), (206, data[first:last + 1]), text)
        checks.equal(got.headers["content-range"], f"bytes {first}-{last}/10240")
    got = client.call("GET", path, headers=[("range", "bytes=10240-")])
    checks.equal((got.status, got.code), (416, "InvalidRange"))
    checks.equal(client.call("GET", path, headers=[("if-match", etag)]).status, 200)
    checks.equal(client.call("GET", path, headers=[("if-match", '"1"')]).status, 412)
    once = [("if-none-match", "*")]
    checks.equal(client.call("PUT", path, b"other", headers=once).code, "PreconditionFailed")
    checks.equal(client.call("PUT", "/bucket/new", b"other", headers=once).status, 200)
    checks.equal(server.ask("/objects")["bucket"]["new"],
                 [5, hashlib.sha256(b"other").hexdigest()])
    for name, digest in (("content-md5", hashlib.md5(data).digest()),
                         ("x-amz-checksum-sha256", hashlib.sha256(data).digest()),
                         ("x-amz-checksum-crc32c", crc32c(data).to_bytes(4, "big"))):
        right = [(name, base64.b64encode(digest).decode())]
        wrong = [(name, base64.b64encode(digest[::-1]).decode())]
        checks.equal(client.call("PUT", "/bucket/sum", data, headers=right).status, 200, name)
        checks.equal(client.call("PUT", "/bucket/sum", data, headers=wrong).code, "BadDigest", name)
    checks.equal(client.call("DELETE", path).status, 204)
    checks.equal(client.call("DELETE", path).status, 204)
    checks.equal(client.call("GET", path).code, "NoSuchKey")
    checks.equal(client.call("GET", "/other/k").code, "NoSuchBucket")
    checks.equal(client.call("PUT", "/bucket/" + "k" * 1025, b"").code, "KeyTooLongError")
    client.host = "bucket.localhost:" + client.address.split(":")[1]
    checks.equal(client.call("GET", "/new").body, b"other", "virtual host")
    client.host = client.address
    counts = server.ask("/counts")
    checks.equal(counts["puts"]["new"], 1)
    checks.equal(counts["requests"], sum(counts["methods"].values()))


def test_crc32c():
    """Both ways of counting it, on the check value of RFC 3720."""
    checks.equal(crc32c(b"123456789"), 0xE3069283)
    crc = 0xFFFFFFFF
    for byte in b"123456789":
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    checks.equal(crc ^ 0xFFFFFFFF, 0xE3069283)


def listed(client, **query):
    """(keys, prefixes) over all pages."""
    keys, prefixes, token = [], [], None
    while True:
        pairs = [("list-type", "2"), *[(k.replace("_", "-"), v) for k, v in query.items()]]
        if token:
            pairs.append(("continuation-token", token))
        text = client.call("GET", "/bucket", query=pairs).body.decode()
        keys += re.findall("<Key>(.*?)</Key>", text)
        prefixes += re.findall("<Prefix>(.*?)</Prefix>", text)
        token = text.partition("<NextContinuationToken>")[2].partition("<")[0]
        checks.equal("<IsTruncated>true" in text, bool(token))
        if not token:
            return keys, prefixes


def test_list(server, client):
    """Order of bytes, pages, what lies deeper folded, names encoded."""
    server.tell("/reset")
    names = ["a/1", "a/2", "a/b/3", "a-1", "a0", "b/x", "B", "c&d<e", "ü"]
    for name in names:
        client.call("PUT", "/bucket/" + name, b"12345")
    in_order = sorted(names, key=str.encode)
    escaped = [n.replace("&", "&amp;").replace("<", "&lt;") for n in in_order]
    for size in ("1", "2", "3", "1000"):
        checks.equal(listed(client, max_keys=size), (escaped, []))
        checks.equal(listed(client, prefix="a/", max_keys=size), (["a/1", "a/2", "a/b/3"], []))
        checks.equal(listed(client, prefix="a/", delimiter="/", max_keys=size),
                     (["a/1", "a/2"], ["a/b/"]))
        checks.equal(listed(client, delimiter="/", start_after="a-1", max_keys=size),
                     ([n for n in escaped if n > "a-1" and "/" not in n], ["a/", "b/"]))
    checks.equal(listed(client, encoding_type="url", prefix="c")[0], ["c%26d%3Ce"])
    checks.equal(listed(client, prefix="none"), ([], []))
    server.tell("/behaviour", {"ordered_list": False})
    keys = listed(client)[0]
    checks.true(keys != escaped and sorted(keys) == sorted(escaped), "order lost, nothing else")


def test_races(server):
    """Of 16 that put one name if it is absent, one wins."""
    server.tell("/reset")
    results, start = [], threading.Barrier(16)

    def put(number):
        client = Client(sign_lines, server.s3)
        start.wait()
        answer = client.call("PUT", "/bucket/one", b"%d" % number,
                             headers=[("if-none-match", "*")])
        results.append((answer.status, number))
        client.close()
    threads = [threading.Thread(target=put, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [number for status, number in results if status == 200]
    checks.equal((len(won), len(results)), (1, 16))
    kept = server.ask("/objects")["bucket"]["one"][1]
    checks.equal(kept, hashlib.sha256(b"%d" % won[0]).hexdigest())


def test_behaviour(server, client):
    """The switches of other servers."""
    server.tell("/reset")
    once = [("if-none-match", "*")]
    server.tell("/behaviour", {"conditional_put": "ignored", "checks": [], "quota_bytes": 10})
    checks.equal(client.call("PUT", "/bucket/a", b"1").status, 200)
    checks.equal(client.call("PUT", "/bucket/a", b"2", headers=once).status, 200)
    checks.equal(client.call("PUT", "/bucket/a", b"2",
                             headers=[("content-md5", "AAAA")]).status, 200)
    checks.equal(client.call("PUT", "/bucket/a", b"12345678901").code, "QuotaExceeded")
    server.tell("/behaviour", {"conditional_put": "refused", "read_after_write": False})
    checks.equal(client.call("PUT", "/bucket/b", b"2", headers=once).code, "NotImplemented")
    client.call("PUT", "/bucket/late", b"3")
    checks.equal([client.call("GET", "/bucket/late").status for _ in range(3)], [404, 404, 200])
    checks.equal(server.tell("/behaviour", {"nonsense": 1}), 400)
    checks.equal(server.tell("/faults", [{"fault": "nonsense"}]), 400)
    checks.equal(server.tell("/faults", [{"fault": "lost", "nonsense": 1}]), 400)
    checks.equal(server.tell("/nonsense", {}), 404)


def test_errors(server, client):
    """Faults that are an answer; the work is not done."""
    server.tell("/reset")
    for name, (status, code, _) in ERRORS.items():
        for early in (False, True):
            server.rules({"fault": name, "method": "PUT", "early": early})
            answer = client.call("PUT", "/bucket/e", b"x" * 100)
            checks.equal((answer.status, answer.code), (status, code), name)
            if early:
                client.connection.close()
                client.connection = None
    checks.equal(server.ask("/objects")["bucket"], {})
    server.rules({"fault": "error", "status": 301, "code": "PermanentRedirect",
                  "headers": {"x-amz-bucket-region": "eu-west-1"}})
    answer = client.call("GET", "/bucket/e")
    checks.equal((answer.status, answer.headers["x-amz-bucket-region"]), (301, "eu-west-1"))
    server.rules({"fault": "ok_error"})
    answer = client.call("PUT", "/bucket/e", b"x")
    checks.equal((answer.status, answer.code), (200, "InternalError"))
    server.rules({"fault": "page"})
    answer = client.call("PUT", "/bucket/e", b"x")
    checks.equal((answer.status, answer.headers.get("etag"), b"<html>" in answer.body),
                 (200, None, True))
    checks.equal(server.ask("/objects")["bucket"], {})
    checks.equal(client.call("PUT", "/bucket/e", b"x").code, "", "one rule, one time")


def test_rules(server, client):
    """Which requests a rule hits."""
    server.tell("/reset")
    server.rules({"fault": "slowdown", "method": "PUT", "key": "a.*", "skip": 1, "count": 2},
                 {"fault": "internal", "key": "", "count": -1})
    statuses = [client.call("PUT", "/bucket/" + k, b"x").status for k in
                ("a1", "b", "a2", "a3", "a4")]
    checks.equal(statuses, [200, 200, 503, 503, 200])
    checks.equal([client.call("GET", "/bucket", query=[("list-type", "2")]).status
                  for _ in range(3)], [500] * 3)
    server.rules({"fault": "slowdown", "count": -1, "probability": 0.5})
    hits = sum(client.call("GET", "/bucket/b").status == 503 for _ in range(200))
    checks.true(60 < hits < 140, f"{hits} of 200")
    counts = server.ask("/counts")["faults"]
    checks.equal(counts, {"slowdown": 2 + hits, "internal": 3})
    server.rules()
    checks.equal(client.call("GET", "/bucket/b").status, 200)


def test_broken(server, client):
    """Faults on the wire."""
    server.tell("/reset")
    data = os.urandom(3 << 20)

    def fails(fault, method, path, body=b"", **more):
        server.rules({"fault": fault, "method": method, **more})
        checks.raises(BROKEN, lambda: client.call(method, path, body), fault)
    fails("reset", "PUT", "/bucket/r", data)
    fails("reset_upload", "PUT", "/bucket/r", data, after=1 << 20)
    fails("garbage", "PUT", "/bucket/r", data)
    checks.equal(client.call("GET", "/bucket/r").code, "NoSuchKey", "nothing torn")
    fails("lost", "PUT", "/bucket/r", data)
    checks.equal(client.call("GET", "/bucket/r").body, data, "lost, but done")
    fails("truncate", "GET", "/bucket/r", after=1000)
    fails("reset_body", "GET", "/bucket/r", after=2 << 20)
    fails("lost", "GET", "/bucket/r")
    fails("stall", "GET", "/bucket/r", seconds=0.2)
    fails("stall_body", "GET", "/bucket/r", seconds=0.2, after=77)

    def body(fault, **more):
        server.rules({"fault": fault, "method": "GET", **more})
        return client.call("GET", "/bucket/r", headers=[("range", "bytes=100-299")])
    got = body("flip", after=7)
    checks.equal([i for i in range(200) if got.body[i] != data[100 + i]], [7])
    checks.equal(body("short").body, data[100:299])
    checks.equal(body("long").body, data[100:300] + b"x")
    checks.equal(len(body("ignore_range").body), len(data))
    checks.equal(body("wrong_range").headers["content-range"], "bytes 1-200/201")
    got = body("no_length")
    checks.equal((got.body, got.headers.get("content-length")), (data[100:300], None))
    client.connection.close()
    client.connection = None
    server.rules({"fault": "flip_stored", "method": "PUT", "after": 5})
    md5 = [("content-md5", base64.b64encode(hashlib.md5(data).digest()).decode())]
    checks.equal(client.call("PUT", "/bucket/f", data, headers=md5).status, 200)
    stored = client.call("GET", "/bucket/f").body
    checks.equal([i for i in range(len(data)) if stored[i] != data[i]], [5])
    server.rules({"fault": "endless", "method": "GET"})
    target, sent = client.sign("GET", "/bucket/f")
    connection = client.connect()
    connection.putrequest("GET", target, skip_host=True, skip_accept_encoding=True)
    for name, value in sent:
        connection.putheader(name, value)
    connection.endheaders()
    got = connection.getresponse()
    checks.equal(got.read(len(data)), stored)
    checks.equal(got.read(8 << 20), bytes(8 << 20), "and on")
    client.connection.close()
    client.connection = None
    checks.equal(INSTEAD | AFTER, {
        "error", "ok_error", "page", "garbage", "reset", "reset_upload", "stall", "lost", "truncate",
        "reset_body", "stall_body", "flip", "short", "long", "ignore_range", "wrong_range",
        "flip_stored", "no_length", "endless"}, "a fault without a test")


def test_cleared(server, client):
    """A stall without an end ends when the rules are cleared."""
    server.tell("/reset")
    server.rules({"fault": "stall"})
    done = []

    def ask():
        try:
            client.call("GET", "/bucket/x")
        except BROKEN:
            done.append(True)
    thread = threading.Thread(target=ask)
    thread.start()
    while not server.ask("/counts")["faults"]:
        time.sleep(0.01)
    checks.equal(done, [])
    server.rules()
    thread.join()
    checks.equal(done, [True])


def test_proxy(server):
    """Signatures pass through it unchanged; its faults lie between."""
    server.tell("/reset")
    with FaultServer("--upstream", server.s3, "--no-verify") as proxy:
        client = Client(sign_lines, proxy.s3)
        data = os.urandom(1 << 20)
        checks.equal(client.call("PUT", "/bucket/p q", data).status, 200)
        checks.equal(client.call("GET", "/bucket/p q").body, data)
        checks.equal(client.call("HEAD", "/bucket/p q").headers["content-length"], str(1 << 20))
        checks.equal(client.call("GET", "/bucket/none").code, "NoSuchKey")
        checks.equal(client.call("DELETE", "/bucket/p q").status, 204)
        client.secret = "wrong"
        checks.equal(client.call("GET", "/bucket/p q").code, "SignatureDoesNotMatch")
        client.secret = SECRET
        proxy.rules({"fault": "lost"}, {"fault": "slowdown"})
        checks.raises(BROKEN, lambda: client.call("PUT", "/bucket/l", data), "lost")
        checks.equal(client.call("GET", "/bucket/l").status, 503)
        checks.equal(client.call("GET", "/bucket/l").body, data)
        client.close()


def test_tls():
    """A client that trusts the authority gets through; no other does."""
    folder = tempfile.mkdtemp()
    try:
        subprocess.run([os.path.join(HERE, "make_ca"), folder], check=True)

        def file(name):
            return os.path.join(folder, name)
        with FaultServer("--tls", file("server.pem"), file("server.key")) as server:
            for ca, works in (("ca.pem", True), ("other.pem", False)):
                client = Client(sign_lines, server.s3, ca=file(ca))
                if works:
                    checks.equal(client.call("PUT", "/bucket/t", b"x").status, 200)
                else:
                    checks.raises(ssl.SSLError, lambda c=client: c.call("GET", "/bucket/t"), ca)
                client.close()
        with FaultServer("--tls", file("wrong.pem"), file("wrong.key")) as server:
            client = Client(sign_lines, server.s3, ca=file("ca.pem"))
            checks.raises(ssl.SSLError, lambda: client.call("GET", "/bucket/t"), "host")
            client.close()
    finally:
        shutil.rmtree(folder)


def test_parent():
    """The server ends with who started it."""
    script = os.path.join(HERE, "fault_server.py")
    starter = subprocess.Popen(
        [sys.executable, "-c", "import subprocess, sys, time\n"
         "subprocess.Popen(sys.argv[1:])\ntime.sleep(60)", sys.executable, script],
        stdout=subprocess.PIPE, text=True)
    address = starter.stdout.readline().split()[0].split(":")
    with socket.create_connection((address[0], int(address[1]))):
        checks.count += 1
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    while starter.stdout.read(1):  # the end comes when the server's copy is closed, too
        pass
    starter.stdout.close()
    checks.raises(OSError, lambda: socket.create_connection((address[0], int(address[1]))), "gone")


def main():
    test_verifier()
    test_crc32c()
    with FaultServer() as server:
        client = Client(sign_lines, server.s3)
        test_refusals(server, client)
        test_objects(server, client)
        test_list(server, client)
        test_races(server)
        test_behaviour(server, client)
        test_errors(server, client)
        test_rules(server, client)
        test_broken(server, client)
        test_cleared(server, client)
        test_proxy(server)
        client.close()
    test_tls()
    test_parent()
    checks.report()


main()
