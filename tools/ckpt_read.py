#!/usr/bin/env python3
"""Reads a ckpt store directory without ckpt: written from formats/FORMAT.md alone.

    ckpt_read.py STOREDIR list
    ckpt_read.py STOREDIR verify JOB[@STEP]
    ckpt_read.py STOREDIR extract JOB[@STEP] TENSOR OUTFILE

Needs Python 3.8 and the zstd command.  Without @STEP: the highest live step of the newest
epoch.  Exit codes: 0 fine, 1 damaged (the first damage is told), 2 usage, 3 not found.
"""
import functools
import hashlib
import itertools
import math
import pathlib
import struct
import subprocess
import sys

from ckpt_read_xxh3 import crc32c, xxh3_128

COMMANDS = {"list": 2, "verify": 3, "extract": 5}
COMMIT, LIFE, ALIAS, OBJECT, BLOCKED = 8, 13, 4, 1, 1
KINDS = {"claim": 2, "resolved": 3, "restored": 5, "progress": 6}
BITS = [0, 8, 8, 8, 16, 16, 32, 32, 64, 64, 16, 16, 32, 64, 64, 128] + [8] * 5 + [4, 6, 6, 4, 4]
WRONG = (ValueError, LookupError, ArithmeticError, OSError, struct.error)

def say(text, to=None): # whatever a name holds drives no terminal
    print("".join(c if c.isprintable() else "?" for c in text), file=to)

class NotFound(Exception):
    pass

def need(ok, what):
    if not ok:
        raise ValueError(what)

def hash_number(data):
    return int.from_bytes(xxh3_128(data)[:8], "big")

def unzstd(data):
    done = subprocess.run(["zstd", "-dcq"], input=data, capture_output=True, check=False)
    need(done.returncode == 0, "zstd: %s" % done.stderr.decode())
    return done.stdout

class Cursor:
    """Reads the bytes as the tables of FORMAT.md say; short reads are damage."""

    def __init__(self, data, at=0):
        self.data, self.at = data, at

    def get(self, fmt):
        at, self.at = self.at, self.at + struct.calcsize("<" + fmt)
        return struct.unpack_from("<" + fmt, self.data, at)

    def one(self, fmt):
        return self.get(fmt)[0]

    def str(self):
        return self.one("%ds" % self.one("H")).decode("utf-8", "replace")

    def box(self, ndim):
        return self.get("%dQ" % ndim), self.get("%dQ" % ndim)

def record(root, key, kind=None):
    """Kind and body of the record under `key`, its sum and name checked."""
    data = (root / key).read_bytes()
    c = Cursor(data)
    magic, version, is_kind, size = c.get("8sHHI")
    need(magic == b"CKPTREC\0" and size == len(data), "%s: no record of this length" % key)
    need(xxh3_128(data[:-16]) == data[-16:], "%s: wrong sum" % key)
    need(version == 1 and c.str() == key and kind in (None, is_kind), "%s: another record" % key)
    return is_kind, Cursor(data[:-16], c.at)

def parse_name(text):
    epoch, step, attempt = (int(part, 16) for part in text.split("-"))
    return 2**64 - 1 - epoch, 2**64 - 1 - step, attempt

def commits(root, job):
    """(epoch, step, name, alive) of every commit, newest first."""
    for name in sorted(path.name for path in (root / job / "c").glob("*")):
        if record(root, "%s/c/%s" % (job, name))[0] == COMMIT:
            log = sorted(root.glob("%s/x/%s/*" % (job, name)))
            dead = log and record(root, log[0].relative_to(root).as_posix(), LIFE)[1].one("B")
            yield parse_name(name)[:2] + (name, not dead)

def find(root, spec):
    job, _, step = spec.partition("@")
    for _, at, name, alive in commits(root, job):
        if alive and step in ("", str(at)):
            return job, name
    raise NotFound("%s: no such live checkpoint" % spec)

