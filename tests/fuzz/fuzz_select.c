/* Patterns and renames, as a client sends them with a load, applied to a few names. */
#include "formats/select.h"
#include "fuzz/fuzz.h"

void fuzz_one(const uint8_t *bytes, size_t len)
{
    static const char *const names[] = { "a", "model.layers.0.w", "rng@3", "a.b.c.d.e.f.g.h.i",
                                         "\xc3\xa9/x" };
    struct select s;
    struct ckpt_err err = { 0 };
    CLEANUP_BUF struct buf again = { 0 };
    if (select_decode(bytes, len, &s, &err) != CKPT_OK) {
        FUZZ_CHECK(err.text[0]);
        return;
    }
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        char to[CKPT_TENSOR_NAME_MAX + 1];
        bool renamed = select_renames(&s, names[i]);
        (void)select_wants(&s, names[i]);
        if (select_rename(&s, names[i], to, &err) == CKPT_OK)
            FUZZ_CHECK(strlen(to) > 0 && (renamed || strcmp(to, names[i]) == 0));
    }
    for (size_t i = 0; i < s.count; i++) /* a pattern's own text, its stars taken as stars */
        FUZZ_CHECK(select_match(s.rules[i].pattern, s.rules[i].pattern));
    FUZZ_CHECK(select_encode(&s, &again, NULL) == CKPT_OK);
    if (len > 0) /* none: no rules */
        fuzz_same(&again, bytes, len);
    select_fini(&s);
}

void fuzz_fix(uint8_t *bytes, size_t len)
{
    (void)bytes; /* nothing is summed */
    (void)len;
}
