#!/usr/bin/env python3
"""Reads a ckpt store directory without ckpt: written from formats/FORMAT.md alone.

    ckpt_read.py STOREDIR list
    ckpt_read.py STOREDIR verify JOB[@STEP]
    ckpt_read.py STOREDIR extract JOB[@STEP] TENSOR OUTFILE

Needs Python 3.8, and the zstd command for coded packs.  Exit codes: 0 fine, 1 damage
found, 2 usage, 3 not found.  Without @STEP: the highest live step of the newest epoch.
"""
import functools
import hashlib
import itertools
import math
import os
import struct
import subprocess
import sys

from ckpt_read_xxh3 import crc32c, xxh3_128

COMMIT, LIFE = 8, 13
ALIAS, OBJECT, BLOCKED = 4, 1, 1
KINDS = {"claim": 2, "resolved": 3, "restored": 5, "progress": 6}
BITS = [0, 8, 8, 8, 16, 16, 32, 32, 64, 64, 16, 16, 32, 64, 64, 128] + [8] * 5 + [4, 6, 6, 4, 4]

class Damage(Exception):
    pass

class NotFound(Exception):
    pass

WRONG = (Damage, struct.error, ValueError, KeyError, IndexError, OSError)

def need(ok, what):
    if not ok:
        raise Damage(what)

def hash_number(data):
    return int.from_bytes(xxh3_128(data)[:8], "big")

class Cursor:
    """Reads the bytes as the tables of FORMAT.md say; short reads are damage."""

    def __init__(self, data, at=0, end=None):
        self.data, self.at, self.end = data, at, len(data) if end is None else end

    def take(self, n):
        need(0 <= n <= self.end - self.at, "cut short")
        self.at += n
        return self.data[self.at - n:self.at]

    def get(self, fmt):
        return struct.unpack("<" + fmt, self.take(struct.calcsize("<" + fmt)))

    def one(self, fmt):
        return self.get(fmt)[0]

    def str(self):
        return self.take(self.one("H")).decode("utf-8", "replace")

    def cstr(self, n):
        text = self.take(n + 1)
        need(text[n] == 0 and 0 not in text[:n], "a name without its NUL")
        return text[:n].decode("utf-8", "replace")

    def zero(self, n):
        need(not any(self.take(n)), "reserved bytes are not zero")

    def done(self):
        need(self.at == self.end, "bytes left over")

class Store:
    def __init__(self, root):
        self.root = root

    def read(self, key):
        with open(os.path.join(self.root, key), "rb") as f:
            return f.read()

    def ls(self, key):
        path = os.path.join(self.root, key)
        return sorted(os.listdir(path)) if os.path.isdir(path) else []

    def record(self, key, kind=None):
        """The body of the record under `key`, its sum and name checked."""
        data = self.read(key)
        c = Cursor(data)
        need(c.take(8) == b"CKPTREC\0", "%s: no record" % key)
        version, is_kind, size = c.get("HHI")
        need(size == len(data) and size >= 34, "%s: wrong length" % key)
        need(xxh3_128(data[:-16]) == data[-16:], "%s: wrong sum" % key)
        need(version == 1 and c.str() == key, "%s: another key or version" % key)
        need(kind is None or is_kind == kind, "%s: a record of kind %d" % (key, is_kind))
        return is_kind, Cursor(data, c.at, len(data) - 16)

def parse_name(text):
    epoch, step, attempt = text.split("-")
    return [2**64 - 1 - int(epoch, 16), 2**64 - 1 - int(step, 16), int(attempt, 16)]

def commits(store, job):
    """(epoch, step, name, alive) of every commit, newest first."""
    for text in store.ls(job + "/c"):
        key = "%s/c/%s" % (job, text)
        if store.record(key)[0] != COMMIT:
            continue
        log = store.ls("%s/x/%s" % (job, text))
        alive = not log or store.record("%s/x/%s/%s" % (job, text, log[0]), LIFE)[1].one("B") == 0
        epoch, step, _ = parse_name(text)
        yield epoch, step, text, alive

def find(store, spec):
    job, _, step = spec.partition("@")
    for _, at, name, alive in commits(store, job):
        if alive and step in ("", str(at)):
            return job, name
    raise NotFound("%s: no such live checkpoint" % spec)

def shard(n):
    return "%x" % (hash_number(struct.pack("<I", n)) >> 60)