def get_desc(c):
    dtype, kind, flags, ndim, zero, *sizes = c.get("BBHBBHH")
    names = [c.one("%ds" % (n + 1)).decode("utf-8", "replace") for n in sizes if n]
    need(all(name.find("\0") == len(name) - 1 for name in names), "a name without its NUL")
    need(0 < dtype < len(BITS) and ndim <= 16 and not zero, "a tensor's description")
    need(len(names) == (2 if flags & ALIAS else 1), "an alias without target")
    shape, _ = c.get("%dQ" % ndim), kind == BLOCKED and c.get("%dI" % ndim)
    return {"name": names[0][:-1], "alias": names[1][:-1] if flags & ALIAS else None,
            "dtype": dtype, "flags": flags, "shape": shape}

def get_tensors(c, count):
    """A manifest's block."""
    for _ in range(count):
        t = dict(get_desc(c), boxes=[])
        ndim, (boxes, witnesses) = len(t["shape"]), c.get("II")
        for _ in range(boxes):
            box, tile, (first, n) = c.box(ndim), c.get("%dQ" % ndim), c.get("QQ")
            need(all(o + k <= s for o, k, s in zip(*box, t["shape"])), "a box outside its tensor")
            need(math.prod(-(-k // x) for k, x in zip(box[1], tile)) == n, "a box and its tiles")
            t["boxes"].append((box, tile, first, [c.one("16s") for _ in range(n)]))
        c.get("%dx" % (witnesses * (16 * ndim + 16)))
        yield t
    need(c.at == len(c.data), "bytes left over in a block")

def tiles(off, length, tile):
    for cell in itertools.product(*[range(-(-n // t)) for n, t in zip(length, tile)]):
        yield ([o + c * t for o, c, t in zip(off, cell, tile)],
               [min(t, n - c * t) for n, c, t in zip(length, cell, tile)])

def run_boxes(t):
    """(rank, box) for every box of a tensor in the index."""
    for count, rank0, rank_step, axis, step, last_len, off, length in t["runs"]:
        for i in range(count):
            o, n = list(off), list(length)
            if count > 1:
                o[axis] += i * step
                n[axis] = last_len if i == count - 1 else n[axis]
            yield rank0 + i * rank_step, (tuple(o), tuple(n))

class Checkpoint:
    def __init__(self, root, job, name):
        self.root, self.job, self.name, self.ids = root, job, name, parse_name(name)
        c = record(root, "%s/c/%s" % (job, name), COMMIT)[1]
        *ids, self.world, self.segments, size, sha = c.get("QQQI76xII32s")
        need(tuple(ids) == self.ids, "commit: another name")
        self.read_index(size, sha)

    def key(self, n, what):
        digit = "%x" % (hash_number(struct.pack("<I", n)) >> 60)
        return "%s/d/%s/%s/%s" % (self.job, digit, self.name, what)

    def header(self, data, magic, version, flags, size, sha, *ours):
        """A cursor behind the part that an index and a manifest begin with alike."""
        want = struct.pack("<8sHHI3QII", magic, version, flags, size, *self.ids, *ours)
        need(hashlib.sha256(data[:size]).digest() == sha, "wrong SHA-256 of the header")
        need(data[:48] == want, "another checkpoint's header, or another version")
        return Cursor(data[:size], 48)

    def read_index(self, size, sha):
        segments = [(self.root / self.key(k, "i%d" % k)).read_bytes() for k in range(self.segments)]
        c = self.header(segments[0], b"CKPTIDX", 2, 0, size, sha, self.world, self.segments)
        rank_blocks, blocks, _ = c.get("IIQ32x")
        at, self.ranks, self.tensors = [size] + [0] * (self.segments - 1), [], {}
        for i in range(rank_blocks + blocks):
            k, n, tensors, digest = c.get("III16s")
            first, b = c.str(), Cursor(segments[k][at[k]:at[k] + n])
            at[k] += n
            need(xxh3_128(b.data) == digest, "index: block %d (%s) is damaged" % (i, first))
            while i < rank_blocks and b.at < n:
                self.ranks.append(b.get("32sIQ16s"))
            for _ in range(tensors):
                t = get_desc(b)
                t["runs"] = [b.get("IIIIQQ") + b.box(len(t["shape"])) for _ in range(b.one("I"))]
                self.tensors[t["name"]] = t
            need(b.at == n, "index: bytes left over in block %d" % i)
        need(c.at == size and [len(s) for s in segments] == at, "index: bytes left over")
        need(len(self.ranks) == self.world, "index: not as many ranks as the world")

    @functools.lru_cache(None)
    def manifest(self, rank):
        key, (sha, size, total, node) = self.key(rank, "%d.m" % rank), self.ranks[rank]
        data = (self.root / key).read_bytes()
        c = self.header(data, b"CKPTMAN", 1, data[10], size, sha, rank, self.world)
        _, pack_count, block_count, metrics, by, _, chunks, _ = c.get("IIII16s32xQQQ40x")
        need(c.str() == self.job and by == node, "%s: another job's or node's" % key)
        c.str()
        [(c.str(), c.one("d")) for _ in range(metrics)]
        packs, at, tensors = [], 0, {}
        for _ in range(pack_count):
            slot, n, pid = c.get("II16s")
            packs.append((at, slot, n, pid))
            at += n
        need(at == chunks, "%s: packs and chunks do not add up" % key)
        at = size
        for _ in range(block_count):
            n, count, _, _, digest = c.get("IIII16s")
            first, block = c.str(), data[at:at + n]
            need(xxh3_128(block) == digest, "%s: block of %s is damaged" % (key, first))
            tensors.update((t["name"], t) for t in get_tensors(Cursor(block), count))
            at += n
        need(c.at == size - 16 and at == total == len(data), "%s: bytes left over" % key)
        used = [f + k for t in tensors.values() for _, _, f, d in t["boxes"] for k in range(len(d))]
        need(sorted(used) == list(range(chunks)), "%s: chunks not claimed exactly once" % key)
        return packs, tensors

    @functools.lru_cache(None)
    def pack(self, rank, slot, n, pid):
        """(key, entries of chunks, body) of a pack; its head is checked, and that gaps are zero."""
        key, size = self.key(rank, "%d-%d-%s" % (rank, slot, pid.hex())), -(-(n + 4) // 128) * 4096
        data = (self.root / key).read_bytes()
        body, *sums = struct.unpack_from("<Q40xII", data, 72)
        need(sums == [crc32c(data[128:size]), crc32c(data[:124])], "%s: head: wrong CRC" % key)
        head = struct.pack("<8sHHI4QII16s", b"CKPTPACK", 1, data[10] & 1, n, *self.ids,
                           hash_number(self.job.encode()), rank, slot, pid)
        need(data[:72] == head and len(data) == size + body, "%s: head: another pack's" % key)
        need(not any(data[80:120]), "%s: encrypted, not supported" % key)
        entries = [struct.unpack_from("<QIIIBB", data, 128 + 32 * i) for i in range(n)]
        body, end = data[size:], 0
        for offset, stored, raw, _, codec, _ in entries:
            align = 8 if not data[10] else 4096 if raw >= 65536 else 64
            need(offset == -(-end // align) * align and (codec or stored == raw),
                 "%s: chunks out of place" % key)
            need(not any(body[end:offset]), "%s: a gap is not zero" % key)
            end = offset + stored
        need(not any(body[end:]), "%s: the end is not zero" % key)
        return key, entries, body

    def chunks(self, rank, tensor):
        """(offsets, lengths, bytes) of every tile that a rank wrote of a tensor."""
        for box, tile, first, digests in tensor["boxes"]:
            for k, (off, length) in enumerate(tiles(*box, tile)):
                raw = math.prod(length) * BITS[tensor["dtype"]] // 8
                yield off, length, self.chunk(rank, first + k, raw, digests[k])

    def chunk(self, rank, ordinal, raw, digest):
        pack = next(p for p in self.manifest(rank)[0] if ordinal < p[0] + p[2])
        key, entries, body = self.pack(rank, *pack[1:])
        offset, stored, raw_bytes, crc, codec, planes = entries[ordinal - pack[0]]
        data, where = body[offset:offset + stored], "%s: chunk %d" % (key, ordinal - pack[0])
        need(len(data) == stored and crc32c(data) == crc, "%s: wrong CRC" % where)
        need(codec in (0, 1) and planes == 0, "%s: unknown codec" % where)
        data = unzstd(data) if codec else data
        need(len(data) == raw == raw_bytes and xxh3_128(data) == digest, "%s: wrong digest" % where)
        return data

    def tensor(self, name):
        """All bytes of a tensor, row-major."""
        if name not in self.tensors:
            raise NotFound("%s: no such tensor" % name)
        t = self.tensors[self.tensors[name]["alias"] or name]
        bits, shape = BITS[t["dtype"]], t["shape"]
        strides = [math.prod(shape[d + 1:]) for d in range(len(shape))]
        out, have = bytearray(math.prod(shape) * bits // 8), 0
        for rank in sorted({rank for rank, _ in run_boxes(t)}):
            for off, length, data in self.chunks(rank, self.manifest(rank)[1][t["name"]]):
                row, at = (length[-1] if length else 1) * bits // 8, 0
                for index in itertools.product(*[range(n) for n in length[:-1]]):
                    place = zip(off, index + (0,), strides)
                    to = sum((o + i) * stride for o, i, stride in place) * bits // 8
                    out[to:to + row] = data[at:at + row]
                    at += row
                have += len(data)
        need(have == len(out), "%s: its boxes do not cover it" % name)
        return out[8:8 + struct.unpack_from("<Q", out)[0]] if t["flags"] & OBJECT else out

def verify(root, job, name):
    """Reads everything that the checkpoint and its job hold; raises at the first damage."""
    record(root, "ckpt.repo", 1)
    for path in sorted((root / job).rglob("*")):
        part = path.relative_to(root).as_posix()
        if path.is_file() and (part.split("/")[1] != "d" or part.endswith(".h")):
            record(root, part, KINDS.get(path.name))
    ck, held = Checkpoint(root, job, name), []
    for rank in range(ck.world):
        for name, t in ck.manifest(rank)[1].items():
            held += [(name, rank, box[0]) for box in t["boxes"]]
            all(ck.chunks(rank, t)) # reads them
    told = [(name,) + box for name, t in ck.tensors.items() for box in run_boxes(t)]
    need(sorted(told) == sorted(held), "index: other boxes than in the manifests")

def run(root, command, spec=None, tensor=None, to=None):
    if command == "list":
        for job in (p.parent.name for p in sorted(root.glob("*/c"))):
            for epoch, step, name, alive in commits(root, job):
                say("%s@%d epoch %d%s" % (job, step, epoch, "" if alive else " deleted"))
                for t in Checkpoint(root, job, name).tensors.values() if alive else ():
                    say("  %s dtype %d %s" % (t["name"], t["dtype"], list(t["shape"])))
    elif command == "verify":
        verify(root, *find(root, spec))
        say("%s: whole" % spec)
    else:
        pathlib.Path(to).write_bytes(Checkpoint(root, *find(root, spec)).tensor(tensor))

def main(args):
    if len(args) < 2 or COMMANDS.get(args[1]) != len(args):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        run(pathlib.Path(args[0]), *args[1:])
        return 0
    except (NotFound, *WRONG) as e:
        absent = isinstance(e, NotFound)
        say(str(e) if absent else "damaged: %s" % e, sys.stderr)
        return 3 if absent else 1

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
