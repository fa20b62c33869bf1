"""Pieces from a mesh, against PyTorch's own DTensor arithmetic.

    test_torch_layout.py LIBCKPT.SO

For random shapes, meshes and placements (Shard, Replicate, _StridedShard, several axes on
one dimension, uneven and empty shards) the tensor 0, 1, 2, ... is split by torch's own
placements, and each local tensor must be what ckpt_mesh_pieces says, element by element;
so must shape and offset of compute_local_shape_and_global_offset.  The same for FSDP2 over
tensor parallelism (fully_shard's placements), padded shards (torch's with_padding) and
flat ranges of a local tensor (ZeRO).

The interpreter is CKPT_TORCH_PYTHON, or any python3 of PATH that has torch.
"""
import ctypes
import os
import random
import shutil
import subprocess
import sys

SKIPPED = 77
CASES = 3000
DIMS_MAX = 16
F32 = 12
REPLICATE, SHARD, STRIDED = 0, 1, 2


def find_torch():
    """The first interpreter that imports torch with its tensor placements."""
    probe = "import torch, torch.distributed.tensor.placement_types as p; p._StridedShard"
    names = ["python3"] + [f"python3.{minor}" for minor in range(8, 20)]
    found = [os.environ.get("CKPT_TORCH_PYTHON")]
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        found += [shutil.which(name, path=folder) for name in names]
    for python in dict.fromkeys(filter(None, found)):
        if subprocess.run([python, "-c", probe], capture_output=True, check=False).returncode == 0:
            return python
    return None


class Placement(ctypes.Structure):
    _fields_ = [("place", ctypes.c_uint32), ("dim", ctypes.c_uint32),
                ("split_factor", ctypes.c_uint32),
                ("section", ctypes.POINTER(ctypes.c_uint64)), ("section_count", ctypes.c_uint32)]


class Mesh(ctypes.Structure):
    _fields_ = [("ndim", ctypes.c_uint32), ("size", ctypes.POINTER(ctypes.c_uint32)),
                ("coord", ctypes.POINTER(ctypes.c_uint32)),
                ("placement", ctypes.POINTER(Placement)),
                ("padded", ctypes.POINTER(ctypes.c_uint64))]


class Piece(ctypes.Structure):
    _fields_ = [("off", ctypes.c_uint64 * DIMS_MAX), ("len", ctypes.c_uint64 * DIMS_MAX),
                ("offset_bytes", ctypes.c_uint64), ("stride", ctypes.c_int64 * DIMS_MAX),
                ("replica", ctypes.c_uint32), ("replica_count", ctypes.c_uint32)]


class Flat(ctypes.Structure):
    _fields_ = [("ndim", ctypes.c_uint32), ("dtype", ctypes.c_uint32),
                ("boxes", ctypes.POINTER(Piece)), ("box_count", ctypes.c_size_t),
                ("start", ctypes.c_uint64), ("count", ctypes.c_uint64)]


class Library:
    def __init__(self, path):
        self.lib = ctypes.CDLL(path)
        self.lib.ckpt_error.restype = ctypes.c_char_p

    def mesh_pieces(self, size, coord, places, shape, padded=None):
        """places: (kind, dim, split factor) for each axis."""
        n = len(size)
        u32 = ctypes.c_uint32 * max(n, 1)
        u64 = ctypes.c_uint64 * max(len(shape), 1)
        placement = (Placement * max(n, 1))(*[Placement(*p, None, 0) for p in places])
        mesh = Mesh(n, u32(*size), u32(*coord), placement, u64(*padded) if padded else None)
        pieces, count = (Piece * 4096)(), ctypes.c_size_t()
        status = self.lib.ckpt_mesh_pieces(ctypes.byref(mesh), len(shape), u64(*shape), F32,
                                           pieces, ctypes.c_size_t(4096), ctypes.byref(count))
        assert status == 0, self.lib.ckpt_error()
        return pieces, count.value

    def flat_pieces(self, boxes, box_count, ndim, start, count):
        flat = Flat(ndim, F32, boxes, box_count, start, count)
        pieces, n = (Piece * 16384)(), ctypes.c_size_t()
        status = self.lib.ckpt_flat_pieces(ctypes.byref(flat), pieces, ctypes.c_size_t(16384),
                                           ctypes.byref(n))
        assert status == 0, self.lib.ckpt_error()
        return pieces, n.value


