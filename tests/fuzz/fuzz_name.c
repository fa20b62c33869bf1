/* Names and keys as text: jobs, tags, tensors, checkpoints, what lies under d/, and what
 * people type for a checkpoint.  Built once for each, with FUZZ_KIND its name. */
#include "formats/dtype.h"
#include "formats/key.h"
#include "fuzz/fuzz.h"
#include "storage/repo/catalog.h"

/* Keys and names of checkpoints. */
static void fuzz_key(const char *text, size_t len)
{
    struct ckpt_name name, zero = { 0 };
    char back[NAME_TEXT], digits[17];
    uint64_t n;
    uint8_t raw[16];
    if (name_parse(text, len, &name)) {
        name_to_text(&name, back);
        FUZZ_CHECK(strcmp(back, text) == 0);
    }
    if (key_number_parse(text, &n)) {
        key_number(n, digits);
        FUZZ_CHECK(strcmp(digits, text) == 0);
    }
    char hex[33];
    if (hex_decode(text, sizeof(raw), raw)) {
        hex_encode(raw, sizeof(raw), hex);
        FUZZ_CHECK(strcmp(hex, text) == 0);
    }
    struct key_data_parts p = { .name = zero };
    struct key key = { { 0 } };
    switch (key_parse_data(text, &p)) {
    case KEY_MANIFEST:
        key = key_manifest("j", &zero, p.rank);
        break;
    case KEY_RANK_HELD:
        key = key_rank_held("j", &zero, p.rank);
        break;
    case KEY_PACK:
        key = key_pack("j", &zero, p.rank, p.slot, &p.id);
        break;
    case KEY_INDEX:
        key = key_index("j", &zero, p.k);
        break;
    case KEY_OTHER:
        return;
    }
    FUZZ_CHECK(strcmp(strrchr(key.text, '/') + 1, text) == 0);
}

/* Names that come from outside. */
static void fuzz_word(const char *text, size_t len)
{
    struct ckpt_err err = { 0 }, tag_err = { 0 };
    enum ckpt_status job = job_name_check(text, &err), tag = tag_check(text, &tag_err);
    FUZZ_CHECK(job == tag && (job == CKPT_OK || (err.text[0] && tag_err.text[0])));
    if (job == CKPT_OK) {
        const struct ckpt_name name = { 1, 2, 3 };
        FUZZ_CHECK(strlen(text) <= CKPT_JOB_NAME_MAX && !strchr(text, '/'));
        FUZZ_CHECK(strlen(key_tag(text, &name, text, UINT64_MAX).text) < KEY_MAX);
    }
    err = (struct ckpt_err){ 0 };
    if (tensor_name_check(text, len, &err) != CKPT_OK)
        FUZZ_CHECK(err.text[0]);
    else
        FUZZ_CHECK(len && len <= CKPT_TENSOR_NAME_MAX && strlen(text) == len && text[0] != '/');
    unsigned code = dtype_parse(text, len);
    FUZZ_CHECK(!code || (dtype_bits(code) && strcmp(dtype_name(code), text) == 0));
}

/* JOB, JOB@STEP, JOB@STEP~EPOCH, JOB@latest. */
static void fuzz_spec(const char *text, size_t len)
{
    struct catalog_spec spec;
    struct ckpt_err err = { 0 };
    char back[256];
    (void)len;
    if (catalog_parse(text, &spec, &err) != CKPT_OK) {
        FUZZ_CHECK(err.text[0]);
        return;
    }
    FUZZ_CHECK(job_name_check(spec.job, NULL) == CKPT_OK && (spec.has_step || !spec.has_epoch));
    if (spec.has_epoch)
        snprintf(back, sizeof(back), "%s@%llu~%llu", spec.job, (unsigned long long)spec.step,
                 (unsigned long long)spec.epoch);
    else if (spec.has_step)
        snprintf(back, sizeof(back), "%s@%llu", spec.job, (unsigned long long)spec.step);
    else
        snprintf(back, sizeof(back), "%s", spec.job);
    struct catalog_spec again;
    FUZZ_CHECK(catalog_parse(back, &again, NULL) == CKPT_OK);
    FUZZ_CHECK(strcmp(again.job, spec.job) == 0 && again.has_step == spec.has_step &&
               again.has_epoch == spec.has_epoch && again.step == spec.step &&
               again.epoch == spec.epoch);
}

static const struct {
    const char *name;
    void (*one)(const char *text, size_t len);
} kinds[] = { { "key", fuzz_key }, { "word", fuzz_word }, { "spec", fuzz_spec } };

void fuzz_one(const uint8_t *bytes, size_t len)
{
    CLEANUP_FREE char *text = malloc(len + 1);
    FUZZ_CHECK(text);
    memcpy(text, bytes, len);
    text[len] = 0;
    for (size_t i = 0; i < ARRAY_COUNT(kinds); i++) {
        if (strcmp(kinds[i].name, FUZZ_KIND) == 0)
            kinds[i].one(text, len);
    }
}

/* Text has no sums. */
void fuzz_fix(uint8_t *bytes, size_t len)
{
    (void)bytes, (void)len;
}
