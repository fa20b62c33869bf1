/* Builds and parses keys.  Everything that goes in was validated before, which is
 * asserted here: no key is ever built from unchecked input. */
#include "formats/key.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#include "formats/cursor.h"

#define NUMBER_DIGITS 16

uint64_t attempt_of(const char *job, uint64_t epoch, uint32_t world, uint64_t step, uint32_t try_)
{
    assert(job_name_check(job, NULL) == CKPT_OK);
    uint8_t bytes[2 + CKPT_JOB_NAME_MAX + 8 + 4 + 8 + 4];
    struct buf b = { .data = bytes, .cap = sizeof(bytes) }; /* large enough: never grows */
    buf_str(&b, job);
    buf_u64(&b, epoch);
    buf_u32(&b, world);
    buf_u64(&b, step);
    buf_u32(&b, try_);
    return digest_hash(b.data, b.len);
}

void key_number(uint64_t n, char ret[NUMBER_DIGITS + 1])
{
    snprintf(ret, NUMBER_DIGITS + 1, "%016" PRIx64, UINT64_MAX - n);
}

/* Exactly 16 lower-case digits at `text`, which may go on. */
static bool hex_u64(const char *text, uint64_t *ret)
{
    uint64_t n = 0;
    for (size_t i = 0; i < NUMBER_DIGITS; i++) {
        char c = text[i];
        if (c >= '0' && c <= '9')
            n = n << 4 | (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            n = n << 4 | (uint64_t)(c - 'a' + 10);
        else
            return false;
    }
    *ret = n;
    return true;
}

bool key_number_parse(const char *text, uint64_t *ret)
{
    uint64_t n;
    if (!hex_u64(text, &n) || text[NUMBER_DIGITS])
        return false;
    *ret = UINT64_MAX - n;
    return true;
}

void name_to_text(const struct ckpt_name *name, char ret[NAME_TEXT])
{
    snprintf(ret, NAME_TEXT, "%016" PRIx64 "-%016" PRIx64 "-%016" PRIx64, UINT64_MAX - name->epoch,
             UINT64_MAX - name->step, name->attempt);
}

bool name_parse(const char *text, size_t len, struct ckpt_name *ret)
{
    uint64_t epoch, step, attempt;
    if (len != NAME_TEXT - 1 || text[16] != '-' || text[33] != '-' || !hex_u64(text, &epoch) ||
        !hex_u64(text + 17, &step) || !hex_u64(text + 34, &attempt))
        return false;
    *ret = (struct ckpt_name){ UINT64_MAX - epoch, UINT64_MAX - step, attempt };
    return true;
}

bool name_equal(const struct ckpt_name *a, const struct ckpt_name *b)
{
    return a->epoch == b->epoch && a->step == b->step && a->attempt == b->attempt;
}

/* <job>/<the rest> */
static struct key CKPT_PRINTF(2, 3) key_of(const char *job, const char *fmt, ...)
{
    assert(job_name_check(job, NULL) == CKPT_OK);
    struct key key;
    size_t at = strlen(job);
    memcpy(key.text, job, at);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(key.text + at, sizeof(key.text) - at, fmt, ap);
    va_end(ap);
    assert(n >= 0 && (size_t)n < sizeof(key.text) - at);
    return key;
}

/* <job>/l/<~epoch>/<last> */
static struct key launch_key(const char *job, uint64_t epoch, const char *last)
{
    char n[NUMBER_DIGITS + 1];
    key_number(epoch, n);
    return key_of(job, "/l/%s/%s", n, last);
}

/* <job>/<folder>/<name><last> */
static struct key name_key(const char *job, char folder, const struct ckpt_name *name,
                           const char *last)
{
    char text[NAME_TEXT];
    name_to_text(name, text);
    return key_of(job, "/%c/%s%s", folder, text, last);
}

struct key key_launches(const char *job)
{
    return key_of(job, "/l/");
}

struct key key_launch(const char *job, uint64_t epoch)
{
    return launch_key(job, epoch, "");
}

struct key key_claim(const char *job, uint64_t epoch)
{
    return launch_key(job, epoch, "claim");
}

struct key key_resolved(const char *job, uint64_t epoch)
{
    return launch_key(job, epoch, "resolved");
}

struct key key_restored(const char *job, uint64_t epoch)
{
    return launch_key(job, epoch, "restored");
}

struct key key_progress(const char *job, uint64_t epoch)
{
    return launch_key(job, epoch, "progress");
}

struct key key_node(const char *job, uint64_t epoch, const uint8_t node[16], const uint32_t *ranks,
                    uint32_t count)
{
    char hex[33], sum[17], last[5 + 32 + 1 + 16 + 1];
    struct digest_state state;
    digest_begin(&state);
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t le[4] = { (uint8_t)ranks[i], (uint8_t)(ranks[i] >> 8),
                                (uint8_t)(ranks[i] >> 16), (uint8_t)(ranks[i] >> 24) };
        digest_add(&state, le, sizeof(le));
    }
    struct digest all = digest_end(&state);
    hex_encode(node, 16, hex);
    hex_encode(all.b, 8, sum);
    snprintf(last, sizeof(last), "node-%s-%s", hex, sum);
    return launch_key(job, epoch, last);
}

struct key key_bad(const char *job, uint64_t epoch, uint32_t rank)
{
    char last[4 + 10 + 1];
    snprintf(last, sizeof(last), "bad-%" PRIu32, rank);
    return launch_key(job, epoch, last);
}

struct key key_commits(const char *job)
{
    return key_of(job, "/c/");
}

struct key key_commit(const char *job, const struct ckpt_name *name)
{
    return name_key(job, 'c', name, "");
}

struct key key_helds(const char *job)
{
    return key_of(job, "/h/");
}

