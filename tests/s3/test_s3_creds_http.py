"""Credentials over real HTTP: a fake STS that checks signatures, a fake container endpoint
and a fake metadata service, each as strict as the real one is said to be.

usage: test_s3_creds_http.py SHOW_CREDS"""
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

from s3_kit import HERE, Checks
from s3_verify import Refused, Verifier

SECRET = "CANARY/secret+base"
TOKEN = "CANARY/web+identity=="
checks = Checks()
show_creds = sys.argv[1]


def stamp(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


class Fakes(BaseHTTPRequestHandler):
    """All three on one port."""

    protocol_version = "HTTP/1.1"
    verifier = Verifier({"BASE": {"secret": SECRET}}, "eu-west-3", service="sts")
    trouble = []  # statuses to answer with first
    seen = []

    def log_message(self, format, *args):  # pylint: disable=redefined-builtin
        pass

    def answer(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def keys(self, name, **more):
        return json.dumps({"Code": "Success", "AccessKeyId": name, "Token": "CANARY" + "t" * 1500,
                           "SecretAccessKey": "CANARY", "Expiration": stamp(3600), **more})

    def do_any(self):
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        self.seen.append(self.command + " " + self.path)
        if self.trouble:
            self.answer(self.trouble.pop(0), "trouble")
        elif self.command == "POST" and self.path == "/":
            self.sts(body)
        elif self.path == "/container":
            if self.headers["authorization"] == "CANARY/container":
                self.answer(200, self.keys("CONTAINER"))
            else:
                self.answer(401, "no")
        elif self.path.startswith("/latest/"):
            self.instance()
        else:
            self.answer(404, "")

    do_GET = do_PUT = do_POST = do_any

    def sts(self, body):
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        try:
            if form.get("Version") != "2011-06-15" or not form.get("RoleSessionName"):
                raise Refused(400, "ValidationError", "a part is missing")
            if form["Action"] == "AssumeRole":
                self.verifier.check("POST", "/", self.headers.items(), body)
                name = "ROLE"
            elif form.get("WebIdentityToken") != TOKEN or self.headers.get("authorization"):
                raise Refused(400, "InvalidIdentityToken", "not " + TOKEN)
            else:
                name = "WEB"
            if form["RoleArn"] != "arn:aws:iam::123456789012:role/train er":
                raise Refused(403, "AccessDenied", "not that role")
        except Refused as refused:
            self.answer(refused.status, f"<ErrorResponse><Error><Code>{refused.code}</Code><Message>"
                        f"{refused.message.replace('<', '')}</Message></Error></ErrorResponse>")
            return
        action = form["Action"]
        self.answer(200, f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
                    f"<{action}Result><Credentials><AccessKeyId>{name}</AccessKeyId>"
                    "<SecretAccessKey>CANARY</SecretAccessKey><SessionToken>CANARY</SessionToken>"
                    f"<Expiration>{stamp(3600)}</Expiration></Credentials></{action}Result>"
                    "<ResponseMetadata><RequestId>1</RequestId></ResponseMetadata>"
                    f"</{action}Response>")

    def instance(self):
        if self.path == "/latest/api/token":
            right = (self.command == "PUT" and self.headers.get("content-length") == "0"
                     and self.headers.get("x-aws-ec2-metadata-token-ttl-seconds") == "21600")
            self.answer(200 if right else 400, "CANARY-imds")
        elif self.headers.get("x-aws-ec2-metadata-token") != "CANARY-imds":
            self.answer(401, "")
        elif self.path == "/latest/meta-data/iam/security-credentials/":
            self.answer(200, "node-role")
        elif self.path == "/latest/meta-data/iam/security-credentials/node-role":
            self.answer(200, self.keys("INSTANCE", Type="AWS-HMAC"))
        else:
            self.answer(404, "")


def start(tls=None):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Fakes)
    server.daemon_threads = True
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return "127.0.0.1:%d" % server.server_address[1]


def show(folder, profile=(), **env):
    """What the product finds with these variables and nothing else."""
    base = {"HOME": folder, "AWS_EC2_METADATA_DISABLED": "true", "http_proxy": "http://127.0.0.1:1",
            "https_proxy": "http://127.0.0.1:1", "PATH": os.environ["PATH"]}
    for name in ("ASAN_OPTIONS", "TSAN_OPTIONS", "LSAN_OPTIONS"):
        if name in os.environ:
            base[name] = os.environ[name]
    result = subprocess.run([show_creds, *profile], env={**base, **env}, capture_output=True,
                            text=True, check=True, timeout=60)
    found = json.loads(result.stdout)
    checks.true("CANARY" not in found["error"] + found["text"] + result.stderr, "no secret shown")
    return found


def test_sts(folder, here):
    config = ("[profile base]\naws_access_key_id = BASE\naws_secret_access_key = %s\n"
              "[profile role]\nregion = eu-west-3\nsource_profile = base\n"
              "role_arn = arn:aws:iam::123456789012:role/train er\n" % SECRET)
    with open(os.path.join(folder, ".aws", "config"), "w", encoding="utf-8") as file:
        file.write(config)
    sts = {"AWS_ENDPOINT_URL_STS": "http://" + here}
    found = show(folder, ["role"], **sts)
    checks.equal((found["status"], found["id"]), ("OK", "ROLE"), found["error"])
    checks.true(3500 < found["expires_s"] - time.time() < 3700, "expiration")
    Fakes.trouble[:] = [503, 429]
    checks.equal(show(folder, ["role"], **sts)["id"], "ROLE", "third time")
    Fakes.trouble[:] = [500, 500, 500]
    checks.equal(show(folder, ["role"], **sts)["status"], "UNREACHABLE")
    for line, error in (("region = eu-west-3", "AuthorizationHeaderMalformed"),
                        ("CANARY/secret", "SignatureDoesNotMatch"), ("train er", "AccessDenied")):
        changed = config.replace(line, line + "x")
        with open(os.path.join(folder, ".aws", "config"), "w", encoding="utf-8") as file:
            file.write(changed)
        found = show(folder, ["role"], **sts)
        checks.true(found["status"] == "DENIED" and error in found["error"], found["error"])
    os.remove(os.path.join(folder, ".aws", "config"))


def test_web_identity(folder, endpoint, **more):
    path = os.path.join(folder, "token")
    with open(path, "w", encoding="utf-8") as file:
        file.write(TOKEN + "\n")
    env = {"AWS_WEB_IDENTITY_TOKEN_FILE": path, "AWS_ENDPOINT_URL_STS": endpoint, **more,
           "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/train er"}
    found = show(folder, **env)
    checks.equal((found["status"], found["id"]), ("OK", "WEB"), found["error"])
    with open(path, "w", encoding="utf-8") as file:
        file.write(TOKEN[:-1])
    found = show(folder, **env)
    checks.true(found["status"] == "DENIED" and "InvalidIdentityToken" in found["error"],
                found["error"])


def test_container(folder, here):
    env = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://{here}/container"}
    found = show(folder, AWS_CONTAINER_AUTHORIZATION_TOKEN="CANARY/container", **env)
    checks.equal((found["status"], found["id"], len(found["token"])), ("OK", "CONTAINER", 1506))
    found = show(folder, AWS_CONTAINER_AUTHORIZATION_TOKEN="CANARY/other", **env)
    checks.true(found["status"] == "DENIED" and "HTTP 401" in found["error"], found["error"])


def test_instance(folder, here):
    env = {"AWS_EC2_METADATA_DISABLED": "false", "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://" + here}
    Fakes.seen.clear()
    found = show(folder, **env)
    checks.equal((found["status"], found["id"]), ("OK", "INSTANCE"), found["error"])
    checks.equal(len(Fakes.seen), 3)
    env["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = "http://127.0.0.1:1"
    found = show(folder, **env)
    checks.true(found["status"] == "DENIED" and "no answer from" in found["error"], found["error"])


def main():
    folder = tempfile.mkdtemp()
    try:
        os.mkdir(os.path.join(folder, ".aws"))
        subprocess.run([os.path.join(HERE, "make_ca"), folder], check=True)

        def file(name):
            return os.path.join(folder, name)
        here, secure = start(), start((file("server.pem"), file("server.key")))
        test_sts(folder, here)
        test_web_identity(folder, "http://" + here)
        test_web_identity(folder, "https://" + secure, AWS_CA_BUNDLE=file("ca.pem"))
        found = show(folder, AWS_CA_BUNDLE=file("other.pem"), AWS_ENDPOINT_URL_STS="https://" + secure,
                     AWS_WEB_IDENTITY_TOKEN_FILE=file("token"), AWS_ROLE_ARN="arn:x")
        checks.true(found["status"] == "UNREACHABLE" and "certificate" in found["error"],
                    found["error"])
        test_container(folder, here)
        test_instance(folder, here)
    finally:
        shutil.rmtree(folder)
    checks.report()


main()