def fill(pieces, count, whole, room):
    """What the pieces put where, in a buffer of `room` elements; -1 where nothing lies."""
    import torch
    memory = torch.full((room,), -1, dtype=torch.int64)
    ndim = whole.dim()
    for piece in pieces[:count]:
        box = tuple(slice(piece.off[d], piece.off[d] + piece.len[d]) for d in range(ndim))
        assert piece.offset_bytes % 4 == 0
        target = torch.as_strided(memory, [piece.len[d] for d in range(ndim)],
                                  [piece.stride[d] for d in range(ndim)],
                                  piece.offset_bytes // 4)
        assert bool((target == -1).all()), "two pieces in one place"
        target.copy_(whole[box])
    return memory


class Check:
    def __init__(self, library, seed):
        self.ckpt, self.random = library, random.Random(seed)
        self.seen = dict.fromkeys(["strided", "one dim twice", "uneven", "empty", "replicated",
                                   "scalar", "fsdp over tp", "padded", "flat"], 0)

    def split(self, whole, size, coord, placements):
        """torch's own way from the whole to the local tensor."""
        from torch.distributed.tensor.placement_types import Replicate
        local = whole
        for axis, placement in enumerate(placements):
            if not isinstance(placement, Replicate):
                shards, _ = placement._split_tensor(local, size[axis], with_padding=False)
                local = shards[coord[axis]]
        return local

    def compare(self, shape, size, coord, places):
        import torch
        from torch.distributed.tensor._utils import _compute_local_shape_and_global_offset
        from torch.distributed.tensor.placement_types import Replicate, Shard, _StridedShard
        placements = [Replicate() if kind == REPLICATE else
                      Shard(dim) if kind == SHARD else _StridedShard(dim, split_factor=factor)
                      for kind, dim, factor in places]
        whole = torch.arange(torch.Size(shape).numel()).reshape(shape)
        local = self.split(whole, size, coord, placements)
        pieces, count = self.ckpt.mesh_pieces(size, coord, places, shape)
        memory = fill(pieces, count, whole, local.numel())
        assert torch.equal(memory, local.reshape(-1)), (shape, size, coord, places)
        local_shape, offset = _compute_local_shape_and_global_offset(shape, size, list(coord),
                                                                     placements)
        assert tuple(local.shape) == tuple(local_shape)
        if local.numel() > 0 and shape:
            assert tuple(min(p.off[d] for p in pieces[:count]) for d in range(len(shape))) \
                == tuple(offset), (shape, size, coord, places)
        copies = [n for n, (kind, _, _) in zip(size, places) if kind == REPLICATE]
        for piece in pieces[:count]:
            assert piece.replica_count == int(torch.tensor(copies + [1]).prod())
        self.count(shape, places, local, size)
        self.flat(pieces, count, whole, local)

    def count(self, shape, places, local, size):
        dims = [dim for kind, dim, _ in places if kind != REPLICATE]
        self.seen["strided"] += any(kind == STRIDED for kind, _, _ in places)
        self.seen["one dim twice"] += len(set(dims)) < len(dims)
        self.seen["empty"] += local.numel() == 0
        self.seen["replicated"] += any(kind == REPLICATE for kind, _, _ in places)
        self.seen["scalar"] += not shape
        self.seen["uneven"] += any(kind == SHARD and shape[dim] % n for n, (kind, dim, _)
                                   in zip(size, places))

    def flat(self, pieces, count, whole, local):
        """A rank's part of the flattened local tensor, as ZeRO cuts it."""
        import torch
        parts = self.random.randint(1, 5)
        each = -(-local.numel() // parts)
        start = each * self.random.randrange(parts)
        if local.dim() == 0 or start >= local.numel():
            return
        cut, n = self.ckpt.flat_pieces(pieces, count, local.dim(), start, each)
        memory = fill(cut, n, whole, each)
        want = local.reshape(-1)[start:start + each]
        assert torch.equal(memory[:len(want)], want)
        assert bool((memory[len(want):] == -1).all())
        self.seen["flat"] += 1

    def random_case(self):
        draw = self.random
        ndim = draw.choice([0, 1, 1, 2, 2, 2, 3])
        shape = [draw.choice([0, 1, 2, 3, 5, 7, 8, 12, 13, 16]) for _ in range(ndim)]
        size = [draw.randint(1, 4) for _ in range(draw.randint(1, 3))]
        coord = [draw.randrange(n) for n in size]
        places = [(draw.choice([REPLICATE, SHARD, SHARD, STRIDED]) if ndim else REPLICATE,
                   draw.randrange(ndim) if ndim else 0, draw.randint(1, 4)) for _ in size]
        self.compare(shape, size, coord, places)

    def fsdp_over_tp(self):
        """fully_shard of a tensor-parallel parameter: mesh (dp, tp), both on one dimension."""
        draw = self.random
        dp, tp = draw.randint(1, 4), draw.randint(1, 4)
        shape = [draw.randint(1, 40), draw.randint(1, 5)]
        coord = [draw.randrange(dp), draw.randrange(tp)]
        self.compare(shape, [dp, tp], coord, [(STRIDED, 0, tp), (SHARD, 0, 0)])
        self.seen["fsdp over tp"] += 1
        if shape[0] % tp == 0: # the same as tensor parallelism first, then FSDP of what it left
            left = self.ckpt.mesh_pieces([dp, tp], coord, [(STRIDED, 0, tp), (SHARD, 0, 0)],
                                            shape)
            right = self.ckpt.mesh_pieces([tp, dp], coord[::-1], [(SHARD, 0, 0)] * 2, shape)
            assert shape[0] % (tp * dp) or \
                [bytes(p) for p in left[0][:left[1]]] == [bytes(p) for p in right[0][:right[1]]]

    def padded(self):
        """Every rank has room for as much as the first: torch's with_padding."""
        import torch
        from torch.distributed.tensor.placement_types import Shard
        draw = self.random
        parts, dim = draw.randint(1, 6), draw.randrange(2)
        shape = [draw.randint(1, 30), draw.randint(1, 30)]
        rank = draw.randrange(parts)
        padded = list(shape)
        padded[dim] = -(-shape[dim] // parts) * parts
        whole = torch.arange(shape[0] * shape[1]).reshape(shape)
        shards, pads = Shard(dim)._split_tensor(whole, parts, with_padding=True)
        local, pad = shards[rank], pads[rank]
        pieces, count = self.ckpt.mesh_pieces([parts], [rank], [(SHARD, dim, 0)], shape, padded)
        memory = fill(pieces, count, whole, local.numel()).reshape(local.shape)
        real = local.shape[dim] - pad
        assert torch.equal(memory.narrow(dim, 0, real), local.narrow(dim, 0, real))
        assert bool((memory.narrow(dim, real, pad) == -1).all())
        self.seen["padded"] += pad > 0


def main():
    if "--found" not in sys.argv:
        python = find_torch()
        if not python:
            print("SKIP: torch is not installed")
            sys.exit(SKIPPED)
        sys.exit(subprocess.run([python, *sys.argv, "--found"], check=False).returncode)
    seed = int(os.environ.get("CKPT_SEED", "7"))
    print("seed", seed)
    check = Check(Library(sys.argv[1]), seed)
    for _ in range(CASES):
        check.random_case()
    for _ in range(300):
        check.fsdp_over_tp()
        check.padded()
    print(", ".join(f"{n} {what}" for what, n in check.seen.items()))
    assert all(check.seen.values()), "something was never tried"
    print(f"{CASES + 600} cases")


if __name__ == "__main__":
    main()