def get_desc(c):
    t = dict(zip(("dtype", "kind", "flags", "ndim"), c.get("BBHB")))
    c.zero(1)
    name, alias = c.get("HH")
    need(t["ndim"] <= 16 and 0 < t["dtype"] < len(BITS), "a tensor's description")
    t["name"], t["alias"] = c.cstr(name), c.cstr(alias) if alias else None
    need(bool(t["flags"] & ALIAS) == bool(alias), "an alias without target")
    t["shape"] = c.get("%dQ" % t["ndim"])
    if t["kind"] == BLOCKED:
        t["block"] = c.get("%dI" % t["ndim"])
    return t

def get_box(c, ndim):
    return c.get("%dQ" % ndim), c.get("%dQ" % ndim)

def tiles(box, tile):
    """Offsets and lengths of each tile, in order."""
    off, length = box
    need(all(tile), "a tile of length 0")
    for cell in itertools.product(*[range(-(-n // t)) for n, t in zip(length, tile)]):
        yield ([o + c * t for o, c, t in zip(off, cell, tile)],
               [min(t, n - c * t) for n, c, t in zip(length, cell, tile)])

def get_tensors(c, count):
    """A manifest's block."""
    for _ in range(count):
        t = get_desc(c)
        boxes, witnesses = c.get("II")
        t["boxes"] = []
        for _ in range(boxes):
            box = get_box(c, t["ndim"])
            tile = c.get("%dQ" % t["ndim"])
            first, n = c.get("QQ")
            need(all(o + k <= s for o, k, s in zip(*box, t["shape"])), "a box outside its tensor")
            need(math.prod(-(-k // x) for k, x in zip(box[1], tile)) == n, "a box and its tiles")
            t["boxes"].append((box, tile, first, [c.take(16) for _ in range(n)]))
        c.take(witnesses * (16 * t["ndim"] + 16))
        yield t
    c.done()

class Checkpoint:
    def __init__(self, store, job, name):
        self.store, self.job, self.name = store, job, name
        c = store.record("%s/c/%s" % (job, name), COMMIT)[1]
        self.ids = list(c.get("QQQ"))
        need(self.ids == parse_name(name), "commit: another name")
        self.world = c.one("I")
        c.take(76)
        self.segments, size = c.get("II")
        self.read_index(size, c.take(32))

    def key(self, n, what):
        return "%s/d/%s/%s/%s" % (self.job, shard(n), self.name, what)

    def read_index(self, size, sha):
        segments = [self.store.read(self.key(k, "i%d" % k)) for k in range(self.segments)]
        need(hashlib.sha256(segments[0][:size]).digest() == sha, "index: wrong SHA-256 of its header")
        c = Cursor(segments[0], 0, size)
        need(c.take(8) == b"CKPTIDX\0" and c.one("H") == 1, "index: no index of version 1")
        c.zero(2)
        need(c.one("I") == size and list(c.get("QQQ")) == self.ids, "index: another checkpoint's")
        world, count, rank_blocks, blocks, _ = c.get("IIIIQ")
        need((world, count) == (self.world, self.segments), "index: another world")
        c.zero(32)
        at = [size] + [0] * (count - 1)
        self.ranks, self.tensors = [], {}
        for i in range(rank_blocks + blocks):
            segment, n, tensors = c.get("III")
            digest, first = c.take(16), c.str()
            data = segments[segment][at[segment]:at[segment] + n]
            at[segment] += n
            need(xxh3_128(data) == digest, "index: block %d (%s) is damaged" % (i, first or "ranks"))
            b = Cursor(data)
            if i < rank_blocks:
                while b.at < b.end:
                    self.ranks.append((b.take(32),) + b.get("IQ"))
            for _ in range(tensors):
                t = get_desc(b)
                t["runs"] = [b.get("IIIIQQ") + (get_box(b, t["ndim"]),) for _ in range(b.one("I"))]
                self.tensors[t["name"]] = t
            b.done()
        c.done()
        need([len(s) for s in segments] == at, "index: segments of another length")
        need(len(self.ranks) == world, "index: not as many ranks as the world")

    @functools.lru_cache(None)
    def manifest(self, rank):
        key = self.key(rank, "%d.m" % rank)
        data = self.store.read(key)
        sha, size, total = self.ranks[rank]
        need(len(data) == total, "%s: wrong length" % key)
        need(hashlib.sha256(data[:size]).digest() == sha, "%s: wrong SHA-256 of its header" % key)
        c = Cursor(data, 0, size - 16)
        need(c.take(8) == b"CKPTMAN\0" and c.get("HH")[0] == 1, "%s: no manifest of version 1" % key)
        need(c.one("I") == size and list(c.get("QQQ")) == self.ids, "%s: another checkpoint's" % key)
        need(c.get("II") == (rank, self.world), "%s: another rank's" % key)
        _, pack_count, block_count, metrics = c.get("IIII")
        c.take(48)
        _, chunks, _ = c.get("QQQ")
        c.take(40)
        need(c.str() == self.job, "%s: another job's" % key)
        c.str()
        for _ in range(metrics):
            c.str(), c.one("d")
        packs, at = [], 0
        for _ in range(pack_count):
            slot, n = c.get("II")
            packs.append((at, slot, n, c.take(16)))
            at += n
        need(at == chunks, "%s: packs and chunks do not add up" % key)
        tensors, at = {}, size
        for _ in range(block_count):
            n, count, _, _ = c.get("IIII")
            digest, first = c.take(16), c.str()
            need(xxh3_128(data[at:at + n]) == digest, "%s: block of %s is damaged" % (key, first))
            tensors.update((t["name"], t) for t in get_tensors(Cursor(data, at, at + n), count))
            at += n
        c.done()
        need(at == len(data), "%s: bytes left over" % key)
        return packs, tensors

    @functools.lru_cache(None)
    def pack(self, rank, pack):
        """(key, image?, chunk entries, body) of a pack; its head is checked."""
        _, slot, n, pid = pack
        key = self.key(rank, "%d-%d-%s" % (rank, slot, pid.hex()))
        data = self.store.read(key)
        size = -(-(128 + 32 * n) // 4096) * 4096
        need(len(data) >= size, "%s: cut short" % key)
        sums = struct.unpack_from("<II", data, 120)
        need(sums == (crc32c(data[128:size]), crc32c(data[:124])), "%s: head: wrong CRC" % key)
        c = Cursor(data)
        need(c.take(8) == b"CKPTPACK", "%s: no pack" % key)
        version, flags, count = c.get("HHI")
        mine = list(c.get("QQQ")) + [c.one("Q")] + list(c.get("II")) + [c.take(16)]
        want = self.ids + [hash_number(self.job.encode()), rank, slot, pid]
        body = c.one("Q")
        need((version, flags & ~1, count, mine) == (1, 0, n, want), "%s: head: another pack's" % key)
        need(len(data) == size + body, "%s: wrong length" % key)
        need(not any(data[80:120]), "%s: encrypted, not supported" % key)
        entries = [struct.unpack_from("<QIIIBB", data, 128 + 32 * i) for i in range(n)]
        return key, flags & 1, entries, data[size:]

    def chunk(self, rank, ordinal, raw, digest):
        packs = [p for p in self.manifest(rank)[0] if p[0] <= ordinal < p[0] + p[2]]
        need(packs, "rank %d has no chunk %d" % (rank, ordinal))
        key, _, entries, body = self.pack(rank, packs[0])
        offset, stored, raw_bytes, crc, codec, planes = entries[ordinal - packs[0][0]]
        where = "%s: chunk %d" % (key, ordinal - packs[0][0])
        data = body[offset:offset + stored]
        need(len(data) == stored and crc32c(data) == crc, "%s: wrong CRC" % where)
        need(codec in (0, 1) and planes == 0, "%s: unknown codec" % where)
        if codec == 1:
            done = subprocess.run(["zstd", "-dcq"], input=data, capture_output=True, check=False)
            need(done.returncode == 0, "%s: zstd: %s" % (where, done.stderr.decode()))
            data = done.stdout
        need(len(data) == raw == raw_bytes, "%s: wrong size" % where)
        need(xxh3_128(data) == digest, "%s: wrong digest" % where)
        return data

    def chunks(self, rank, tensor):
        """(offsets, lengths, bytes) of every tile that a rank wrote of a tensor."""
        for box, tile, first, digests in tensor["boxes"]:
            for k, (off, length) in enumerate(tiles(box, tile)):
                raw = math.prod(length) * BITS[tensor["dtype"]] // 8
                yield off, length, self.chunk(rank, first + k, raw, digests[k])

    def tensor(self, name):
        """All bytes of a tensor, row-major."""
        t = self.tensors.get(name)
        t = self.tensors.get(t["alias"]) if t and t["alias"] else t
        if not t:
            raise NotFound("%s: no such tensor" % name)
        bits, shape = BITS[t["dtype"]], t["shape"]
        out, have = bytearray(math.prod(shape) * bits // 8), 0
        ranks = {r[1] + i * r[2] for r in t["runs"] for i in range(r[0])}
        for rank in sorted(ranks):
            for off, length, data in self.chunks(rank, self.manifest(rank)[1][t["name"]]):
                row, at = (length[-1] if length else 1) * bits // 8, 0
                for index in itertools.product(*[range(n) for n in length[:-1]]):
                    place = 0
                    for d, s in enumerate(shape):
                        place = place * s + off[d] + (index[d] if d + 1 < len(shape) else 0)
                    out[place * bits // 8:place * bits // 8 + row] = data[at:at + row]
                    at += row
                have += len(data)
        need(have == len(out), "%s: its boxes do not cover it" % name)
        return out[8:8 + struct.unpack_from("<Q", out)[0]] if t["flags"] & OBJECT else out

    def check_gaps(self, rank, pack):
        """Everything in a body that is no chunk is zero."""
        key, image, entries, body = self.pack(rank, pack)
        end = used = 0
        for offset, stored, raw, _, codec, _ in entries:
            align = 8 if not image else 4096 if raw >= 65536 else 64
            used = -(-used // align) * align
            need(offset == used and (codec or stored == raw), "%s: chunks out of place" % key)
            need(not any(body[end:offset]), "%s: a gap is not zero" % key)
            end = used = offset + stored
        need(not any(body[end:]), "%s: the end is not zero" % key)

def attempt(bad, function, *args):
    """Runs a step of verify; damage is noted, and the next step goes on."""
    try:
        return function(*args)
    except WRONG as e:
        bad.append(str(e))
        return None

def verify(store, job, name):
    bad = []
    attempt(bad, store.record, "ckpt.repo", 1)
    for top, dirs, files in os.walk(os.path.join(store.root, job)):
        part = os.path.relpath(top, store.root)
        for f in [] if part.split(os.sep)[1:2] == ["d"] else sorted(files):
            attempt(bad, store.record, part + "/" + f, KINDS.get(f))
    ck = attempt(bad, Checkpoint, store, job, name)
    for rank in range(ck.world if ck else 0):
        held = ck.key(rank, "%d.h" % rank)
        if os.path.exists(os.path.join(store.root, held)):
            attempt(bad, store.record, held)
        packs, tensors = attempt(bad, ck.manifest, rank) or ([], {})
        for pack in packs:
            attempt(bad, ck.check_gaps, rank, pack)
        for t in tensors.values():
            attempt(bad, lambda r, x: sum(1 for _ in ck.chunks(r, x)), rank, t)
    return sorted(set(bad), key=bad.index)

def main(args):
    if len(args) not in (2, 3, 5) or args[1:2] != [{2: "list", 3: "verify", 5: "extract"}[len(args)]]:
        sys.stderr.write(__doc__)
        return 2
    store = Store(args[0])
    try:
        if args[1] == "list":
            for job in [j for j in store.ls("") if os.path.isdir(os.path.join(args[0], j, "c"))]:
                for epoch, step, name, alive in commits(store, job):
                    print("%s@%d epoch %d%s" % (job, step, epoch, "" if alive else " deleted"))
                    for t in Checkpoint(store, job, name).tensors.values() if alive else ():
                        print("  %s dtype %d %s" % (t["name"], t["dtype"], list(t["shape"])))
            return 0
        job, name = find(store, args[2])
        if args[1] == "verify":
            bad = verify(store, job, name)
            print("\n".join("damaged: " + b for b in bad) or "%s: whole" % args[2])
            return 1 if bad else 0
        data = Checkpoint(store, job, name).tensor(args[3])
        with open(args[4], "wb") as f:
            f.write(data)
        return 0
    except NotFound as e:
        print(e, file=sys.stderr)
        return 3
    except WRONG as e:
        print("damaged: %s" % e, file=sys.stderr)
        return 1

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
