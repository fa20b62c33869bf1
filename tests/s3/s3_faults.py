"""What goes wrong on purpose: rules, taken from a list in order, each for some requests.

A rule is a dict:
    fault         a name below
    method, key   which requests ("" or none: all); key is a regular expression of the
                  whole key ("" for requests on the bucket, lists among them)
    skip          so many that match pass first (0)
    count         so many are hit (1; -1: all that come)
    probability   of a hit, by the seed of the server (1)
    after         bytes of a body before it happens (half of it)
    seconds       how long a stall lasts (until the rules are cleared)
    status, code, message, headers   of the answer, for "error"
    early         the answer comes before the body was read (and no signature is checked)

Instead of the work:
    error         any answer: status, code, message, headers
    ok_error      200 with <Error> in the body
    page          200 (or status) with a page of HTML, as of a network that wants a login
    garbage       something that is not HTTP
    reset         the connection is reset before an answer
    reset_upload  it is reset when `after` bytes of the request's body were read
    stall         nothing is answered
After the work was done:
    lost          the connection is reset, the answer never sent
    truncate      the body of the answer ends early, in order (FIN)
    reset_body    the same by a reset
    stall_body    the same by silence
    flip          one byte of the answer's body is another one
    short, long   the answer is consistent, and a byte shorter or longer than it should be
    ignore_range  the whole object with 200, whatever range was asked
    wrong_range   the Content-Range is another one
    flip_stored   the object is stored with a byte changed, unnoticed
    no_length     the body has no length and ends with the connection
    endless       zeros follow the body until the client has enough"""
import random
import re
import threading

INSTEAD = {"error", "ok_error", "page", "garbage", "reset", "reset_upload", "stall"}
AFTER = {"lost", "truncate", "reset_body", "stall_body", "flip", "short", "long", "ignore_range",
         "wrong_range", "flip_stored", "no_length", "endless"}
# Names for answers that are often wanted.
ERRORS = {
    "slowdown": (503, "SlowDown", "Please reduce your request rate."),
    "internal": (500, "InternalError", "We encountered an internal error. Please try again."),
    "unavailable": (503, "ServiceUnavailable", "Please try again."),
    "conflict": (409, "ConditionalRequestConflict", "a conflicting operation is under way"),
    "precondition": (412, "PreconditionFailed", "a condition did not hold"),
    "denied": (403, "AccessDenied", "Access Denied"),
    "expired": (400, "ExpiredToken", "The provided token has expired."),
    "no_bucket": (404, "NoSuchBucket", "The specified bucket does not exist"),
    "no_key": (404, "NoSuchKey", "The specified key does not exist."),
    "quota": (403, "QuotaExceeded", "the quota is used up"),
    "full": (507, "XMinioStorageFull", "Storage backend has reached its minimum free drive"),
    "timeout": (400, "RequestTimeout", "Your socket connection to the server was not read from"),
}
_KNOWN = {"fault", "method", "key", "skip", "count", "probability", "after", "seconds", "status",
          "code", "message", "headers", "early"}


class Rule:
    """One entry of the list, with its counters."""

    def __init__(self, spec):
        if set(spec) - _KNOWN:
            raise ValueError(f"a rule has no {set(spec) - _KNOWN}")
        self.spec = dict(spec)
        name = spec.get("fault")
        if name in ERRORS:
            status, code, message = ERRORS[name]
            self.spec = {"status": status, "code": code, "message": message, **spec,
                         "fault": "error"}
        elif name not in INSTEAD | AFTER:
            raise ValueError(f"no such fault: {name}")
        self.name = name
        self.fault = self.spec["fault"]
        self.key = re.compile(spec["key"]) if "key" in spec else None
        self.skip, self.left = spec.get("skip", 0), spec.get("count", 1)
        self.cleared = threading.Event()

    def matches(self, method, key):
        wanted = self.spec.get("method")
        return (not wanted or wanted == method) and (not self.key or self.key.fullmatch(key))


class Faults:
    """The list.  Thread-safe."""

    def __init__(self, seed):
        self.lock = threading.Lock()
        self.rng = random.Random(seed)
        self.rules = []
        self.hits = {}

    def set_rules(self, specs):
        rules = [Rule(spec) for spec in specs]
        with self.lock:
            for rule in self.rules:
                rule.cleared.set()
            self.rules = rules

    def take(self, method, key):
        """The rule for this request, or None."""
        with self.lock:
            for rule in self.rules:
                if rule.left == 0 or not rule.matches(method, key):
                    continue
                if rule.skip > 0:
                    rule.skip -= 1
                    continue
                if self.rng.random() >= rule.spec.get("probability", 1):
                    continue
                if rule.left > 0:
                    rule.left -= 1
                self.hits[rule.name] = self.hits.get(rule.name, 0) + 1
                return rule
        return None
