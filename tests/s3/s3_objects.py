"""A small S3 in memory: buckets of whole objects, with conditions, ranges, listing and the
integrity checks of uploads.  What it does can be switched to that of other servers."""
import base64
import ctypes
import ctypes.util
import hashlib
import random
import re
import threading
import time
import zlib
from email.utils import formatdate
from urllib.parse import quote, unquote_to_bytes
from xml.sax.saxutils import escape

from s3_verify import Refused

LIST_MAX = 1000


class Answer:
    """What goes back to the client."""

    def __init__(self, status, body=b"", **headers):
        self.status = status
        self.body = body
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def error_answer(status, code, message, **extra):
    """The XML of a refusal."""
    more = "".join(f"<{k}>{escape(v)}</{k}>" for k, v in extra.items())
    text = (f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{escape(code)}</Code>'
            f"<Message>{escape(message)}</Message>{more}<RequestId>1</RequestId></Error>")
    return Answer(status, text.encode(), Content_Type="application/xml")


def _crc32c_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _crc32c_table()
_ISAL = ctypes.util.find_library("isal")


def crc32c(data):
    """By ISA-L where it is (the table takes seconds for a pack)."""
    if _ISAL:
        library = ctypes.CDLL(_ISAL)
        library.crc32_iscsi.restype = ctypes.c_uint
        buffer = (ctypes.c_char * len(data)).from_buffer_copy(data)
        return library.crc32_iscsi(buffer, len(data), ctypes.c_uint(0xFFFFFFFF)) ^ 0xFFFFFFFF
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


CHECKSUMS = {
    "crc32c": lambda data: crc32c(data).to_bytes(4, "big"),
    "crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "sha1": lambda data: hashlib.sha1(data).digest(),
    "sha256": lambda data: hashlib.sha256(data).digest(),
}


class Object:
    """Immutable."""

    def __init__(self, data, now, checksums):
        self.data = data
        self.etag = '"' + hashlib.md5(data).hexdigest() + '"'
        self.modified = now
        self.checksums = checksums


class Request:
    """One request, whole.  headers: [(name, value)] as they came."""

    def __init__(self, method, target, headers, body, domain):
        self.method, self.target, self.headers, self.body = method, target, headers, body
        path, _, query = target.partition("?")
        path = unquote_to_bytes(path)
        host = (self.header("host") or "").split(":")[0]
        self.virtual = host.endswith("." + domain)
        if self.virtual:
            self.bucket, self.key = host[:-len(domain) - 1], path[1:]
        else:
            bucket, _, self.key = path[1:].partition(b"/")
            self.bucket = bucket.decode("latin-1")
        self.query = {}
        for part in query.split("&") if query else []:
            name, _, value = part.partition("=")
            self.query[unquote_to_bytes(name).decode("latin-1")] = unquote_to_bytes(value)

    def header(self, name):
        """The value, or None."""
        return next((v for n, v in self.headers if n.lower() == name), None)


