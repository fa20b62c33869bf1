"""Writes a small transformer with its Adam state as a safetensors file, and compares what
`ckpt` makes of it with an independent idea of the layout.

    make_model.py write FILE
    make_model.py rank FILE DIR RANK    DIR holds rank RANK's part under tp=2,pp=2,dp=2,zero=1
                                        (and gate_up in two halves, padded vocabulary)
    make_model.py same FILE DIR         DIR holds all of it
"""
import json
import struct
import sys

HIDDEN, KV, FFN, VOCABULARY, LAYERS, PADDED = 64, 16, 176, 501, 4, 512


def shapes():
    out = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN),
           "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        front = f"model.layers.{layer}."
        for name in ("q", "o"):
            out[f"{front}self_attn.{name}_proj.weight"] = (HIDDEN, HIDDEN)
        for name in ("k", "v"):
            out[f"{front}self_attn.{name}_proj.weight"] = (KV, HIDDEN)
        out[front + "mlp.fused_gate_up.weight"] = (2 * FFN, HIDDEN)
        out[front + "mlp.down_proj.weight"] = (HIDDEN, FFN)
        out[front + "input_layernorm.weight"] = (HIDDEN,)
    for name in list(out):
        out["optimizer.exp_avg." + name] = out[name]
    out["optimizer.step"] = ()
    return out


def volume(shape):
    n = 1
    for s in shape:
        n *= s
    return n


def values(number, shape):
    """Element i of tensor `number` is a number that no other element has."""
    return [number * 1000003 + i for i in range(volume(shape))]


def write(path):
    header, data, names = {}, b"", sorted(shapes())
    for number, name in enumerate(names):
        shape = shapes()[name]
        part = struct.pack(f"<{volume(shape)}I", *values(number, shape))
        header[name] = {"dtype": "U32", "shape": shape,
                        "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def read(path):
    with open(path, "rb") as f:
        raw = f.read()
    (n,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + n])
    notes = header.pop("__metadata__", {})
    body = raw[8 + n:]
    return {k: (tuple(t["shape"]), list(struct.unpack(
        f"<{volume(t['shape'])}I", body[slice(*t["data_offsets"])]))) for k, t in header.items()}, notes


def rows(matrix, width, first, last):
    return matrix[first * width:last * width]


def split(name, shape, flat, tp):
    """The tensor-parallel part: (shape, elements)."""
    half = lambda n: (n * tp // 2, n * (tp + 1) // 2)
    if "embed_tokens" in name or "lm_head" in name:
        padded = flat + [0] * ((PADDED - VOCABULARY) * HIDDEN)
        return (PADDED // 2, HIDDEN), rows(padded, HIDDEN, *half(PADDED))
    if "fused_gate_up" in name:
        gate, up = rows(flat, HIDDEN, 0, FFN), rows(flat, HIDDEN, FFN, 2 * FFN)
        return (FFN, HIDDEN), rows(gate, HIDDEN, *half(FFN)) + rows(up, HIDDEN, *half(FFN))
    if any(f"{x}_proj" in name for x in "qkv"):
        return (shape[0] // 2, shape[1]), rows(flat, shape[1], *half(shape[0]))
    if "o_proj" in name or "down_proj" in name:
        first, last = half(shape[1])
        return (shape[0], shape[1] // 2), [x for r in range(shape[0])
                                           for x in flat[r * shape[1] + first:r * shape[1] + last]]
    return shape, flat


def stage(name):
    """The pipeline stage that has it; None: both."""
    if ".layers." in name:
        return int(name.split(".layers.")[1].split(".")[0]) * 2 // LAYERS
    if "embed_tokens" in name:
        return 0
    return 1 if "lm_head" in name or "model.norm" in name else None


def rank(path, folder, number):
    whole, _ = read(path)
    part, notes = read(folder + "/model.safetensors")
    tp, pp, dp = number % 2, number // 2 % 2, number // 4
    expected = {}
    for name, (shape, flat) in whole.items():
        if stage(name) not in (None, pp):
            continue
        shape, flat = split(name, shape, flat, tp)
        if name.startswith("optimizer.") and shape:
            each = -(-len(flat) // 2)
            flat = flat[dp * each:(dp + 1) * each]
            shape = (len(flat),)
        expected[name] = (shape, flat)
    assert set(part) == set(expected), set(part) ^ set(expected)
    for name, want in expected.items():
        assert part[name] == want, name
        assert "ckpt.shard." + name in notes
    print(len(expected), "tensors")


def same(path, folder):
    assert read(path)[0] == read(folder + "/model.safetensors")[0]


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2])
    elif sys.argv[1] == "rank":
        rank(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        same(*sys.argv[2:4])