struct key key_held(const char *job, const struct ckpt_name *name)
{
    return name_key(job, 'h', name, "");
}

unsigned key_shard(uint32_t rank_or_k)
{
    uint8_t bytes[4];
    struct buf b = { .data = bytes, .cap = sizeof(bytes) };
    buf_u32(&b, rank_or_k);
    return (unsigned)(digest_hash(b.data, b.len) >> 60);
}

/* <job>/d/<h>/<name>/ */
struct key key_data(const char *job, unsigned h, const struct ckpt_name *name)
{
    char text[NAME_TEXT];
    assert(h < 16);
    name_to_text(name, text);
    return key_of(job, "/d/%x/%s/", h, text);
}

struct key key_data_shard(const char *job, unsigned h)
{
    assert(h < 16);
    return key_of(job, "/d/%x/", h);
}

/* A data key: the shard follows from the rank (or k). */
static struct key CKPT_PRINTF(4, 5) data_key(const char *job, const struct ckpt_name *name,
                                             uint32_t rank_or_k, const char *fmt, ...)
{
    struct key key = key_data(job, key_shard(rank_or_k), name);
    size_t at = strlen(key.text);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(key.text + at, sizeof(key.text) - at, fmt, ap);
    va_end(ap);
    assert(n > 0 && (size_t)n < sizeof(key.text) - at);
    return key;
}

struct key key_manifest(const char *job, const struct ckpt_name *name, uint32_t rank)
{
    return data_key(job, name, rank, "%" PRIu32 ".m", rank);
}

struct key key_rank_held(const char *job, const struct ckpt_name *name, uint32_t rank)
{
    return data_key(job, name, rank, "%" PRIu32 ".h", rank);
}

struct key key_pack(const char *job, const struct ckpt_name *name, uint32_t rank, uint32_t slot,
                    const struct digest *id)
{
    char hex[2 * sizeof(id->b) + 1];
    hex_encode(id->b, sizeof(id->b), hex);
    return data_key(job, name, rank, "%" PRIu32 "-%" PRIu32 "-%s", rank, slot, hex);
}

struct key key_index(const char *job, const struct ckpt_name *name, uint32_t k)
{
    return data_key(job, name, k, "i%" PRIu32, k);
}

struct key key_tags(const char *job)
{
    return key_of(job, "/t/");
}

struct key key_tags_of(const char *job, const struct ckpt_name *name)
{
    return name_key(job, 't', name, "/");
}

struct key key_tag(const char *job, const struct ckpt_name *name, const char *tag, uint64_t n)
{
    assert(tag_check(tag, NULL) == CKPT_OK);
    char last[1 + CKPT_JOB_NAME_MAX + 1 + NUMBER_DIGITS + 1];
    char number[NUMBER_DIGITS + 1];
    key_number(n, number);
    snprintf(last, sizeof(last), "/%s/%s", tag, number);
    return name_key(job, 't', name, last);
}

struct key key_lives(const char *job)
{
    return key_of(job, "/x/");
}

struct key key_life_of(const char *job, const struct ckpt_name *name, bool copy)
{
    return name_key(job, 'x', name, copy ? ".h/" : "/");
}

struct key key_life(const char *job, const struct ckpt_name *name, bool copy, uint64_t n)
{
    char last[3 + NUMBER_DIGITS + 1];
    char number[NUMBER_DIGITS + 1];
    key_number(n, number);
    snprintf(last, sizeof(last), "%s%s", copy ? ".h/" : "/", number);
    return name_key(job, 'x', name, last);
}

struct key key_owners(const char *job)
{
    return key_of(job, "/o/");
}

struct key key_owner(const char *job, uint64_t epoch, const uint8_t home[16])
{
    char n[NUMBER_DIGITS + 1], uuid[33];
    key_number(epoch, n);
    hex_encode(home, 16, uuid);
    return key_of(job, "/o/%s/%s", n, uuid);
}

/* A decimal number as printed: no sign, no leading zero, fits 32 bits.  Returns
 * what follows it; NULL if there is none. */
static const char *decimal_u32(const char *at, uint32_t *ret)
{
    uint64_t n = 0;
    const char *from = at;
    for (; *at >= '0' && *at <= '9'; at++) {
        n = n * 10 + (uint64_t)(*at - '0');
        if (n > UINT32_MAX)
            return NULL;
    }
    if (at == from || (*from == '0' && at != from + 1))
        return NULL;
    *ret = (uint32_t)n;
    return at;
}

/* "<rank>.m", "<rank>.h" or "<rank>-<slot>-<id>" */
static enum key_kind parse_rank_part(const char *last, struct key_data_parts *parts)
{
    const char *at = decimal_u32(last, &parts->rank);
    if (!at || parts->rank >= CKPT_RANKS_MAX)
        return KEY_OTHER;
    if (strcmp(at, ".m") == 0)
        return KEY_MANIFEST;
    if (strcmp(at, ".h") == 0)
        return KEY_RANK_HELD;
    if (*at != '-')
        return KEY_OTHER;
    at = decimal_u32(at + 1, &parts->slot);
    if (!at || *at != '-' || !hex_decode(at + 1, sizeof(parts->id.b), parts->id.b))
        return KEY_OTHER;
    return KEY_PACK;
}

enum key_kind key_parse_data(const char *last, struct key_data_parts *ret)
{
    struct key_data_parts parts = { .name = ret->name };
    if (last[0] == 'i') {
        const char *at = decimal_u32(last + 1, &parts.k);
        parts.kind = at && !*at ? KEY_INDEX : KEY_OTHER;
    } else {
        parts.kind = parse_rank_part(last, &parts);
    }
    if (parts.kind == KEY_OTHER)
        parts = (struct key_data_parts){ .name = ret->name };
    *ret = parts;
    return parts.kind;
}
