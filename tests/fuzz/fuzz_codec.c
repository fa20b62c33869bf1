/* Coded chunks.  Input: u8 codec, u8 planes, u16 raw bytes, then the stored bytes. */
#include "formats/codec.h"
#include "fuzz/fuzz.h"

#define HEAD 4

static struct codec *codec;

/* Whatever came out codes and decodes to itself. */
static void check_again(const uint8_t *raw, size_t n)
{
    size_t cap = codec_bound(CODEC_ZSTD, n), bytes;
    CLEANUP_FREE uint8_t *coded = malloc(cap);
    CLEANUP_FREE uint8_t *back = malloc(n + 1);
    enum codec_id id;
    FUZZ_CHECK(coded && back);
    FUZZ_CHECK(codec_encode(codec, CODEC_ZSTD, 1, raw, n, coded, cap, &id, &bytes) == CKPT_OK);
    if (id == CODEC_STORED)
        return;
    FUZZ_CHECK(bytes < n);
    FUZZ_CHECK(codec_decode(codec, id, 0, coded, bytes, back, n) == CKPT_OK);
    FUZZ_CHECK(memcmp(back, raw, n) == 0);
}

void fuzz_one(const uint8_t *bytes, size_t len)
{
    if (!codec)
        codec = codec_new();
    FUZZ_CHECK(codec);
    if (len < HEAD)
        return;
    size_t raw_bytes = bytes[2] | (size_t)bytes[3] << 8;
    CLEANUP_FREE uint8_t *raw = malloc(raw_bytes + 1); /* exactly, for the sanitizer */
    FUZZ_CHECK(raw);
    raw[raw_bytes] = 0x5a;
    enum ckpt_status st =
        codec_decode(codec, bytes[0], bytes[1], bytes + HEAD, len - HEAD, raw, raw_bytes);
    FUZZ_CHECK(raw[raw_bytes] == 0x5a);
    if (st == CKPT_OK) {
        fuzz_touch(raw, raw_bytes);
        check_again(raw, raw_bytes);
    }
    check_again(bytes, len);
}

/* There is no sum here: the length of the raw bytes is what a mutation spoils first. */
void fuzz_fix(uint8_t *bytes, size_t len)
{
    if (len < HEAD)
        return;
    if (bytes[0] == CODEC_STORED)
        memcpy(bytes + 2, (const uint8_t[]){ (uint8_t)(len - HEAD), (uint8_t)((len - HEAD) >> 8) },
               2);
    bytes[1] = 0;
}
