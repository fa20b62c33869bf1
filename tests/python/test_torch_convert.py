"""Conversions of floating-point types, against PyTorch's own casts.

    test_torch_convert.py CONVERT_PIPE

Every value of the types of 8 and 16 bits into every other one, and random, border and
special values of F32 and F64 downward.  Known differences, checked as such: in a type without
infinity, what overflows and infinity itself are both NaN or both the largest finite value in
torch, as its version and its code path have it; in ckpt the first is the largest finite value
and the second NaN.  torch rounds F64 to BF16 and the types of 8 bits twice (by way of F32), so
those pairs are left out.

The interpreter is CKPT_TORCH_PYTHON, or any python3 of PATH that has torch.
"""
import os
import shutil
import subprocess
import sys

SKIPPED = 77
BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8,
        "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8}
NO_INFINITY = {"F8_E4M3": 448.0, "F8_E4M3FNUZ": 240.0, "F8_E5M2FNUZ": 57344.0}
RANDOM = 300000


def find_torch():
    names = ["python3"] + [f"python3.{minor}" for minor in range(8, 20)]
    found = [os.environ.get("CKPT_TORCH_PYTHON")]
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        found += [shutil.which(name, path=folder) for name in names]
    for python in dict.fromkeys(filter(None, found)):
        probe = [python, "-c", "import torch; torch.float8_e5m2fnuz"]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return python
    return None


def inputs(torch, name, dtypes):
    """A tensor of the type: every value, or many."""
    if BITS[name] <= 16:
        plain = torch.arange(1 << BITS[name], dtype=torch.int32)
        return plain.to(torch.uint8 if BITS[name] == 8 else torch.uint16).view(dtypes[name])
    torch.manual_seed(20261121)
    ints = {32: torch.int32, 64: torch.int64}[BITS[name]]
    info = torch.iinfo(ints)
    anything = torch.randint(info.min, info.max, (RANDOM,), dtype=ints).view(dtypes[name])
    near = torch.randn(RANDOM, dtype=torch.float64) * 2.0 ** torch.randint(-160, 130, (RANDOM,))
    borders = []
    for small in ("F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"):
        every = inputs(torch, small, dtypes).to(torch.float64)
        every = every[every.isfinite()].sort().values
        middle = (every[1:] + every[:-1]) / 2
        borders += [every, middle, middle * (1 + 2.0 ** -23), middle * (1 - 2.0 ** -23)]
    return torch.cat([anything, near.to(dtypes[name]), torch.cat(borders).to(dtypes[name])])


def compare(torch, pipe, pair, dtypes, given):
    """How many values were compared."""
    source, target = pair
    done = subprocess.run([pipe, source, target], input=given.view(torch.uint8).numpy().tobytes(),
                          capture_output=True, check=True)
    got = torch.frombuffer(bytearray(done.stdout), dtype=torch.uint8).view(dtypes[target])
    want, exact = given.to(dtypes[target]), given.to(torch.float64)
    a, b = got.to(torch.float64), want.to(torch.float64)
    same = (a == b) | (a.isnan() & b.isnan())
    same &= (a.signbit() == b.signbit()) | a.isnan()
    if target in NO_INFINITY:
        limit = NO_INFINITY[target]
        lost = b.isnan() | (b == limit * exact.sign())
        same |= lost & exact.isfinite() & (a == limit * exact.sign()) & (exact.abs() > limit)
        same |= lost & exact.isinf() & a.isnan()
    wrong = (~same).nonzero().flatten()
    for i in wrong[:5].tolist():
        print(f"    {source} {exact[i]!r} to {target}: {a[i]!r}, torch says {b[i]!r}")
    assert len(wrong) == 0, f"{source} to {target}: {len(wrong)} values differ"
    if target not in NO_INFINITY:
        assert int(done.stderr) == int((exact.isfinite() & a.isinf()).sum()), "overflows"
    return len(given)


def main():
    import torch  # pylint: disable=import-outside-toplevel
    torch.set_num_threads(1)
    dtypes = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16,
              "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn,
              "F8_E5M2": torch.float8_e5m2, "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
              "F8_E5M2FNUZ": torch.float8_e5m2fnuz}
    cases = 0
    for source in dtypes:
        given = inputs(torch, source, dtypes)
        for target in dtypes:
            if source != target and (source != "F64" or target == "F32"):
                cases += compare(torch, sys.argv[1], (source, target), dtypes, given)
    print(f"{cases} cases")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        main()
    else:
        PYTHON = find_torch()
        if not PYTHON:
            print("SKIP: no python here has torch with its 8-bit types (CKPT_TORCH_PYTHON names one)")
            sys.exit(SKIPPED)
        sys.exit(subprocess.run([PYTHON, __file__, sys.argv[1], "inside"], check=False).returncode)
