/* Golden bytes: today's encoders give exactly what lies in tests/golden/v1, today's
 * decoders read it, and not one damaged byte of it is believed. */
#include <stdio.h>

#include "formats/base.h"
#include "golden/samples.h"

#include "check.h"

/* The whole file in memory of exactly its size, so that ASan sees each byte too far. */
static uint8_t *golden_read(const char *file, size_t *ret_len)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/v1/%s", GOLDEN_DIR, file);
    FILE *f = fopen(path, "re");
    CHECK(f != NULL);
    CHECK_EQ(fseek(f, 0, SEEK_END), 0);
    long len = ftell(f);
    CHECK(len > 0);
    rewind(f);
    uint8_t *bytes = malloc((size_t)len);
    CHECK(bytes != NULL);
    CHECK_EQ(fread(bytes, 1, (size_t)len, f), len);
    fclose(f);
    *ret_len = (size_t)len;
    return bytes;
}

static long test_golden(const struct sample *s)
{
    size_t len;
    CLEANUP_FREE uint8_t *bytes = golden_read(s->file, &len);
    CLEANUP_BUF struct buf now = { 0 };
    s->encode(&now);
    if (s->exact) {
        CHECK_EQ(now.len, len);
        CHECK(memcmp(now.data, bytes, len) == 0);
    }
    CHECK_OK(s->decode(bytes, len, s->key, true));
    CHECK_OK(s->decode(now.data, now.len, s->key, true));
    return 3;
}

/* Records and pack heads: every bit flipped, every length cut. */
static long test_damage(const struct sample *s, size_t len_max)
{
    size_t len;
    CLEANUP_FREE uint8_t *bytes = golden_read(s->file, &len);
    long cases = 0;
    if (len > len_max)
        len = len_max;
    for (size_t i = 0; i < 8 * len; i++, cases++) {
        bytes[i / 8] ^= (uint8_t)(1u << i % 8);
        CHECK_EQ(s->decode(bytes, len, s->key, false), CKPT_CORRUPT);
        bytes[i / 8] ^= (uint8_t)(1u << i % 8);
    }
    CHECK_OK(s->decode(bytes, len, s->key, false));
    for (size_t n = 0; n < len; n++, cases++) {
        CLEANUP_FREE uint8_t *cut = malloc(n ? n : 1);
        CHECK(cut != NULL);
        memcpy(cut, bytes, n);
        CHECK_EQ(s->decode(cut, n, s->key, false), CKPT_CORRUPT);
    }
    return cases;
}

/* A whole record under another's key, or read as another kind, is not believed. */
static long test_record_swaps(unsigned i)
{
    const struct sample *s = sample_at(i);
    size_t len;
    CLEANUP_FREE uint8_t *bytes = golden_read(s->file, &len);
    CLEANUP_FREE uint8_t *longer = calloc(1, len + 1);
    CHECK(longer != NULL);
    memcpy(longer, bytes, len);
    CHECK_EQ(s->decode(longer, len + 1, s->key, false), CKPT_CORRUPT);
    for (unsigned k = 0; k < SAMPLE_RECORDS; k++) {
        const struct sample *other = sample_at(k);
        if (strcmp(s->key, other->key) != 0)
            CHECK_EQ(s->decode(bytes, len, other->key, false), CKPT_CORRUPT);
        if (s->decode != other->decode)
            CHECK_EQ(other->decode(bytes, len, s->key, false), CKPT_CORRUPT);
    }
    return 1 + 2 * (SAMPLE_RECORDS - 1);
}

int main(void)
{
    long cases = 0;
    for (unsigned i = 0; i < SAMPLES; i++) {
        bool record = i < SAMPLE_RECORDS;
        cases += test_golden(sample_at(i));
        cases += test_damage(sample_at(i), record ? SIZE_MAX : pack_head_bytes(SAMPLE_CHUNKS));
        if (record)
            cases += test_record_swaps(i);
    }
    TEST_CASES(cases);
    return 0;
}
