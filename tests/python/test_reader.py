"""The independent reader against a committed store and one made just now.

    test_reader.py MAKE_STORE

Every tensor is compared with the formula of tests/golden/make_store.c; then single
bits are flipped in every object, and verify must say so.
"""
import functools
import os
import shutil
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


def reader(*args):
    return subprocess.run([sys.executable, os.path.join(TOOLS, "ckpt_read.py"), *args],
                          capture_output=True, text=True, check=False)


def check_store(root, tmp):
    cases = 0
    listed = reader(root, "list")
    assert listed.returncode == 0, listed
    assert "demo@100 epoch 1\n" in listed.stdout and "demo@120 epoch 1 deleted" in listed.stdout
    assert "@110" not in listed.stdout, "an attempt that was given up is listed"
    assert all("  %s dtype" % name in listed.stdout for name, _, _ in TENSORS)
    for spec in ("demo", "demo@100"):
        done = reader(root, "verify", spec)
        assert done.returncode == 0 and "whole" in done.stdout, done
    for n, (name, _, _) in enumerate(TENSORS):
        out = os.path.join(tmp, "out")
        done = reader(root, "extract", "demo", name, out)
        assert done.returncode == 0, (name, done)
        with open(out, "rb") as f:
            assert f.read() == expected(n), name
        cases += 1
    for args, code in ((("verify", "demo@120"), 3), (("verify", "nobody"), 3), (("what",), 2),
                       (("extract", "demo", "absent", os.devnull), 3), ((), 2)):
        done = reader(root, *args)
        assert done.returncode == code, (args, done)
        cases += 1
    return cases


def positions(size):
    """Every byte of a small object, some of a large one: ends and a stride between."""
    step = 1 if size < 160 else max(7, size // 40)
    return sorted(set(range(0, size, step)) | {size - 1})


def check_flips(root, tmp):
    """Flips one bit at a time, in the process, with sums remembered."""
    for name in ("xxh3_128", "crc32c"):
        setattr(ckpt_read, name, functools.lru_cache(4096)(getattr(ckpt_read, name)))
    copy, cases = os.path.join(tmp, "flipped"), 0
    shutil.copytree(root, copy)
    store = ckpt_read.Store(copy)
    name = ckpt_read.find(store, "demo")[1]
    assert ckpt_read.verify(store, "demo", name) == []
    for top, _, files in os.walk(copy):
        for file in files:
            path = os.path.join(top, file)
            with open(path, "rb") as f:
                good = f.read()
            for k, at in enumerate(positions(len(good))):
                bad = bytearray(good)
                bad[at] ^= 1 << k % 8
                with open(path, "wb") as f:
                    f.write(bad)
                assert ckpt_read.verify(store, "demo", name), "%s: byte %d unseen" % (path, at)
                cases += 1
            for cut in (good[:-1], good[:len(good) // 2], b"", good + b"\0"):
                with open(path, "wb") as f:
                    f.write(cut)
                assert ckpt_read.verify(store, "demo", name), "%s: length unseen" % path
                cases += 1
            with open(path, "wb") as f:
                f.write(good)
    assert ckpt_read.verify(store, "demo", name) == []
    return cases


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
    with tempfile.TemporaryDirectory() as tmp:
        made = os.path.join(tmp, "made")
        os.mkdir(made)
        subprocess.run([sys.argv[1], made], check=True)
        cases = check_store(GOLDEN, tmp) + check_store(made, tmp) + check_same(GOLDEN, made)
        cases += check_flips(GOLDEN, tmp)
    print("%d cases" % cases)
    return 0 if cases > 500 else 1


if __name__ == "__main__":
    sys.exit(main())
