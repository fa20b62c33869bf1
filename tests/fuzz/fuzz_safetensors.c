/* Heads of safetensors files, which come from anywhere. */
#include "formats/dtype.h"
#include "formats/foreign/safetensors.h"
#include "fuzz/fuzz.h"

#define DATA_MAX UINT64_C(1000000) /* what the file may have behind its head */

/* What was parsed lies within the file, in order, without holes. */
static void check_parsed(const struct safetensors *s, uint64_t file_bytes)
{
    uint64_t at = 0;
    FUZZ_CHECK(s->data_begin <= file_bytes && s->data_bytes <= file_bytes - s->data_begin);
    for (size_t i = 0; i < s->count; i++) {
        const struct safetensors_tensor *t = &s->tensors[i];
        FUZZ_CHECK(t->ndim <= CKPT_DIMS_MAX && dtype_bits(t->dtype) > 0);
        FUZZ_CHECK(t->begin == at && t->bytes <= s->data_bytes - at);
        fuzz_touch(t->name, strlen(t->name));
        at += t->bytes;
    }
    FUZZ_CHECK(at == s->data_bytes);
    for (size_t i = 0; i < s->note_count; i++) {
        fuzz_touch(s->notes[i].key, strlen(s->notes[i].key));
        fuzz_touch(s->notes[i].value, strlen(s->notes[i].value));
    }
}

/* Written again it says the same; dtypes that others do not know are read, not written. */
static void check_again(const struct safetensors *s)
{
    for (size_t i = 0; i < s->count; i++)
        if (!safetensors_knows(s->tensors[i].dtype))
            return;
    struct safetensors again = { 0 }, back = { 0 };
    CLEANUP_BUF struct buf b = { 0 };
    for (size_t i = 0; i < s->count; i++) {
        const struct safetensors_tensor *t = &s->tensors[i];
        FUZZ_CHECK(safetensors_add(&again, t->name, t->dtype, t->ndim, t->shape, NULL) == CKPT_OK);
    }
    for (size_t i = 0; i < s->note_count; i++)
        FUZZ_CHECK(safetensors_add_note(&again, s->notes[i].key, s->notes[i].value, NULL) ==
                   CKPT_OK);
    FUZZ_CHECK(safetensors_encode(&again, &b, NULL) == CKPT_OK);
    FUZZ_CHECK(safetensors_parse(b.data, b.len, b.len + s->data_bytes, &back, NULL) == CKPT_OK);
    FUZZ_CHECK(back.count == s->count && back.note_count == s->note_count);
    FUZZ_CHECK(back.data_bytes == s->data_bytes);
    safetensors_fini(&again);
    safetensors_fini(&back);
}

void fuzz_one(const uint8_t *bytes, size_t len)
{
    /* The last two bytes say how much data the file is said to have. */
    uint64_t data = len < 2 ? 0 : (uint64_t)bytes[len - 1] << 8 | bytes[len - 2];
    size_t head = len < 2 ? len : len - 2;
    struct safetensors s = { 0 };
    struct ckpt_err err = { 0 };
    uint64_t claimed = 0;
    for (size_t i = 0; i < 8 && i < head; i++)
        claimed |= (uint64_t)bytes[i] << 8 * i;
    uint64_t file = claimed < DATA_MAX ? claimed + 8 + data : head + data;
    if (safetensors_parse(bytes, head, file, &s, &err) != CKPT_OK) {
        FUZZ_CHECK(err.text[0] && !s.tensors && !s.notes);
        return;
    }
    check_parsed(&s, file);
    check_again(&s);
    safetensors_fini(&s);
}

/* Makes the length of the JSON right. */
void fuzz_fix(uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i < 8 && len > 10; i++)
        bytes[i] = (uint8_t)((uint64_t)(len - 10) >> 8 * i);
}
