"""What every rank must hold, by numpy and arithmetic of its own; nothing of ckpt is used here.

Reads cases from standard input (matrix_case.c writes them): two layouts by name and number, as
topology.h explains them.  For each case it makes up every element and answers with the memories
of all ranks of the first layout.  Later come the memories of the second as they were restored;
what each byte must be follows from elements and layout, and the answer is a line, "ok" or where
they differ."""
import sys
from types import SimpleNamespace as Record

import numpy as np

UNTOUCHED = 0xa5
EXPERTS = ("expert", "experts")


def up(n, by):
    return -(-n // by)


def chunk(x, axis, n, i, unit):
    """Part i of n, in equal parts rounded up to units; the last ones may be short or empty."""
    size = up(up(x.shape[axis], unit), n) * unit
    return x[(slice(None),) * axis + (slice(i * size, (i + 1) * size),)]


def strided(x, axis, n, i, unit, factor):
    """Part i of n of each of `factor` parts."""
    parts = [chunk(chunk(x, axis, factor, f, unit), axis, n, i, unit) for f in range(factor)]
    return np.concatenate(parts, axis)


def on_stage(t, o, stage, x):
    """What of the tensor is on a pipeline stage; None: nothing."""
    if t.stage == "stack":
        return strided(x, 0, o.pp, stage, t.unit[0], o.vp)
    if t.stage == "layer":
        chunks = o.pp * o.vp
        of = next(c for c in range(chunks) if t.layer < t.layers * (c + 1) // chunks)
        return x if of % o.pp == stage else None
    ends = {"first": (0,), "last": (o.pp - 1,), "ends": (0, o.pp - 1)}
    return x if stage in ends.get(t.stage, range(o.pp)) else None


def zero_cuts(o, t):
    """(cut by ZeRO, flat)"""
    cut = t.role != "fixed" and o.zero >= {"param": 3, "grad": 2, "optim": 1}[t.cls]
    return cut, cut and o.cut != "box" and t.kind != "blocked"


def in_bucket(o, t):
    whole = t.dim >= len(t.shape) and (o.etp if t.role in EXPERTS else o.tp) > 1
    stages = o.pp > 1 and t.stage in ("ends", "all")
    return zero_cuts(o, t)[1] and o.cut == "bucket" and not whole and not stages


def by_data(t, o, x, n, i):
    cut, flat = zero_cuts(o, t)
    dim = int(t.stage == "stack")
    return chunk(x, dim, n, i, t.unit[dim]) if cut and not flat and dim < x.ndim else x


def dense(t, o, s, x):
    if t.role == "whole" or t.dim >= x.ndim:
        return by_data(t, o, x, o.ds, s.d)
    cut, flat = zero_cuts(o, t)
    if cut and not flat and o.strided and t.dim == (t.stage == "stack"):
        x = strided(x, t.dim, o.ds, s.d, t.unit[t.dim], o.tp)
        return chunk(x, t.dim, o.tp, s.t, t.unit[t.dim])
    return by_data(t, o, chunk(x, t.dim, o.tp, s.t, t.unit[t.dim]), o.ds, s.d)


def of_experts(t, o, s, x):
    if t.role == "expert" and s.e != t.expert // up(t.experts, o.ep):
        return None
    if t.role == "experts":
        x = chunk(x, t.edim, o.ep, s.e, t.unit[t.edim])
    if t.dim < x.ndim:
        x = chunk(x, t.dim, o.etp, s.u, t.unit[t.dim])
    return by_data(t, o, x, s.edp, s.x)


def local_array(t, o, rank):
    """(numbers of the elements that a rank has, as its local array, -1: padding; of how many
    data-parallel ranks; which of them).  None: nothing."""
    x = np.arange(t.volume).reshape(t.shape)
    if t.role == "fixed":
        mine = [i for i in range(t.parts) if (rank - o.shift - i) % o.world < o.copies]
        parts = [chunk(x, 0, t.parts, i, t.unit[0]) if x.ndim else x for i in mine]
        return (np.concatenate(parts) if x.ndim else x, 1, 0) if parts else None
    stage_ranks = o.dr * o.ds * o.tp
    stage, q = (rank % o.pp, rank // o.pp) if o.inner else divmod(rank, stage_ranks)
    if t.tied or rank >= o.pp * stage_ranks or (x := on_stage(t, o, stage, x)) is None:
        return None
    s = Record(edp=stage_ranks // (o.ep * o.etp))
    _, s.d, s.t = np.unravel_index(q, (o.dr, o.ds, o.tp))
    s.x, s.e, s.u = np.unravel_index(q, (s.edp, o.ep, o.etp))
    if t.role in EXPERTS:
        x = of_experts(t, o, s, x)
        return None if x is None else (x, s.edp, s.x)
    if t.role == "vocab":
        rows = up(len(x), o.tp * o.vpad) * o.tp * o.vpad
        x = np.concatenate([x, np.full((rows - len(x),) + x.shape[1:], -1)])
    x = [dense(t, o, s, g) for g in (np.split(x, np.cumsum(t.group)[:-1]) if t.group else [x])]
    return x[0] if len(x) == 1 else np.concatenate(x), o.ds, s.d


def places(m, shape):
    """The place of each element of a local array in its memory, in elements."""
    at, step = np.zeros(shape, np.int64), m.first
    for d in reversed(m.perm):
        if d == m.wide:
            continue
        i = np.arange(shape[d])[(slice(None),) + (None,) * (len(shape) - 1 - d)] * step
        at += i[::-1] if m.negative >> d & 1 else i
        step = step * shape[d] + m.gap[d]
    return at


def bucket(o, members):
    """Tensors behind one another in one memory; yields (tensor, elements, places)."""
    start, total, laid = 0, 0, []
    for t, x, n, i in members:
        start = up(total, o.align) * o.align
        total = start + x.size
        laid.append((t, x.ravel(), start))
    each = up(total, o.align * n) * o.align
    for t, x, start in laid:
        x = x[max(i * each - start, 0):max((i + 1) * each - start, 0)]
        yield t, x, np.arange(len(x)) + max(start - i * each, 0)


def holdings(o, rank):
    """All that a rank has: (memory number, tensor, elements, places, bytes before)."""
    held, buckets = [], {}
    for k, (t, m) in enumerate(zip(o.tensors, o.memory)):
        local = local_array(t, o, rank)
        if local is None:
            continue
        x, n, i = local
        if in_bucket(o, t):
            key = (t.cls, t.dtype, t.role in EXPERTS)
            buckets.setdefault(key, []).append((t, x, n, i))
        elif zero_cuts(o, t)[1]:
            x = chunk(x.ravel(), 0, n, i, t.unit[-1])
            held.append((k, t, x, np.arange(len(x)), m.lead))
        else:
            held.append((k, t, x.ravel(), places(m, x.shape).ravel(), m.lead))
    for k, members in enumerate(buckets.values(), len(o.tensors)):
        held += [(k, *b, 0) for b in bucket(o, members)]
    return held


def put(memory, bits, at, values):
    """Elements of so many bits to their places in a memory."""
    n = len(memory) * 8 // bits
    if bits >= 8:
        memory[:n * bits // 8].reshape(-1, bits // 8)[at] = values
    elif len(at):
        one = np.unpackbits(memory, bitorder="little")
        one[:n * bits].reshape(-1, bits)[at] = values
        memory[:] = np.packbits(one, bitorder="little")


def memories(case, o, whole):
    """Lays the elements into the memories of all ranks; o.bytes: their sizes, in order."""
    o.starts = np.cumsum([0] + o.bytes)
    covered = {t.name: np.full(t.volume, bool(t.tied)) for t in o.tensors}
    for rank in range(o.world):
        for k, t, x, at, lead in holdings(o, rank):
            k += sum(o.memories[:rank])
            at, x = at[x >= 0], x[x >= 0]
            put(whole[o.starts[k] + lead:o.starts[k + 1]], t.bits, at, case.values[t.name][x])
            covered[t.name][x] = True
    assert all(c.all() for c in covered.values()), "the case has a hole"
    return whole


def make_values(case, noise):
    """Elements as rows of bytes, of bits for less than a byte."""
    case.values = {}
    for t, m in zip(case.layouts[0].tensors, case.layouts[0].memory):
        v = noise.integers(0, 256 if t.bits >= 8 else 2, t.shape + [t.bits // 8 or t.bits],
                           np.uint8)
        if m.wide < len(t.shape) and t.volume:
            v = np.repeat(np.take(v, [0], m.wide), t.shape[m.wide], m.wide)
        case.values[t.name] = v.reshape(t.volume, v.shape[-1])
    case.values.update({t.name: case.values[t.tied] for t in case.layouts[0].tensors if t.tied})


def verdict(case, o, got):
    want = memories(case, o, np.full(len(got), UNTOUCHED, np.uint8))
    if np.array_equal(want, got):
        return "ok"
    at = np.flatnonzero(want != got)[0]
    k = np.searchsorted(o.starts, at, "right") - 1
    rank = np.searchsorted(np.cumsum(o.memories), k, "right")
    return f"WRONG rank {rank} of {o.world}, memory {k - sum(o.memories[:rank])}, byte " \
           f"{at - o.starts[k]} of {o.bytes[k]}: {got[at]:#x}, must be {want[at]:#x}; " \
           f"{np.count_nonzero(want != got)} bytes differ"


def value(text):
    """A list (each element with a comma behind it), a number, or a word."""
    if text.endswith(",") or not text:
        return [int(n) for n in text.split(",")[:-1]]
    return int(text) if text.isdigit() else text


def main():
    cases, case, pipe = {}, None, sys.stdout.buffer
    for line in sys.stdin.buffer:
        kind, *words = line.decode().split()
        f = Record(**{k: value(v) for k, _, v in (w.partition("=") for w in words)})
        if kind == "case":
            case = cases[f.id] = Record(layouts=[], seed=f.seed)
        elif kind == "layout":
            case.layouts.append(Record(**vars(f), tensors=[], memory=[]))
        elif kind == "tensor":
            case.layouts[-1].tensors.append(f)
            case.layouts[-1].memory.append(f)
        elif kind == "make":
            noise = np.random.default_rng(case.seed)
            make_values(case, noise)
            junk = noise.integers(0, 256, sum(case.layouts[0].bytes), np.uint8)
            pipe.write(memories(case, case.layouts[0], junk).tobytes())
        else:
            case = cases.pop(f.id)
            got = sys.stdin.buffer.read(sum(case.layouts[1].bytes))
            pipe.write(verdict(case, case.layouts[1], np.frombuffer(got, np.uint8)).encode() + b"\n")
        pipe.flush()


main()
