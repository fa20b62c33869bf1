"""Strict verification of Signature Version 4 as S3 does it.

Written from AWS's documentation, and from nothing else of this tree: it judges the
signer in C."""
import calendar
import hashlib
import hmac
import re
import time
from urllib.parse import unquote_to_bytes

SKEW_MAX_S = 900
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/ ,]+)/(\d{8})/([^/ ,]+)/([^/ ,]+)/aws4_request, ?"
    r"SignedHeaders=([a-z0-9;._-]+), ?Signature=([0-9a-f]{64})")
# What a proxy between may add, and what nobody has to sign.
_UNSIGNED_ALLOWED = {"authorization", "user-agent", "accept", "expect", "connection",
                     "content-length", "accept-encoding", "transfer-encoding"}


class Refused(Exception):
    """An answer of S3: HTTP status, code, message, further elements of the XML."""

    def __init__(self, status, code, message, **extra):
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code, self.message, self.extra = status, code, message, extra


def encode(data, keep=b""):
    """Percent-encoding as S3 wants it: upper-case, everything that is not unreserved."""
    return "".join(chr(c) if c in _UNRESERVED or c in keep else f"%{c:02X}" for c in data)


def canonical_query(query):
    """The query of a request line ("a=1&b"), decoded, encoded and sorted."""
    pairs = []
    for part in query.split("&") if query else []:
        name, _, value = part.partition("=")
        pairs.append((encode(unquote_to_bytes(name)), encode(unquote_to_bytes(value))))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _one(headers, name):
    values = [value for key, value in headers if key.lower() == name]
    if len(values) != 1:
        raise Refused(403, "AccessDenied", f"{len(values)} headers {name}, 1 is wanted")
    return values[0]


def _sign(key, text):
    return hmac.new(key, text.encode("latin-1"), hashlib.sha256).digest()


class Verifier:
    """keys: {access key id: {"secret": ..., "token": None or text, "expired": bool}}.
    region None: any.  clock: seconds since 1970.  Another service than S3 (STS): the body's
    hash is always a part, and has no header."""

    def __init__(self, keys, region=None, clock=time.time, service="s3"):
        self.service = service
        self.keys = keys
        self.region = region
        self.clock = clock

    def check(self, method, target, headers, body):
        """Raises Refused.  target: raw request line; headers: [(name, value)]; body: bytes."""
        given = _AUTHORIZATION.fullmatch(_one(headers, "authorization"))
        if not given:
            raise Refused(400, "AuthorizationHeaderMalformed", "the header has another form")
        key_id, day, region, service, names, signature = given.groups()
        date = _one(headers, "x-amz-date")
        self._check_date(date, day)
        self._check_scope(region, service)
        key = self._key(key_id, headers)
        self._check_names(names.split(";"), headers)
        payload = self._payload(headers, body)
        canonical = self._canonical(method, target, headers, names.split(";"), payload)
        scope = f"{day}/{region}/{service}/aws4_request"
        to_sign = "\n".join(["AWS4-HMAC-SHA256", date, scope,
                             hashlib.sha256(canonical.encode("latin-1")).hexdigest()])
        derived = ("AWS4" + key["secret"]).encode("latin-1")
        for part in (day, region, service, "aws4_request"):
            derived = _sign(derived, part)
        if not hmac.compare_digest(_sign(derived, to_sign).hex(), signature):
            raise Refused(403, "SignatureDoesNotMatch", "expected for " + repr(canonical))
        if key.get("expired"):
            raise Refused(400, "ExpiredToken", "The provided token has expired.")

    def _check_date(self, date, day):
        if not re.fullmatch(r"\d{8}T\d{6}Z", date) or date[:8] != day:
            raise Refused(403, "AccessDenied", "x-amz-date is no date, or not that of the scope")
        then = calendar.timegm(time.strptime(date, "%Y%m%dT%H%M%SZ"))
        if abs(then - self.clock()) > SKEW_MAX_S:
            raise Refused(403, "RequestTimeTooSkewed", "the clocks differ too much",
                          MaxAllowedSkewMilliseconds=str(SKEW_MAX_S * 1000))

    def _check_scope(self, region, service):
        if self.region and region != self.region:
            raise Refused(400, "AuthorizationHeaderMalformed",
                          f"the region '{region}' is wrong; expecting '{self.region}'",
                          Region=self.region)
        if service != self.service:
            raise Refused(400, "AuthorizationHeaderMalformed", f"the service is {self.service}")

    def _key(self, key_id, headers):
        key = self.keys.get(key_id)
        if not key:
            raise Refused(403, "InvalidAccessKeyId", "no such access key")
        token = [value for name, value in headers if name.lower() == "x-amz-security-token"]
        if token != ([key["token"]] if key.get("token") else []):
            raise Refused(400, "InvalidToken", "the token is missing, or another one")
        return key

    def _check_names(self, names, headers):
        if names != sorted(set(names)):
            raise Refused(400, "AuthorizationHeaderMalformed", "SignedHeaders are not in order")
        present = {name.lower() for name, _ in headers}
        wanted = {name for name in present if name.startswith("x-amz-")} | {"host"}
        if wanted - set(names):
            raise Refused(403, "AccessDenied", "headers are not signed: "
                          + " ".join(sorted(wanted - set(names))))
        if set(names) - present:
            raise Refused(403, "AccessDenied", "headers are signed and not sent: "
                          + " ".join(sorted(set(names) - present)))
        odd = present - set(names) - _UNSIGNED_ALLOWED
        if odd & {"if-none-match", "if-match", "content-md5", "range"}:
            raise Refused(403, "AccessDenied", "what decides is not signed: " + " ".join(odd))

    def _payload(self, headers, body):
        if self.service != "s3":
            return hashlib.sha256(body).hexdigest()
        payload = _one(headers, "x-amz-content-sha256")
        if payload == "UNSIGNED-PAYLOAD":
            return payload
        if not re.fullmatch("[0-9a-f]{64}", payload):
            raise Refused(400, "InvalidArgument", "x-amz-content-sha256 is not known here")
        if hashlib.sha256(body).hexdigest() != payload:
            raise Refused(400, "XAmzContentSHA256Mismatch",
                          "The provided 'x-amz-content-sha256' header does not match what was "
                          "computed.")
        return payload

    def _canonical(self, method, target, headers, names, payload):
        path, _, query = target.partition("?")
        lines = [method, encode(unquote_to_bytes(path), keep=b"/"), canonical_query(query)]
        for name in names:
            values = [" ".join(v.split()) for n, v in headers if n.lower() == name]
            lines.append(name + ":" + ",".join(values))
        return "\n".join(lines + ["", ";".join(names), payload])
