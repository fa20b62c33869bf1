/* How the bytes of one chunk are coded in a pack.  Codec ids are on disk.
 * `planes` describes a byte-plane split before coding; 0 = none (the only one
 * there is so far; a reader refuses others). */
#pragma once

#include "formats/base.h"

enum codec_id {
    CODEC_STORED = 0,
    CODEC_ZSTD = 1, /* one frame with the content size, no dictionary, no checksum */
};

struct codec; /* reusable working memory; one thread */
struct codec *codec_new(void);
void codec_free(struct codec *c);

/* Worst-case coded size of n raw bytes. */
size_t codec_bound(enum codec_id id, size_t n);
/* Codes src into dst.  When the result would save less than 3 % the chunk is
 * stored: *ret_id says what was done and *ret_bytes how long it is; for
 * CODEC_STORED nothing is written to dst (the caller uses src).
 * `level`: zstd level (negative = faster). */
enum ckpt_status codec_encode(struct codec *c, enum codec_id want, int level, const void *src,
                              size_t n, void *dst, size_t cap, enum codec_id *ret_id,
                              size_t *ret_bytes) CKPT_MUST_CHECK;
/* Decodes exactly raw_bytes from hostile bytes; anything else is CKPT_CORRUPT.
 * Unknown id or planes: CKPT_UNSUPPORTED. */
enum ckpt_status codec_decode(struct codec *c, unsigned id, unsigned planes, const void *src,
                              size_t n, void *dst, size_t raw_bytes) CKPT_MUST_CHECK;
