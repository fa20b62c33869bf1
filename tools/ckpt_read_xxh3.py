"""XXH3-128 (seed 0) and CRC32C in plain Python, for ckpt_read.py.

Slow (a few MB/s) and meant to be: it shares no code with what it checks.
"""
import struct

M32, M64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
P32_1, P32_2, P32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
P1, P2, P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
P4, P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
MX1, MX2 = 0x165667919E3779F9, 0x9FB21C651E98DF25
SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e")


def r32(b, i):
    return int.from_bytes(b[i:i + 4], "little")


def r64(b, i):
    return int.from_bytes(b[i:i + 8], "little")


def swap(v, n):
    return int.from_bytes(v.to_bytes(n, "little"), "big")


def fold(a, b):
    p = a * b
    return (p & M64) ^ (p >> 64)


def avalanche(h):
    h = ((h ^ h >> 37) * MX1) & M64
    return h ^ h >> 32


def avalanche64(h):
    h = ((h ^ h >> 33) * P2) & M64
    h = ((h ^ h >> 29) * P3) & M64
    return h ^ h >> 32


def short(d):
    n, s = len(d), SECRET
    if n == 0:
        return avalanche64(r64(s, 64) ^ r64(s, 72)), avalanche64(r64(s, 80) ^ r64(s, 88))
    if n <= 3:
        lo = d[0] << 16 | d[n >> 1] << 24 | d[n - 1] | n << 8
        hi = swap(lo, 4)
        hi = (hi << 13 | hi >> 19) & M32
        return avalanche64(lo ^ r32(s, 0) ^ r32(s, 4)), avalanche64(hi ^ r32(s, 8) ^ r32(s, 12))
    if n <= 8:
        keyed = (r32(d, 0) | r32(d, n - 4) << 32) ^ r64(s, 16) ^ r64(s, 24)
        m = keyed * (P1 + (n << 2) & M64)
        lo, hi = m & M64, m >> 64
        hi = hi + (lo << 1) & M64
        lo ^= hi >> 3
        lo = ((lo ^ lo >> 35) * MX2) & M64
        return lo ^ lo >> 28, avalanche(hi)
    lo, hi = r64(d, 0), r64(d, n - 8)
    m = (lo ^ hi ^ r64(s, 32) ^ r64(s, 40)) * P1
    ml, mh = (m & M64) + (n - 1 << 54) & M64, m >> 64
    hi ^= r64(s, 48) ^ r64(s, 56)
    mh = mh + hi + (hi & M32) * (P32_2 - 1) & M64
    h = (ml ^ swap(mh, 8)) * P2
    return avalanche(h & M64), avalanche((h >> 64) + mh * P2 & M64)


def mix32(acc, d, i, j, s):
    lo = acc[0] + fold(r64(d, i) ^ r64(SECRET, s), r64(d, i + 8) ^ r64(SECRET, s + 8)) & M64
    hi = acc[1] + fold(r64(d, j) ^ r64(SECRET, s + 16), r64(d, j + 8) ^ r64(SECRET, s + 24)) & M64
    return lo ^ (r64(d, j) + r64(d, j + 8) & M64), hi ^ (r64(d, i) + r64(d, i + 8) & M64)


def middle(d):
    n, acc = len(d), (len(d) * P1 & M64, 0)
    if n <= 128:
        for i in range((n - 1) // 32, -1, -1):
            acc = mix32(acc, d, 16 * i, n - 16 * (i + 1), 32 * i)
    else:
        for i in range(0, 128, 32):
            acc = mix32(acc, d, i, i + 16, i)
        acc = avalanche(acc[0]), avalanche(acc[1])
        for i in range(160, n + 1, 32):
            acc = mix32(acc, d, i - 32, i - 16, 3 + i - 160)
        acc = mix32(acc, d, n - 16, n - 32, 103)
    high = acc[0] * P1 + acc[1] * P4 + n * P2
    return avalanche(acc[0] + acc[1] & M64), -avalanche(high & M64) & M64


KEYS = [struct.unpack_from("<8Q", SECRET, 8 * i) for i in range(16)]
LAST_KEY, SCRAMBLE = struct.unpack_from("<8Q", SECRET, 121), struct.unpack_from("<8Q", SECRET, 128)


def merge(acc, at, start):
    for i in range(4):
        start += fold(acc[2 * i] ^ r64(SECRET, at + 16 * i),
                      acc[2 * i + 1] ^ r64(SECRET, at + 16 * i + 8))
    return avalanche(start & M64)


def long(d):
    n, acc = len(d), [P32_3, P1, P2, P3, P4, P32_2, P5, P32_1]

    def stripe(at, keys):
        data = struct.unpack_from("<8Q", d, at)
        for i in range(8):
            v = data[i]
            k = v ^ keys[i]
            acc[i ^ 1] += v
            acc[i] += (k & M32) * (k >> 32)
        for i in range(8):
            acc[i] &= M64

    stripes = (n - 1) // 64
    for i in range(stripes):
        stripe(64 * i, KEYS[i % 16])
        if i % 16 == 15:
            acc = [((a ^ a >> 47 ^ k) * P32_1) & M64 for a, k in zip(acc, SCRAMBLE)]
    stripe(n - 64, LAST_KEY)
    return merge(acc, 11, n * P1 & M64), merge(acc, 117, ~(n * P2) & M64)


def xxh3_128(data):
    """16 bytes, canonical (big-endian) form."""
    n = len(data)
    lo, hi = short(data) if n <= 16 else middle(data) if n <= 240 else long(data)
    return struct.pack(">QQ", hi, lo)


CRC_TABLE = []
for _i in range(256):
    for _ in range(8):
        _i = _i >> 1 ^ (0x82F63B78 if _i & 1 else 0)
    CRC_TABLE.append(_i)


def crc32c(data):
    c, table = M32, CRC_TABLE
    for b in data:
        c = c >> 8 ^ table[(c ^ b) & 255]
    return c ^ M32
