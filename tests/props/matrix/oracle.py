"""What every rank must hold, by numpy and arithmetic of its own; nothing of ckpt is used here.

Reads cases (matrix_words.c writes them): two layouts by name and number, as model_topology.h explains
them.  Makes up every element and answers with the memories of all ranks of the first layout.
Later come those of the second as they were restored: "ok", or which byte is not what it must be."""
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
    return np.concatenate([chunk(chunk(x, axis, factor, f, unit), axis, n, i, unit)
                           for f in range(factor)], axis)

def on_stage(t, o, stage, x):
    """What of the tensor is on a pipeline stage; None: nothing."""
    if t.stage == "stack":
        return strided(x, 0, o.pp, stage, t.unit[0], o.vp)
    if t.stage == "layer":
        n = o.pp * o.vp
        stages = (next(c for c in range(n) if t.layer < t.layers * (c + 1) // n) % o.pp,)
    else:
        stages = {"first": (0,), "last": (o.pp - 1,), "ends": (0, o.pp - 1)}.get(t.stage, (stage,))
    return x if stage in stages else None

def zero_cuts(o, t):
    """(cut by ZeRO, flat)"""
    cut = t.role != "fixed" and o.zero >= {"param": 3, "grad": 2, "optim": 1}[t.cls]
    return cut, cut and o.cut != "box" and t.kind != "blocked"

def in_bucket(o, t):
    """Not what several stages or tensor ranks hold."""
    whole = t.dim >= len(t.shape) and (o.etp if t.role in EXPERTS else o.tp) > 1
    return zero_cuts(o, t)[1] and o.cut == "bucket" and not whole and \
        not (o.pp > 1 and t.stage in ("ends", "all"))

def by_data(t, o, x, n, i):
    cut, flat = zero_cuts(o, t)
    dim = int(t.stage == "stack")
    return chunk(x, dim, n, i, t.unit[dim]) if cut and not flat and dim < x.ndim else x

def dense(t, o, s, x):
    if t.role == "whole" or t.dim >= x.ndim:
        return by_data(t, o, x, o.ds, s.d)
    cut, flat = zero_cuts(o, t)
    by_tensor = t.dim, o.tp, s.t, t.unit[t.dim]
    if cut and not flat and o.strided and t.dim == (t.stage == "stack"):
        return chunk(strided(x, t.dim, o.ds, s.d, t.unit[t.dim], o.tp), *by_tensor)
    return by_data(t, o, chunk(x, *by_tensor), o.ds, s.d)

def of_experts(t, o, s, x):
    if t.role == "expert" and s.e != t.expert // up(t.experts, o.ep):
        return None
    x = chunk(x, t.edim, o.ep, s.e, t.unit[t.edim]) if t.role == "experts" else x
    x = chunk(x, t.dim, o.etp, s.u, t.unit[t.dim]) if t.dim < x.ndim else x
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
        x = np.concatenate([x, np.full((-len(x) % (o.tp * o.vpad),) + x.shape[1:], -1)])
    x = [dense(t, o, s, g) for g in (np.split(x, np.cumsum(t.group)[:-1]) if t.group else [x])]
    return x[0] if len(x) == 1 else np.concatenate(x), o.ds, s.d

def places(m, shape):
    """The place of each element of a local array in its memory, in elements."""
    at, step = np.zeros(shape, np.int64), m.first
    for d in (d for d in reversed(m.perm) if d != m.wide):
        i = np.arange(shape[d]) * step
        i = i[::-1] if m.negative >> d & 1 else i
        at += i[(slice(None),) + (None,) * (len(shape) - 1 - d)]
        step = step * shape[d] + m.gap[d]
    return at

def bucket(o, members):
    """Tensors behind one another in one memory; yields (tensor, elements, places)."""
    starts, total = [], 0
    for t, x, n, i in members:
        starts.append(up(total, o.align) * o.align)
        total = starts[-1] + x.size
    each = up(total, o.align * n) * o.align
    for (t, x, n, i), start in zip(members, starts):
        x = x.ravel()[max(i * each - start, 0):max((i + 1) * each - start, 0)]
        yield t, x, np.arange(len(x)) + max(start - i * each, 0)

def holdings(o, rank):
    """All that a rank has: (memory number, tensor, elements, places, bytes before)."""
    held, buckets = [], {}
    for k, t in enumerate(o.tensors):
        x, n, i = local_array(t, o, rank) or (None, 1, 0)
        if x is not None and in_bucket(o, t):
            buckets.setdefault((t.cls, t.dtype, t.role in EXPERTS), []).append((t, x, n, i))
        elif x is not None and zero_cuts(o, t)[1]:
            x = chunk(x.ravel(), 0, n, i, t.unit[-1])
            held.append((k, t, x, np.arange(len(x)), t.lead))
        elif x is not None:
            held.append((k, t, x.ravel(), places(t, x.shape).ravel(), t.lead))
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
    for t in case.layouts[0].tensors:
        shape = t.shape + [t.bits // 8 or t.bits]
        v = noise.integers(0, 256 if t.bits >= 8 else 2, shape, np.uint8)
        if t.wide < len(t.shape) and t.volume:
            v = np.repeat(np.take(v, [0], t.wide), t.shape[t.wide], t.wide)
        case.values[t.name] = v.reshape(t.volume, v.shape[-1])
    case.values.update({t.name: case.values[t.tied] for t in case.layouts[0].tensors if t.tied})
    return noise

def verdict(case, o, got):
    want = memories(case, o, np.full(len(got), UNTOUCHED, np.uint8))
    if np.array_equal(want, got):
        return "ok"
    at = np.flatnonzero(want != got)[0]
    k = np.searchsorted(o.starts, at, "right") - 1
    rank = np.searchsorted(np.cumsum(o.memories), k, "right")
    return f"WRONG rank {rank}, memory {k - sum(o.memories[:rank])}, byte {at - o.starts[k]} of " \
           f"{o.bytes[k]}: {got[at]:#x}, must be {want[at]:#x}; {sum(want != got)} bytes differ"

def value(text):
    """A number, a list (each element with a comma behind it), or a word."""
    listed = text.endswith(",") or not text
    return int(text) if text.isdigit() else list(map(int, text.split(",")[:-1])) if listed else text

def main():
    cases, pipe = {}, sys.stdout.buffer
    for line in sys.stdin.buffer:
        kind, *words = line.decode().split()
        f = Record(**{k: value(v) for k, _, v in (w.partition("=") for w in words)})
        if kind == "case":
            case = cases[f.id] = Record(layouts=[], seed=f.seed)
        elif kind == "layout":
            case.layouts.append(Record(**vars(f), tensors=[]))
        elif kind == "tensor":
            case.layouts[-1].tensors.append(f)
        elif kind == "make":
            noise = make_values(case, np.random.default_rng(case.seed))
            junk = noise.integers(0, 256, sum(case.layouts[0].bytes), np.uint8)
            pipe.write(memories(case, case.layouts[0], junk).tobytes())
        else:
            case = cases.pop(f.id)
            got = np.frombuffer(sys.stdin.buffer.read(sum(case.layouts[1].bytes)), np.uint8)
            pipe.write(verdict(case, case.layouts[1], got).encode() + b"\n")
        pipe.flush()

main()
