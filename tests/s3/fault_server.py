"""An S3 server that checks every signature strictly and fails on command.

usage: fault_server.py [--bucket NAME]... [--region NAME] [--key ID:SECRET[:TOKEN]]
           [--tls CERTIFICATE KEY] [--upstream HOST:PORT] [--no-verify] [--domain NAME]
           [--virtual] [--seed N]
Prints "HOST:PORT HOST:PORT": where S3 is, and where it is told what to do; HOST is
CKPT_TEST_ADDRESS, or the loopback.  Ends with its parent.  With --upstream it works on nothing itself: requests go on to that server as they
came (its signatures are made for the Host that the client named), and the faults lie
between.  Path style, and virtual hosts below --domain (localhost); with --virtual only those.

The second address (HTTP, JSON):
    POST /faults      the list of rules (s3_faults.py)
    POST /behaviour   switches of the store (s3_objects.py)
    POST /keys        {id: {"secret", "token", "expired"}}, instead of those there are
    POST /clock       {"offset_s": n}: the server's clock against the machine's
    POST /region      {"region": name or null}
    POST /objects     {"bucket", "keys": [..], "size"}: objects of zeros, for many of them
    POST /reset       objects, rules, counters: gone
    GET  /counts      requests, by method and status; bytes; faults that hit; complete
                      puts by key; the first refusals
    GET  /objects     {bucket: {key: [bytes, SHA-256]}}"""
import argparse
import ctypes
import hashlib
import http.client
import json
import os
import signal
import socket
import ssl
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from s3_faults import INSTEAD, Faults
from s3_objects import Answer, Objects, Request, error_answer
from s3_verify import Refused, Verifier

LINGER_S = 10  # between two pieces of a body that nobody wants
BODY_MAX = 1 << 30
REFUSALS_SHOWN = 20
EXAMPLE_KEY = "AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


def die_with_parent():
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        sys.exit("the parent is gone")


class Counts:
    """What happened."""

    def __init__(self):
        self.lock = threading.Lock()
        self.clear()

    def clear(self):
        with self.lock:
            self.values = {"requests": 0, "bytes_in": 0, "bytes_out": 0, "connections": 0,
                           "methods": {}, "statuses": {}, "puts": {}, "refused": []}

    def add(self, **amounts):
        with self.lock:
            for name, amount in amounts.items():
                self.values[name] += amount

    def add_to(self, name, key):
        with self.lock:
            table = self.values[name]
            table[key] = table.get(key, 0) + 1

    def add_refusal(self, text):
        with self.lock:
            if len(self.values["refused"]) < REFUSALS_SHOWN:
                self.values["refused"].append(text)

    def to_json(self):
        with self.lock:
            return json.loads(json.dumps(self.values))


class Upstream:
    """The backend of a proxy: another server.  One connection for each thread."""

    def __init__(self, address):
        self.address = address
        self.local = threading.local()

    def handle(self, request):
        for again in (True, False):
            connection = getattr(self.local, "connection", None)
            if not connection:
                connection = http.client.HTTPConnection(self.address, timeout=120)
            self.local.connection = None
            try:
                answer = self._ask(connection, request)
                self.local.connection = connection
                return answer
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                # A kept connection may have been closed meanwhile: then nothing was done.
                if not (again and isinstance(error, (http.client.RemoteDisconnected,
                                                     BrokenPipeError, ConnectionResetError))):
                    raise Refused(502, "BadGateway", str(error)) from error
        raise AssertionError

    def _ask(self, connection, request):
        connection.putrequest(request.method, request.target, skip_host=True,
                              skip_accept_encoding=True)
        for name, value in request.headers:
            if name.lower() not in ("connection", "expect"):
                connection.putheader(name, value)
        connection.endheaders(request.body if request.body else None)
        got = connection.getresponse()
        answer = Answer(got.status, got.read())
        for name, value in got.getheaders():
            if name.lower() in ("connection", "transfer-encoding", "keep-alive"):
                continue
            if name.lower() == "content-length":
                answer.length = int(value)
                continue
            answer.headers[name] = value
        return answer


class Site:
    """All that the handlers share."""

    def __init__(self, args):
        self.offset_s = 0
        keys = {}
        for text in args.key or [EXAMPLE_KEY]:
            key_id, _, rest = text.partition(":")
            secret, _, token = rest.partition(":")
            keys[key_id] = {"secret": secret, "token": token}
        self.verifier = None if args.no_verify else Verifier(keys, args.region, self.now)
        self.buckets = args.bucket or ["bucket"]
        self.faults = Faults(args.seed)
        self.counts = Counts()
        self.domain, self.virtual = args.domain, args.virtual
        self.upstream = args.upstream
        self.renew()

    def now(self):
        return time.time() + self.offset_s

    def renew(self):
        self.backend = (Upstream(self.upstream) if self.upstream
                        else Objects(self.buckets, self.now))
        self.offset_s = 0
        self.faults.set_rules([])
        self.faults.hits.clear()
        self.counts.clear()


