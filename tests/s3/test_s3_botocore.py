"""Our signer and botocore's agree on requests drawn at random.

usage: test_s3_botocore.py SIGN_LINES
SIGN_LINES is the signer as a filter (sign_lines.c)."""
import datetime
import json
import os
import random
import subprocess
import sys

try:
    import botocore.auth
    import botocore.awsrequest
    import botocore.credentials
    import botocore.utils
except ImportError:
    print("SKIP: no botocore (Debian: python3-botocore)")
    sys.exit(77)

REQUESTS = 600
PATH_CHARACTERS = "aZ09-._~/ +=%?&#!*'():;@$,[]{}|\\^`\"<>" + "üሴ😀\x7f\x01"
NAME_CHARACTERS = "abz019-"
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def draw_text(rng, alphabet, longest):
    return "".join(rng.choice(alphabet) for _ in range(rng.randrange(longest)))


def draw(rng):
    """One request; the names are those of sign_lines.c."""
    port = rng.choice(["", ":9000"])
    names = {"x-amz-meta-" + draw_text(rng, NAME_CHARACTERS, 6) for _ in range(rng.randrange(6))}
    names |= set(rng.sample(["x-amz-meta", "if-none-match", "range", "content-md5",
                             "content-type", "x-amz-checksum-crc32c"], rng.randrange(4)))
    keys = {draw_text(rng, PATH_CHARACTERS, 6) for _ in range(rng.randrange(6))} - {""}
    return {
        "method": rng.choice(["GET", "PUT", "HEAD", "DELETE", "POST"]),
        "host": "bucket.example.org" + port,
        "path": "/" + draw_text(rng, PATH_CHARACTERS, 40),
        "query": [[key, rng.choice(["", draw_text(rng, PATH_CHARACTERS, 9)])] for key in keys],
        "headers": [[rng.choice([name, name.title()]),
                     rng.choice(["", "  "]) + draw_text(rng, "ab1-  \t", 12)] for name in names],
        "payload_hash": rng.choice([EMPTY, "UNSIGNED-PAYLOAD", "%064x" % rng.getrandbits(256)]),
        "time_s": rng.randrange(2**33),
        "id": "AK" + draw_text(rng, "ABC123", 20),
        "secret": "s" + draw_text(rng, "abc/+1", rng.choice([40, 120])),
        "token": rng.choice(["", "t" + draw_text(rng, "abc/+=", 900)]),
        "region": rng.choice(["us-east-1", "auto", "eu-central-1"]),
        "service": "s3",
    }


def sign_by_botocore(case):
    """(target, date, authorization) as botocore makes them."""
    request = botocore.awsrequest.AWSRequest(
        method=case["method"], url="http://%s/" % case["host"], headers=dict(case["headers"]))
    quote = botocore.utils.percent_encode
    target = quote(case["path"], safe="/~")
    pairs = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in case["query"])
    if pairs:
        target += "?" + "&".join(f"{k}={v}" for k, v in pairs)
    request.url = "http://" + case["host"] + target
    request.headers["X-Amz-Content-SHA256"] = case["payload_hash"]
    when = datetime.datetime.fromtimestamp(case["time_s"], datetime.timezone.utc)
    date = request.context["timestamp"] = when.strftime("%Y%m%dT%H%M%SZ")
    request.headers["X-Amz-Date"] = date
    if case["token"]:
        request.headers["X-Amz-Security-Token"] = case["token"]
    signer = botocore.auth.S3SigV4Auth(
        botocore.credentials.Credentials(case["id"], case["secret"], case["token"] or None),
        case["service"], case["region"])
    canonical = signer.canonical_request(request)
    if canonical.rsplit("\n", 1)[1] != case["payload_hash"]:
        sys.exit("botocore did not take the payload's hash from the header")
    signature = signer.signature(signer.string_to_sign(request, canonical), request)
    names = signer.signed_headers(signer.headers_to_sign(request))
    return target, date, (f"AWS4-HMAC-SHA256 Credential={signer.scope(request)}, "
                          f"SignedHeaders={names}, Signature={signature}")


def main():
    seed = int(os.environ.get("TEST_SEED", "7"))
    print("seed", seed)
    rng = random.Random(seed)
    cases = [draw(rng) for _ in range(REQUESTS)]
    result = subprocess.run([sys.argv[1]], input="".join(json.dumps(c) + "\n" for c in cases),
                            capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    if len(answers) != len(cases):
        sys.exit(f"{len(answers)} signatures for {len(cases)} requests")
    for case, answer in zip(cases, answers):
        target, date, authorization = sign_by_botocore(case)
        expected = {"target": target, "date": date, "authorization": authorization}
        if answer != expected:
            sys.exit(f"request   {case}\nours      {answer}\nbotocore's {expected}")
    print(len(cases), "cases")


main()
