/* The envelope that all records share, for the record_*.c files alone:
 *
 *   encode:  at = record_begin(out, kind, key);  buf_...(out, body);  record_end(out, at);
 *   decode:  record_open(...) -> cursor over the body;  cursor_...;  record_close(...)
 */
#pragma once

#include "formats/record.h"

/* Bytes of an envelope around the body, for a key of `key_len` bytes. */
#define RECORD_FRAME_BYTES(key_len) (8 + 2 + 2 + 4 + 2 + (size_t)(key_len) + 16)

/* Where the record starts in `out`. */
size_t record_begin(struct buf *out, enum record_kind kind, const char *key);
void record_end(struct buf *out, size_t start);

/* Checks the whole envelope of hostile bytes read under `key`; *ret_body then
 * stands over the body. */
enum ckpt_status record_open(const void *bytes, size_t len, enum record_kind kind, const char *key,
                             struct cursor *ret_body, struct ckpt_err *err) CKPT_MUST_CHECK;
/* After the last field: CKPT_CORRUPT if a getter failed or bytes are left over. */
enum ckpt_status record_close(const struct cursor *body, const char *key, struct ckpt_err *err)
    CKPT_MUST_CHECK;

void record_put_name(struct buf *out, const struct ckpt_name *name);
struct ckpt_name record_get_name(struct cursor *body);
/* One byte that is 0 or 1. */
bool record_get_bool(struct cursor *body);
uint32_t record_get_rank(struct cursor *body);
/* 1 .. CKPT_RANKS_MAX */
uint32_t record_get_world(struct cursor *body);
/* True if `key` ends in "/<name>": records that name a checkpoint say so twice. */
bool record_key_has_name(const char *key, const struct ckpt_name *name);
