"""What the tests of tests/s3 share: starting the fault server, telling it what to do, and a
client that sends exactly what it is told, signed by the signer in C."""
import hashlib
import http.client
import json
import os
import ssl
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
KEY_ID = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


class Checks:
    """Counts what was exercised."""

    def __init__(self):
        self.count = 0

    def equal(self, got, expected, what=""):
        self.count += 1
        if got != expected:
            raise AssertionError(f"{what}: {got!r}, expected {expected!r}")

    def true(self, value, what):
        self.equal(bool(value), True, what)

    def raises(self, kinds, function, what):
        self.count += 1
        try:
            got = function()
        except kinds:
            return
        raise AssertionError(f"{what}: went through with {got!r}")

    def report(self):
        print(self.count, "cases")
        sys.exit(0 if self.count else 1)


class Program:
    """A server of ours: prints its addresses in its first line, ends with us."""

    def __init__(self, command, **options):
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
        self.addresses = self.process.stdout.readline().split()
        if not self.addresses:
            raise AssertionError(f"{command} printed no address")

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class FaultServer(Program):
    """fault_server.py with its second address."""

    def __init__(self, *args):
        super().__init__([sys.executable, os.path.join(HERE, "fault_server.py"), *args])
        self.s3, self.control = self.addresses

    def tell(self, path, value=None):
        connection = http.client.HTTPConnection(self.control, timeout=20)
        connection.request("POST", path, json.dumps(value))
        status = connection.getresponse().status
        connection.close()
        return status

    def ask(self, path):
        connection = http.client.HTTPConnection(self.control, timeout=20)
        connection.request("GET", path)
        value = json.loads(connection.getresponse().read())
        connection.close()
        return value

    def rules(self, *rules):
        if self.tell("/faults", list(rules)) != 200:
            raise AssertionError(f"rules not taken: {rules}")


class Answer:
    """status, headers (lower-case), body."""

    def __init__(self, got, body):
        self.status = got.status
        self.headers = {name.lower(): value for name, value in got.getheaders()}
        self.body = body

    @property
    def code(self):
        text = self.body.decode("latin-1")
        return text.partition("<Code>")[2].partition("</Code>")[0]


class Client:
    """Signs by SIGN_LINES.  `changes` of a request replace what is sent after signing."""

    def __init__(self, sign_lines, address, ca=None, key_id=KEY_ID, secret=SECRET, token=""):
        self.signer = subprocess.Popen([sign_lines], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       text=True)
        self.address, self.ca = address, ca
        self.key_id, self.secret, self.token = key_id, secret, token
        self.region, self.service, self.offset_s, self.host = "us-east-1", "s3", 0, address
        self.connection = None

    def close(self):
        self.signer.stdin.close()
        self.signer.stdout.close()
        self.signer.wait()
        if self.connection:
            self.connection.close()

    def sign(self, method, path, query=(), headers=(), payload_hash="UNSIGNED-PAYLOAD"):
        """(target, headers to send)"""
        line = {"method": method, "host": self.host, "path": path, "query": [*query],
                "headers": [*headers], "payload_hash": payload_hash,
                "time_s": int(time.time()) + self.offset_s, "id": self.key_id,
                "secret": self.secret, "token": self.token, "region": self.region,
                "service": self.service}
        self.signer.stdin.write(json.dumps(line) + "\n")
        self.signer.stdin.flush()
        signed = json.loads(self.signer.stdout.readline())
        sent = [("Host", self.host), *headers, ("x-amz-date", signed["date"]),
                ("x-amz-content-sha256", payload_hash), ("authorization", signed["authorization"])]
        if self.token:
            sent.append(("x-amz-security-token", self.token))
        return signed["target"], sent

    def connect(self):
        if not self.connection:
            if self.ca:
                self.connection = http.client.HTTPSConnection(
                    self.address, timeout=20, context=ssl.create_default_context(cafile=self.ca))
            else:
                self.connection = http.client.HTTPConnection(self.address, timeout=20)
        return self.connection

    def send(self, method, target, headers, body=b""):
        connection = self.connect()
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in headers:
                connection.putheader(name, value)
            if body or method == "PUT":
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
            got = connection.getresponse()
            return Answer(got, got.read())
        except Exception:
            connection.close()
            self.connection = None
            raise

    def call(self, method, path, body=b"", query=(), headers=(), signed_payload=False):
        payload = hashlib.sha256(body).hexdigest() if signed_payload else "UNSIGNED-PAYLOAD"
        target, sent = self.sign(method, path, query, headers, payload)
        return self.send(method, target, sent, body)