class Hangup(Exception):
    """The connection is closed without another word."""


class S3Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    site = None

    def setup(self):
        self.site.counts.add(connections=1)
        super().setup()

    def log_message(self, format, *args):  # pylint: disable=redefined-builtin
        pass

    def date_time_string(self, timestamp=None):
        return super().date_time_string(timestamp or self.site.now())

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except (Hangup, OSError):
            self.close_connection = True

    def do_any(self):
        """Every method."""
        site = self.site
        probe = Request(self.command, self.path, self.headers.items(), b"", site.domain)
        rule = site.faults.take(self.command, probe.key.decode("latin-1"))
        site.counts.add(requests=1)
        site.counts.add_to("methods", self.command)
        if rule and rule.spec.get("early"):
            self._send(self._instead(rule), None, close=True)
            self._linger()
            return
        request = Request(self.command, self.path, self.headers.items(), self._read_body(rule),
                          site.domain)
        try:
            if site.verifier:
                site.verifier.check(request.method, request.target, request.headers, request.body)
            if site.virtual and not request.virtual:
                raise Refused(400, "InvalidRequest", "no virtual host of " + site.domain)
            if rule and rule.fault in INSTEAD:
                answer, rule = self._instead(rule), None
            else:
                answer = self._work(request, rule)
        except Refused as refused:
            site.counts.add_refusal(f"{self.command} {self.path}: {refused}")
            answer = error_answer(refused.status, refused.code, refused.message, **refused.extra)
            rule = None
        self._send(answer, rule)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = do_any

    def _read_body(self, rule):
        length = int(self.headers.get("content-length", "0"))
        if self.headers.get("transfer-encoding") or not 0 <= length <= BODY_MAX:
            self._send(error_answer(411, "MissingContentLength", "a length is wanted"), None,
                       close=True)
            raise Hangup
        stop = rule.spec.get("after", length // 2) if rule and rule.fault == "reset_upload" else None
        body = bytearray(length if stop is None else min(stop, length))
        at = 0
        while at < len(body):
            n = self.rfile.readinto(memoryview(body)[at:])
            if not n:
                raise Hangup
            at += n
            self.site.counts.add(bytes_in=n)
        if stop is not None:
            self._reset()
        return bytes(body)

    def _instead(self, rule):
        """The answer of a request that is not worked on."""
        if rule.fault == "error":
            spec = rule.spec
            answer = error_answer(spec["status"], spec["code"], spec.get("message", ""))
            answer.headers.update(spec.get("headers", {}))
            return answer
        if rule.fault == "ok_error":
            answer = error_answer(200, "InternalError", "We encountered an internal error.")
            return answer
        if rule.fault == "page":
            return Answer(rule.spec.get("status", 200),
                          b"<html><body>Log in to our network</body></html>",
                          Content_Type="text/html")
        if rule.fault == "garbage":
            self.connection.sendall(b"\x16\x03\x01 no HTTP at all\r\n\r\n")
            raise Hangup
        if rule.fault == "stall":
            rule.cleared.wait(rule.spec.get("seconds"))
            raise Hangup
        self._reset()
        raise AssertionError

    def _work(self, request, rule):
        if rule and rule.fault == "flip_stored" and request.body:
            at = rule.spec.get("after", len(request.body) // 2) % len(request.body)
            changed = bytearray(request.body)
            changed[at] ^= 1
            request.body = bytes(changed)
            request.headers = [(n, v) for n, v in request.headers
                               if n.lower() != "content-md5" and "checksum" not in n.lower()]
        if rule and rule.fault == "ignore_range":
            request.headers = [(n, v) for n, v in request.headers if n.lower() != "range"]
        answer = self.site.backend.handle(request)
        if request.method == "PUT" and request.key and answer.status == 200:
            self.site.counts.add_to("puts", request.key.decode("latin-1"))
        return answer

    def _linger(self):
        """As servers do that answer early: what still comes is read, since closing before
        that resets the connection, and a reset can overtake the answer."""
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(LINGER_S)
        while self.connection.recv(1 << 20):
            pass

    def _reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        raise Hangup

    def _send(self, answer, rule, close=False):
        body, fault = answer.body, rule.fault if rule else None
        after = rule.spec.get("after", len(body) // 2) if rule else None
        if fault == "lost":
            self._reset()
        if fault == "flip" and body:
            body = bytearray(body)
            body[after % len(body)] ^= 1
        if fault == "short":
            body = body[:-1]
        if fault == "long":
            body = bytes(body) + b"x"
        if fault == "wrong_range" and "Content-Range" in answer.headers:
            answer.headers["Content-Range"] = f"bytes 1-{len(body)}/{len(body) + 1}"
        length = getattr(answer, "length", len(body)) if self.command == "HEAD" else len(body)
        no_length = fault in ("no_length", "endless")
        self._send_head(answer, length, close or no_length, not no_length)
        if self.command == "HEAD":
            return
        if fault in ("truncate", "reset_body", "stall_body"):
            self._send_body(body[:after])
            if fault == "reset_body":
                self._reset()
            if fault == "stall_body":
                rule.cleared.wait(rule.spec.get("seconds"))
            raise Hangup
        self._send_body(body)
        while fault == "endless":
            self._send_body(bytes(1 << 16))

    def _send_head(self, answer, length, close, with_length):
        self.site.counts.add_to("statuses", str(answer.status))
        self.send_response_only(answer.status)
        if "Date" not in answer.headers:
            self.send_header("Date", self.date_time_string())
        self.send_header("x-amz-request-id", "1")
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if with_length and answer.status != 204:
            self.send_header("Content-Length", str(length))
        if close:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()

    def _send_body(self, body):
        self.connection.sendall(body)
        self.site.counts.add(bytes_out=len(body))


class ControlHandler(BaseHTTPRequestHandler):
    """The second address."""

    site = None

    def log_message(self, format, *args):  # pylint: disable=redefined-builtin
        pass

    def do_GET(self):
        site = self.site
        if self.path == "/counts":
            self._answer({**site.counts.to_json(), "faults": dict(site.faults.hits)})
        elif self.path == "/objects":
            with site.backend.lock:
                self._answer({name: {key.decode("latin-1"): [len(o.data), hashlib.sha256(
                    o.data).hexdigest()] for key, o in bucket.items()}
                    for name, bucket in site.backend.buckets.items()})
        else:
            self.send_error(404)

    def do_POST(self):
        site = self.site
        text = self.rfile.read(int(self.headers.get("content-length", "0")))
        try:
            value = json.loads(text or "null")
            if self.path == "/faults":
                site.faults.set_rules(value)
            elif self.path == "/behaviour":
                site.backend.set_behaviour(value)
            elif self.path == "/keys":
                site.verifier.keys = value
            elif self.path == "/clock":
                site.offset_s = value["offset_s"]
            elif self.path == "/region":
                site.verifier.region = value["region"]
            elif self.path == "/objects":
                site.backend.add(value["bucket"], value["keys"], value["size"])
            elif self.path == "/reset":
                site.renew()
            else:
                self.send_error(404)
                return
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self.send_error(400, str(error))
            return
        self._answer({})

    def _answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """Quiet; the handshake of TLS is made by the connection's own thread."""

    request_queue_size = 128
    daemon_threads = True

    def __init__(self, handler, site, tls=None):
        self.tls = None
        if tls:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(*tls)
        host = os.environ.get("CKPT_TEST_ADDRESS", "127.0.0.1")
        super().__init__((host, 0), type("Handler", (handler,), {"site": site}))
        self.address = f"{host}:{self.server_address[1]}"

    def get_request(self):
        connection, address = super().get_request()
        if self.tls:
            connection = self.tls.wrap_socket(connection, server_side=True,
                                              do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request, client_address):
        kind, error, _ = sys.exc_info()
        if not issubclass(kind, (OSError, ValueError)):
            print("fault server:", repr(error), file=sys.stderr)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bucket", action="append")
    parser.add_argument("--region", default="us-east-1", help="'any' takes every one")
    parser.add_argument("--key", action="append", help="ID:SECRET[:TOKEN]")
    parser.add_argument("--tls", nargs=2, metavar=("CERTIFICATE", "KEY"))
    parser.add_argument("--upstream", metavar="HOST:PORT")
    parser.add_argument("--no-verify", action="store_true")
    parser.add_argument("--domain", default="localhost")
    parser.add_argument("--virtual", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.region = None if args.region == "any" else args.region
    die_with_parent()
    site = Site(args)
    s3 = Server(S3Handler, site, args.tls)
    control = Server(ControlHandler, site)
    threading.Thread(target=control.serve_forever, daemon=True).start()
    print(s3.address, control.address, flush=True)
    s3.serve_forever()


main()
