/* The envelope of records, and the record of the repository itself. */
#include "formats/record.h"

#include <assert.h>

#include "formats/record_envelope.h"

#define RECORD_MAGIC    "CKPTREC" /* 8 bytes with its NUL */
#define RECORD_BYTES_AT 12
#define RECORD_KEY_AT   16

static_assert(sizeof(RECORD_MAGIC) == 8, "the magic is 8 bytes on disk");
static_assert(RECORD_FRAME_BYTES(0) == RECORD_KEY_AT + 2 + sizeof(struct digest),
              "envelope as in FORMAT.md");

size_t record_begin(struct buf *out, enum record_kind kind, const char *key)
{
    size_t start = out->len;
    buf_bytes(out, RECORD_MAGIC, sizeof(RECORD_MAGIC));
    buf_u16(out, RECORD_VERSION);
    buf_u16(out, (uint16_t)kind);
    buf_u32(out, 0); /* the length, patched in record_end */
    buf_str(out, key);
    return start;
}

void record_end(struct buf *out, size_t start)
{
    size_t bytes = out->len - start + sizeof(struct digest);
    if (out->failed)
        return;
    assert(bytes <= RECORD_BYTES_MAX);
    buf_patch_u32(out, start + RECORD_BYTES_AT, (uint32_t)bytes);
    struct digest sum = digest_of(out->data + start, out->len - start);
    buf_bytes(out, sum.b, sizeof(sum.b));
}

/* Magic, length and sum: the part of the envelope that no version changes. */
static const char *frame_fault(const uint8_t *bytes, size_t len)
{
    if (len < RECORD_FRAME_BYTES(0) || len > RECORD_BYTES_MAX)
        return "not the size of a record";
    if (memcmp(bytes, RECORD_MAGIC, sizeof(RECORD_MAGIC)) != 0)
        return "no record";
    struct cursor c = cursor_over(bytes + RECORD_BYTES_AT, 4);
    if (cursor_u32(&c) != len)
        return "cut short or too long";
    struct digest sum = digest_of(bytes, len - sizeof(sum));
    if (memcmp(sum.b, bytes + len - sizeof(sum), sizeof(sum)) != 0)
        return "its sum is wrong";
    return NULL;
}

enum record_kind record_kind_of(const void *bytes, size_t len)
{
    if (frame_fault(bytes, len))
        return (enum record_kind)0;
    struct cursor c = cursor_over((const uint8_t *)bytes + 10, 2);
    unsigned kind = cursor_u16(&c);
    return kind >= RECORD_REPO && kind <= RECORD_LIFE ? (enum record_kind)kind
                                                      : (enum record_kind)0;
}

enum ckpt_status record_open(const void *bytes, size_t len, enum record_kind kind, const char *key,
                             struct cursor *ret_body, struct ckpt_err *err)
{
    const char *fault = frame_fault(bytes, len);
    if (fault)
        return err_set(err, CKPT_CORRUPT, "damaged record %s: %s", key, fault);
    struct cursor c = cursor_over(bytes, len - sizeof(struct digest));
    cursor_bytes(&c, sizeof(RECORD_MAGIC));
    unsigned version = cursor_u16(&c);
    unsigned got_kind = cursor_u16(&c);
    cursor_u32(&c); /* length, checked */
    if (version > RECORD_VERSION)
        return err_set(err, CKPT_UNSUPPORTED,
                       "record %s has version %u; this program reads up to %d: use a newer one",
                       key, version, RECORD_VERSION);
    size_t key_len = cursor_u16(&c);
    const uint8_t *got_key = cursor_bytes(&c, key_len);
    if (version == 0 || !got_key)
        return err_set(err, CKPT_CORRUPT, "damaged record %s: its head makes no sense", key);
    if (key_len != strlen(key) || memcmp(got_key, key, key_len) != 0)
        return err_set(err, CKPT_CORRUPT, "record %s was written under another key", key);
    if (got_kind != (unsigned)kind)
        return err_set(err, CKPT_CORRUPT, "record %s is of kind %u, expected %u", key, got_kind,
                       (unsigned)kind);
    *ret_body = c;
    return CKPT_OK;
}

enum ckpt_status record_close(const struct cursor *body, const char *key, struct ckpt_err *err)
{
    if (cursor_done(body))
        return CKPT_OK;
    return err_set(err, CKPT_CORRUPT, "damaged record %s: its body makes no sense", key);
}

void record_put_name(struct buf *out, const struct ckpt_name *name)
{
    buf_u64(out, name->epoch);
    buf_u64(out, name->step);
    buf_u64(out, name->attempt);
}

struct ckpt_name record_get_name(struct cursor *body)
{
    struct ckpt_name name;
    name.epoch = cursor_u64(body);
    name.step = cursor_u64(body);
    name.attempt = cursor_u64(body);
    return name;
}

bool record_get_bool(struct cursor *body)
{
    unsigned v = cursor_u8(body);
    if (v > 1)
        cursor_fail(body);
    return v == 1;
}

uint32_t record_get_rank(struct cursor *body)
{
    uint32_t rank = cursor_u32(body);
    if (rank >= CKPT_RANKS_MAX)
        cursor_fail(body);
    return rank;
}

uint32_t record_get_world(struct cursor *body)
{
    uint32_t world = cursor_u32(body);
    if (world == 0 || world > CKPT_RANKS_MAX)
        cursor_fail(body);
    return world;
}

bool record_key_has_name(const char *key, const struct ckpt_name *name)
{
    char text[NAME_TEXT];
    size_t n = strlen(key);
    name_to_text(name, text);
    return n >= NAME_TEXT && key[n - NAME_TEXT] == '/' &&
           memcmp(key + n - (NAME_TEXT - 1), text, NAME_TEXT - 1) == 0;
}

void record_repo_encode(const struct record_repo *r, struct buf *out)
{
    size_t start = record_begin(out, RECORD_REPO, KEY_REPO);
    buf_bytes(out, r->uuid, sizeof(r->uuid));
    buf_u32(out, r->format);
    buf_zero(out, 4);
    buf_u64(out, (uint64_t)r->time_ns);
    record_end(out, start);
}

enum ckpt_status record_repo_decode(const void *bytes, size_t len, const char *key,
                                    struct record_repo *ret, struct ckpt_err *err)
{
    struct cursor c;
    struct record_repo r = { 0 };
    enum ckpt_status st = record_open(bytes, len, RECORD_REPO, key, &c, err);
    if (st != CKPT_OK)
        return st;
    cursor_copy(&c, r.uuid, sizeof(r.uuid));
    r.format = cursor_u32(&c);
    cursor_zero(&c, 4);
    r.time_ns = (int64_t)cursor_u64(&c);
    st = record_close(&c, key, err);
    if (st == CKPT_OK)
        *ret = r;
    return st;
}