class Objects:
    """The backend.  Switches (set_behaviour), with what AWS does as default:
    conditional_put   True | "ignored" | "refused"
    checks            set of "md5" and the names in CHECKSUMS
    ordered_list      True | False
    read_after_write  True | False: a new object is found at the third look
    quota_bytes       None | most bytes in all"""

    def __init__(self, buckets, clock=time.time):
        self.lock = threading.Lock()
        self.buckets = {name: {} for name in buckets}
        self.clock = clock
        self.unseen = {}
        self.behaviour = {"conditional_put": True, "checks": ["md5", *CHECKSUMS],
                          "ordered_list": True, "read_after_write": True, "quota_bytes": None}

    def set_behaviour(self, changes):
        unknown = set(changes) - set(self.behaviour)
        if unknown:
            raise ValueError(f"no such switch: {unknown}")
        self.behaviour.update(changes)

    def add(self, bucket, keys, size):
        """Objects of `size` zero bytes, all at once."""
        new = Object(bytes(size), int(self.clock()), {})
        with self.lock:
            self.buckets[bucket].update({key.encode(): new for key in keys})

    def handle(self, request):
        """Answer, or raises Refused."""
        if request.bucket not in self.buckets:
            if request.method == "PUT" and not request.key:
                self.buckets[request.bucket] = {}
                return Answer(200)
            raise Refused(404, "NoSuchBucket", "The specified bucket does not exist")
        bucket = self.buckets[request.bucket]
        name = ("object_" if request.key else "bucket_") + request.method.lower()
        operation = getattr(self, "_" + name, None)
        if not operation:
            raise Refused(405, "MethodNotAllowed", "not here")
        return operation(request, bucket)

    # ---- bucket ----

    def _bucket_put(self, request, bucket):
        raise Refused(409, "BucketAlreadyOwnedByYou", "it is there")

    def _bucket_head(self, request, bucket):
        return Answer(200)

    def _bucket_get(self, request, bucket):
        if "location" in request.query:
            return Answer(200, b"<LocationConstraint></LocationConstraint>")
        if request.query.get("list-type") != b"2":
            raise Refused(501, "NotImplemented", "only list-type=2")
        return self._list(request.query, bucket)

    def _list(self, query, bucket):
        prefix, delimiter = query.get("prefix", b""), query.get("delimiter", b"")
        after = query.get("continuation-token", query.get("start-after", b""))
        if "continuation-token" in query:
            after = bytes.fromhex(after.decode())
        most = min(int(query.get("max-keys", b"1000")), LIST_MAX)
        with self.lock:
            keys = sorted(k for k in bucket if k.startswith(prefix) and not self._hidden(k))
        entries, seen = [], set()
        for key in keys:
            end = key.find(delimiter, len(prefix)) if delimiter else -1
            name = key[:end + len(delimiter)] if end >= 0 else key
            if name in seen or name <= after:
                continue
            seen.add(name)
            entries.append((name, None if end >= 0 else bucket.get(key)))
        more = len(entries) > most
        entries = entries[:most]
        token = entries[-1][0].hex() if more and entries else None
        if not self.behaviour["ordered_list"]:
            random.Random(len(entries)).shuffle(entries)
        return Answer(200, self._list_xml(query, entries, more, token).encode(),
                      Content_Type="application/xml")

    def _list_xml(self, query, entries, more, token):
        url = query.get("encoding-type") == b"url"

        def shown(name):
            return quote(name, safe="/") if url else escape(name.decode("utf-8", "replace"))
        text = ['<?xml version="1.0" encoding="UTF-8"?>\n'
                '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">',
                f"<IsTruncated>{str(more).lower()}</IsTruncated>",
                f"<KeyCount>{len(entries)}</KeyCount>"]
        if token:
            text.append(f"<NextContinuationToken>{token}</NextContinuationToken>")
        for name, entry in entries:
            if entry:
                when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(entry.modified))
                text.append(f"<Contents><Key>{shown(name)}</Key><LastModified>{when}</LastModified>"
                            f"<ETag>{escape(entry.etag)}</ETag><Size>{len(entry.data)}</Size>"
                            "<StorageClass>STANDARD</StorageClass></Contents>")
            else:
                text.append(f"<CommonPrefixes><Prefix>{shown(name)}</Prefix></CommonPrefixes>")
        return "".join(text) + "</ListBucketResult>"

    # ---- object ----

    def _object_put(self, request, bucket):
        if len(request.key) > 1024:
            raise Refused(400, "KeyTooLongError", "Your key is too long")
        checksums = self._check_body(request)
        condition = self._condition(request)
        new = Object(request.body, int(self.clock()), checksums)
        with self.lock:
            old = bucket.get(request.key)
            if condition == "absent" and old:
                raise Refused(412, "PreconditionFailed",
                              "At least one of the pre-conditions you specified did not hold",
                              Condition="If-None-Match")
            quota = self.behaviour["quota_bytes"]
            held = sum(len(o.data) for b in self.buckets.values() for o in b.values())
            if quota is not None and held + len(new.data) > quota:
                raise Refused(403, "QuotaExceeded", "the quota of the user is used up")
            bucket[request.key] = new
            if not old and not self.behaviour["read_after_write"]:
                self.unseen[request.key] = 2
        return Answer(200, ETag=new.etag)

    def _condition(self, request):
        given = request.header("if-none-match")
        if given is None or self.behaviour["conditional_put"] == "ignored":
            return None
        if self.behaviour["conditional_put"] == "refused" or given != "*":
            raise Refused(501, "NotImplemented", "A header you provided implies functionality "
                          "that is not implemented", Header="If-None-Match")
        return "absent"

    def _check_body(self, request):
        given = {}
        md5 = request.header("content-md5")
        if (md5 is not None and "md5" in self.behaviour["checks"]
                and md5 != base64.b64encode(hashlib.md5(request.body).digest()).decode()):
            raise Refused(400, "BadDigest", "The Content-MD5 you specified did not match")
        for name, function in CHECKSUMS.items():
            value = request.header("x-amz-checksum-" + name)
            if value is None or name not in self.behaviour["checks"]:
                continue
            if value != base64.b64encode(function(request.body)).decode():
                raise Refused(400, "BadDigest", f"The {name} you specified did not match")
            given[name] = value
        return given

    def _hidden(self, key):
        return self.unseen.get(key, 0) > 0

    def _find(self, request, bucket):
        with self.lock:
            if self._hidden(request.key):
                self.unseen[request.key] -= 1
                found = None
            else:
                found = bucket.get(request.key)
        if not found:
            raise Refused(404, "NoSuchKey", "The specified key does not exist.")
        match = request.header("if-match")
        if match is not None and match not in ("*", found.etag):
            raise Refused(412, "PreconditionFailed", "At least one of the pre-conditions you "
                          "specified did not hold", Condition="If-Match")
        return found

    def _object_head(self, request, bucket):
        return self._object_get(request, bucket)

    def _object_get(self, request, bucket):
        found = self._find(request, bucket)
        size = len(found.data)
        headers = {"ETag": found.etag, "Accept_Ranges": "bytes",
                   "Last_Modified": formatdate(found.modified, usegmt=True),
                   "Content_Type": "binary/octet-stream"}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.header("range") or "")
        if not wanted or wanted.groups() == ("", ""):
            return Answer(200, found.data, **headers)
        first, last = wanted.groups()
        if first == "":
            start, end = max(size - int(last), 0), size
        else:
            start, end = int(first), min(int(last) + 1, size) if last else size
        if start >= size or end <= start:
            raise Refused(416, "InvalidRange", "The requested range is not satisfiable")
        return Answer(206, memoryview(found.data)[start:end],
                      Content_Range=f"bytes {start}-{end - 1}/{size}", **headers)

    def _object_delete(self, request, bucket):
        with self.lock:
            bucket.pop(request.key, None)
        return Answer(204)
