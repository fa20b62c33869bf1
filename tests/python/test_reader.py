"""The independent reader against a committed store and one made just now.

    test_reader.py MAKE_STORE

Every tensor is compared with the formula of tests/golden/make_store.c; the commands run
where nothing but python3 and zstd exists; single bits are flipped in every object, and
objects lie with right sums, and verify must say so.
"""
import functools
import hashlib
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
TOOLS = os.path.join(HERE, "..", "..", "tools")
GOLDEN = os.path.join(HERE, "..", "golden", "v1", "store")
sys.path.insert(0, TOOLS)
import ckpt_read  # noqa: E402

# Name, bytes of an element (U4: filled by bytes), elements; the order is the declaration's.
TENSORS = [
    ("embed/weight", 2, 129 * 64), ("head/weight", 2, 129 * 64), ("layers.0/w", 4, 96 * 80),
    ("layers.0/cube", 2, 3 * 5 * 7), ("optim/flat", 4, 40001), ("q4", 1, 6 * 16 // 2),
    ("scales", 1, 10), ("locked", 1, 99), ("step", 8, 1), ("empty", 2, 0), ("rng/0", 1, 108),
    ("wide", 4, 3 * 450000)]


def expected(n):
    name, width, count = TENSORS[n]
    if name == "head/weight":
        n = 0
    if name == "rng/0":
        return bytes((b * 7 + n) & 255 for b in range(8, 8 + 37))
    rule = (lambda i: i // 1000) if name == "wide" else (lambda i: i * 7 + n)
    mask = (1 << 8 * width) - 1
    return b"".join((rule(i) & mask).to_bytes(width, "little") for i in range(count))


class Bare:
    """A place that has the reader, a store, python3 without packages, zstd and no more."""

    def __init__(self, tmp, store):
        self.store = os.path.join(tmp, "bare-store")
        self.place = os.path.join(tmp, "bare")
        os.makedirs(os.path.join(self.place, "bin"))
        shutil.copytree(store, self.store)
        for file in ("ckpt_read.py", "ckpt_read_xxh3.py"):
            shutil.copy(os.path.join(TOOLS, file), self.place)
        for name, path in (("python3", sys.executable), ("zstd", shutil.which("zstd"))):
            os.symlink(os.path.realpath(path), os.path.join(self.place, "bin", name))

    def run(self, *args):
        return subprocess.run(["bin/python3", "-S", "-B", "ckpt_read.py", *args], cwd=self.place,
                              env={"PATH": os.path.join(self.place, "bin")},
                              capture_output=True, text=True, check=False)


def check_commands(tmp):
    """What the commands print and return, where no other program can be found."""
    bare = Bare(tmp, GOLDEN)
    cases, out = 0, os.path.join(tmp, "out")
    listed = bare.run(bare.store, "list")
    assert listed.returncode == 0, listed
    assert "demo@100 epoch 1\n" in listed.stdout and "demo@120 epoch 1 deleted" in listed.stdout
    assert "@110" not in listed.stdout, "an attempt that was given up is listed"
    assert all("  %s dtype" % name in listed.stdout for name, _, _ in TENSORS)
    done = bare.run(bare.store, "verify", "demo")
    assert done.returncode == 0 and done.stdout == "demo: whole\n", done
    for spec, n in (("demo@100", 11), ("demo", 1)):
        done = bare.run(bare.store, "extract", spec, TENSORS[n][0], out)
        assert done.returncode == 0, done
        with open(out, "rb") as f:
            assert f.read() == expected(n), TENSORS[n]
        cases += 1
    for args, code in ((("verify", "demo@120"), 3), (("verify", "nobody"), 3), (("what",), 2),
                       (("extract", "demo", "absent", os.devnull), 3), ((), 2)):
        done = bare.run(bare.store, *args)
        assert done.returncode == code and done.stderr, (args, done)
        cases += 1
    for commit in os.listdir(os.path.join(bare.store, "demo", "c")):
        with open(os.path.join(bare.store, "demo", "c", commit), "ab") as f:
            f.write(b"x")
    done = bare.run(bare.store, "verify", "demo")
    assert done.returncode == 1 and "damaged: demo/c/" in done.stderr, done
    # Without zstd the coded packs cannot be read, which is not silence.
    os.unlink(os.path.join(bare.place, "bin", "zstd"))
    assert bare.run(GOLDEN, "verify", "demo").returncode == 1
    return cases + 4


def check_tensors(root):
    ck = ckpt_read.Checkpoint(root, *ckpt_read.find(root, "demo@100"))
    for n, (name, _, _) in enumerate(TENSORS):
        assert ck.tensor(name) == expected(n), name
    return len(TENSORS)


def damage(root):
    """What verify says, or nothing."""
    try:
        ckpt_read.verify(root, *ckpt_read.find(root, "demo"))
        return ""
    except (ckpt_read.NotFound, *ckpt_read.WRONG) as e:
        return str(e) or repr(e)


def positions(size):
    """Some bytes of an object: a stride that meets every kind of field, and the ends."""
    step = 3 if size < 160 else max(13, size // 60)
    return sorted(set(range(0, size, step)) | {size - 1})


def check_flips(golden, tmp):
    """Flips one bit at a time, and cuts, in every object."""
    root, cases = pathlib.Path(tmp, "flipped"), 0
    shutil.copytree(golden, root)
    assert damage(root) == ""
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        good = path.read_bytes()
        for k, at in enumerate(positions(len(good))):
            bad = bytearray(good)
            bad[at] ^= 1 << k % 8
            path.write_bytes(bad)
            assert damage(root), "%s: byte %d unseen" % (path, at)
            cases += 1
        for cut in (good[:-1], good[:len(good) // 2], b"", good + b"\0"):
            path.write_bytes(cut)
            assert damage(root), "%s: length unseen" % path
            cases += 1
        path.write_bytes(good)
    assert damage(root) == ""
    return cases


class Liar:
    """A store whose sums are all right, and one thing in it is not."""

    def __init__(self, golden, tmp, name):
        self.root = pathlib.Path(tmp, name)
        shutil.copytree(golden, self.root)
        self.ck = ckpt_read.Checkpoint(self.root, *ckpt_read.find(self.root, "demo"))

    def path(self, n, what):
        return self.root / self.ck.key(n, what)

    def seal_index(self, data):
        """Puts the index back, and what the commit says of it."""
        commit = self.root / "demo" / "c" / self.ck.name
        record = bytearray(commit.read_bytes())
        at = 18 + struct.unpack_from("<H", record, 16)[0] + 108
        size = struct.unpack_from("<I", record, at)[0]
        record[at + 4:at + 36] = hashlib.sha256(data[:size]).digest()
        record[-16:] = ckpt_read.xxh3_128(bytes(record[:-16]))
        commit.write_bytes(record)
        self.path(0, "i0").write_bytes(data)


def change(data, block, what, new):
    """Changes a part of the block, a slice, and the block's digest in the header."""
    at = data.index(ckpt_read.xxh3_128(bytes(data[block])))
    where = data.index(what, block.start)
    data[where:where + len(new)] = new
    data[at:at + 16] = ckpt_read.xxh3_128(bytes(data[block]))


def check_index_lies(golden, tmp):
    """A run that names another rank, with all sums right."""
    liar = Liar(golden, tmp, "lying-index")
    data = bytearray(liar.path(0, "i0").read_bytes())
    size = struct.unpack_from("<I", data, 12)[0]
    start = size + 60 * liar.ck.world
    run = liar.ck.tensors["wide"]["runs"][0]
    old = struct.pack("<IIIIQQ", *run[:6])
    change(data, slice(start, None), old + struct.pack("<4Q", *run[6], *run[7]),
           struct.pack("<II", run[0], run[1] ^ 1))
    liar.seal_index(data)
    assert "other boxes" in damage(liar.root), damage(liar.root)
    return 1


def check_chunk_twice(golden, tmp):
    """Two boxes of a manifest that claim one chunk, with all sums right."""
    liar = Liar(golden, tmp, "chunk-twice")
    rank, (sha, size, *_) = 0, liar.ck.ranks[0]
    data = bytearray(liar.path(rank, "0.m").read_bytes())
    boxes = [b for t in liar.ck.manifest(rank)[1].values() for b in t["boxes"]]
    box = max(boxes, key=lambda b: b[2])
    what = struct.pack("<QQ", box[2], len(box[3])) + box[3][0]
    change(data, slice(size, None), what, struct.pack("<Q", box[2] - 1))
    data[size - 16:size] = ckpt_read.xxh3_128(bytes(data[:size - 16]))
    liar.path(rank, "0.m").write_bytes(data)
    index = bytearray(liar.path(0, "i0").read_bytes())
    head = struct.unpack_from("<I", index, 12)[0]
    change(index, slice(head, head + 60 * liar.ck.world), sha, hashlib.sha256(data[:size]).digest())
    liar.seal_index(index)
    assert "exactly once" in damage(liar.root), damage(liar.root)
    return 1


def check_crc_lies(golden, tmp):
    """A pack whose head gives a chunk another CRC, with the head's own sums right."""
    liar = Liar(golden, tmp, "lying-crc")
    _, slot, n, pid = liar.ck.manifest(0)[0][0]
    path = liar.path(0, "0-%d-%s" % (slot, pid.hex()))
    data = bytearray(path.read_bytes())
    data[128 + 16] ^= 1
    data[120:124] = struct.pack("<I", ckpt_read.crc32c(bytes(data[128:-(-(n + 4) // 128) * 4096])))
    data[124:128] = struct.pack("<I", ckpt_read.crc32c(bytes(data[:124])))
    path.write_bytes(data)
    assert "chunk 0: wrong CRC" in damage(liar.root), damage(liar.root)
    return 1


def check_same(golden, made):
    """The encoders still write what they wrote; packs coded by another zstd may differ."""
    cases = 0
    for top, _, files in os.walk(golden):
        for file in files:
            path = os.path.join(top, file)
            other = os.path.join(made, os.path.relpath(path, golden))
            assert os.path.exists(other), other
            if not file.startswith("1-0-"):
                with open(path, "rb") as a, open(other, "rb") as b:
                    assert a.read() == b.read(), "%s is written differently" % file
            cases += 1
    return cases


def main():
    if not shutil.which("zstd"):
        print("SKIP: no zstd command")
        return 77
    for name in ("xxh3_128", "crc32c", "unzstd"):
        setattr(ckpt_read, name, functools.lru_cache(4096)(getattr(ckpt_read, name)))
    with tempfile.TemporaryDirectory() as tmp:
        made = os.path.join(tmp, "made")
        os.mkdir(made)
        subprocess.run([sys.argv[1], made], check=True)
        cases = check_commands(tmp) + check_same(GOLDEN, made)
        cases += check_tensors(pathlib.Path(GOLDEN)) + check_tensors(pathlib.Path(made))
        assert damage(pathlib.Path(made)) == ""
        cases += check_index_lies(GOLDEN, tmp) + check_chunk_twice(GOLDEN, tmp)
        cases += check_crc_lies(GOLDEN, tmp) + check_flips(GOLDEN, tmp)
    print("%d cases" % cases)
    return 0 if cases > 500 else 1


if __name__ == "__main__":
    sys.exit(main())
