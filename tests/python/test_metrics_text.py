"""From status pages to Prometheus' text format: a whole page against what is in it, then pages
that no ckptd would write.  Whatever comes in, what comes out is strictly well formed.

    test_metrics_text.py METRICS_PIPE          (stdin: "LENGTH\\n" PAGE, repeated; the same out)
"""
import json
import os
import random
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import prometheus_text  # noqa: E402

PAGE = {
    "version": "1.2", "errors": [], "io": "x",
    "counters": {"uptime_seconds": 1.5, "packs": 7, "pack_bytes": 2 ** 40, "sessions_open": 3},
    "tiers": [{"tier": "local", "url": '/a "b"\\\n', "outlives_node": False, "lag": 0,
               "lag_seconds": 0.0, "held": 0, "put_bytes": 0, "troubles": 0, "failing": 0},
              {"tier": "remote1", "url": "s3://b", "outlives_node": True, "lag": 2,
               "lag_seconds": 3.25, "held": 5, "put_bytes": 10, "troubles": 1, "failing": 1}],
    "jobs": [{"job": "gpt", "ranks": 2, "step": 12, "checkpoints": 3, "tiers": [
        {"tier": "local", "newest_step": 10, "rpo_seconds": 4.5, "rpo_steps": 2},
        {"tier": "remote1", "rpo_seconds": 100.0, "rpo_steps": 12}]}],
    "sessions": [
        {"job": "gpt", "rank": 0, "mode": "train", "dead": True, "progress": 1},
        {"job": "gpt", "rank": 0, "mode": "train", "dead": False, "progress": 11},
        {"job": "gpt", "rank": 0, "mode": "train", "dead": False, "progress": 12},
        {"job": "gpt", "rank": 1, "mode": "train", "dead": False, "left_bytes": 77},
        {"job": "gpt", "rank": 2, "mode": "read", "dead": False, "progress": 13}],
}


class Pipe:
    def __init__(self, program):
        self.program = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def text(self, page):
        """None: refused."""
        self.program.stdin.write(b"%d\n" % len(page) + page)
        self.program.stdin.flush()
        size = int(self.program.stdout.readline())
        return None if size < 0 else self.program.stdout.read(size).decode()

    def metrics(self, page):
        text = self.text(json.dumps(page).encode())
        assert text is not None, page
        return prometheus_text.parse(text)

    def close(self):
        self.program.stdin.close()
        assert self.program.wait() == 0


def whole(pipe):
    m = pipe.metrics(PAGE)
    assert m["ckpt_up"].value() == 1
    assert m["ckpt_build_info"].value(version="1.2") == 1
    assert m["ckpt_tier_info"].value(tier="local", url='/a "b"\\\n') == 0
    assert m["ckpt_tier_info"].value(tier="remote1", url="s3://b") == 1
    assert m["ckpt_packs_total"].value() == 7 and m["ckpt_pack_bytes_total"].value() == 2 ** 40
    assert m["ckpt_uptime_seconds"].value() == 1.5 and m["ckpt_sessions_open"].value() == 3
    assert m["ckpt_tier_lag"].value(tier="remote1") == 2
    assert m["ckpt_tier_held_total"].value(tier="remote1") == 5
    assert m["ckpt_job_checkpoints_total"].value(job="gpt") == 3
    assert m["ckpt_job_tier_rpo_seconds"].value(job="gpt", tier="remote1") == 100
    assert m["ckpt_job_tier_newest_step"].samples == {(("job", "gpt"), ("tier", "local")): 10}
    assert m["ckpt_rank_progress"].samples == {(("job", "gpt"), ("rank", "0")): 12}
    assert m["ckpt_rank_left_bytes"].value(job="gpt", rank=1) == 77
    assert not m["ckpt_messages_total"].samples  # not on the page: not told
    return 14


def mutated(rng, value):
    """The same page with something foreign in it."""
    if rng.random() < 0.04:
        return rng.choice([None, True, -1, 2 ** 62, 1e308, -0.0, "", "a\nb", 'q"', "\\", "\x00\x7f\u2028",
                           "é" * 200, [], {}, [[]], {"job": "x"}, [{"tier": 1}], "train", 10 ** 18])
    if isinstance(value, dict):
        return {("tier" if rng.random() < 0.02 else k): mutated(rng, v) for k, v in value.items()}
    if isinstance(value, list):
        doubled = value + value if rng.random() < 0.05 else value
        return [mutated(rng, v) for v in doubled]
    return value


def foreign(pipe, seed, count):
    rng = random.Random(seed)
    samples = refused = 0
    for _ in range(count):
        page = mutated(rng, PAGE)
        text = pipe.text(json.dumps(page).replace("\\u0000", "?").encode())
        if text is None:
            refused += 1
            assert not isinstance(page, dict), page
            continue
        try:
            samples += sum(len(f.samples) for f in prometheus_text.parse(text).values())
        except ValueError as bad:
            raise AssertionError(f"seed {seed}: {bad}: {json.dumps(page)}") from bad
    assert samples > count and refused > 0, (samples, refused)
    return count


def bytes_that_are_no_page(pipe):
    for page in (b"", b"{", b"[]", b"3", b'{"a":1,"a":2}', b"\xff\xfe", b"{}{}", b"\x00" * 9,
                 b"[" * 100000):
        assert pipe.text(page) is None, page[:20]
    empty = prometheus_text.parse(pipe.text(b"{}"))
    assert empty["ckpt_up"].value() == 1 and not empty["ckpt_uptime_seconds"].samples
    return 10


def many(pipe):
    """More ranks than are told."""
    page = {"sessions": [{"job": "j", "rank": i, "mode": "train", "dead": False, "progress": i}
                         for i in range(1500)], "jobs": [
        {"job": f"j{i}", "tiers": [{"tier": f"t{k}", "rpo_steps": 1} for k in range(10)]}
        for i in range(8000)]}
    m = pipe.metrics(page)
    assert sum(len(f.samples) for f in m.values()) <= 65536 + 100
    return 1


def main():
    seed = int(os.environ.get("TEST_SEED", "11"))
    print(f"seed {seed}")
    pipe = Pipe(sys.argv[1])
    cases = prometheus_text.refusals() + whole(pipe) + bytes_that_are_no_page(pipe) + many(pipe)
    cases += foreign(pipe, seed, 20000 if os.environ.get("CKPT_DEEP") else 1000)
    pipe.close()
    print(f"{cases} cases")


if __name__ == "__main__":
    main()
