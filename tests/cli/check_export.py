"""Compares what `ckpt restore` wrote with what make_jobs saved, by the formula alone.

usage: check_export.py DIR STEP [TENSOR...]   (default: all tensors of the model)"""
import json
import os
import struct
import sys

MODEL = {
    "layers.0.weight": ("F32", [64, 48]), "layers.1.weight": ("BF16", [5, 3, 8]),
    'läyers/"odd" \\ name': ("I64", [7]), "big": ("U8", [12000, 1024]), "scalar": ("F64", []),
    "empty": ("F32", [0, 3]), "locked": ("U8", [100]), "complex": ("U8", [96]),
}
OBJECTS = {"rng@0": 50, "loader/state": 2500}
WIDTH = {"F32": 4, "BF16": 2, "I64": 8, "U8": 1, "F64": 8}


def content(name, step, size):
    """The formula of make_jobs, which repeats after 64 KiB."""
    start = sum(name.encode()) + 7 * step
    period = bytes((start + 31 * i + 17 * (i >> 8)) & 255 for i in range(min(size, 65536)))
    return (period * (size // 65536 + 1))[:size]


def read_file(path):
    """{name: (dtype, shape, bytes)}, metadata; dense and complete as the format demands."""
    with open(path, "rb") as f:
        whole = f.read()
    (n,) = struct.unpack("<Q", whole[:8])
    assert n % 8 == 0, "the data is not aligned"
    header = json.loads(whole[8:8 + n])
    data = whole[8 + n:]
    notes = header.pop("__metadata__", {})
    at = 0
    for name, t in sorted(header.items(), key=lambda x: x[1]["data_offsets"]):
        begin, end = t["data_offsets"]
        assert begin == at, f"{name}: hole or overlap"
        assert begin % WIDTH[t["dtype"]] == 0, f"{name}: not aligned"
        at = end
    assert at == len(data), "bytes behind the last tensor"
    return {k: (t["dtype"], t["shape"], data[slice(*t["data_offsets"])])
            for k, t in header.items()}, notes


def read_all(folder):
    index = os.path.join(folder, "model.safetensors.index.json")
    if not os.path.exists(index):
        return read_file(os.path.join(folder, "model.safetensors"))
    with open(index, encoding="utf-8") as f:
        weight_map = json.load(f)["weight_map"]
    tensors, notes = {}, {}
    for name in sorted(set(weight_map.values())):
        some, more = read_file(os.path.join(folder, name))
        assert all(weight_map[k] == name for k in some), "the index names another file"
        tensors.update(some)
        notes.update(more)
    assert set(tensors) == set(weight_map)
    return tensors, notes


def main():
    folder, step = sys.argv[1], int(sys.argv[2])
    wanted = sys.argv[3:] or list(MODEL) + list(OBJECTS)
    tensors, notes = read_all(folder)
    assert set(tensors) == {w for w in wanted if w in MODEL}, sorted(tensors)
    for name, (dtype, shape, data) in tensors.items():
        assert (dtype, shape) == MODEL[name], (name, dtype, shape)
        size = WIDTH[dtype]
        for n in shape:
            size *= n
        assert data == content(name, step, size), f"{name}: wrong bytes"
    for name in (w for w in wanted if w in OBJECTS):
        with open(os.path.join(folder, "objects", name), "rb") as f:
            assert f.read() == content(name, step, OBJECTS[name]), f"{name}: wrong bytes"
    assert notes["format"] == "pt" and notes["ckpt.step"] == str(step)
    if "complex" in tensors:
        assert notes["ckpt.dtype.complex"] == "C128 [2,3]"
    if len(sys.argv) == 3:
        assert notes["tied"] == "layers.0.weight"
    print(f"{len(tensors)} tensors are right")


if __name__ == "__main__":
    main()
