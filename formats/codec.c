/* One chunk in, one coded chunk out: stored, or one zstd frame. */
#include "formats/codec.h"

#include <assert.h>

/* For ZSTD_c_literalCompressionMode and ZSTD_getFrameHeader. */
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>
#include <zstd_errors.h>

/* A chunk large enough to be worth it is first judged by a sample: parts of it,
 * evenly spread, coded together.  Incompressible chunks then cost 64 KiB, not 4 MiB. */
#define SAMPLE_PARTS      4
#define SAMPLE_PART_BYTES (16 * KIB)
#define SAMPLE_BYTES      (SAMPLE_PARTS * SAMPLE_PART_BYTES)
#define SAMPLE_FROM       (4 * SAMPLE_BYTES)

struct codec {
    ZSTD_CCtx *cctx;
    ZSTD_DCtx *dctx;
    uint8_t sample[SAMPLE_BYTES];
    uint8_t coded[SAMPLE_BYTES];
};

struct codec *codec_new(void)
{
    struct codec *c = malloc(sizeof(*c));
    if (!c)
        return NULL;
    c->cctx = ZSTD_createCCtx();
    c->dctx = ZSTD_createDCtx();
    if (!c->cctx || !c->dctx) {
        codec_free(c);
        return NULL;
    }
    return c;
}

void codec_free(struct codec *c)
{
    if (!c)
        return;
    ZSTD_freeCCtx(c->cctx);
    ZSTD_freeDCtx(c->dctx);
    free(c);
}

size_t codec_bound(enum codec_id id, size_t n)
{
    return id == CODEC_ZSTD ? ZSTD_compressBound(n) : n;
}

/* The most coded bytes that n raw bytes may take: 3 % less. */
static size_t worth_bytes(size_t n)
{
    return n - div_up(3 * (uint64_t)n, 100);
}

static bool zstd_setup(ZSTD_CCtx *cctx, int level)
{
    if (ZSTD_isError(ZSTD_CCtx_reset(cctx, ZSTD_reset_session_and_parameters)) ||
        ZSTD_isError(ZSTD_CCtx_setParameter(cctx, ZSTD_c_compressionLevel, level)) ||
        ZSTD_isError(ZSTD_CCtx_setParameter(cctx, ZSTD_c_contentSizeFlag, 1)) ||
        ZSTD_isError(ZSTD_CCtx_setParameter(cctx, ZSTD_c_checksumFlag, 0)))
        return false;
    /* Negative levels leave literals uncoded by default, and tensors are all literals.
     * The parameter is experimental: where it is refused, the frame is only larger. */
    if (level < 0)
        (void)ZSTD_CCtx_setParameter(cctx, ZSTD_c_literalCompressionMode, (int)ZSTD_ps_enable);
    return true;
}

/* *ret_bytes = 0: it does not fit into `cap`, so it is not worth coding. */
static enum ckpt_status zstd_code(ZSTD_CCtx *cctx, const void *src, size_t n, void *dst, size_t cap,
                                  size_t *ret_bytes)
{
    size_t bytes = ZSTD_compress2(cctx, dst, cap, src, n);
    if (!ZSTD_isError(bytes)) {
        *ret_bytes = bytes;
        return CKPT_OK;
    }
    ZSTD_ErrorCode code = ZSTD_getErrorCode(bytes);
    if (code == ZSTD_error_memory_allocation)
        return CKPT_NO_MEMORY;
    if (code != ZSTD_error_dstSize_tooSmall)
        return CKPT_BUG;
    *ret_bytes = 0;
    return CKPT_OK;
}

/* Whether a sample of the chunk saves enough for the whole to be tried. */
static enum ckpt_status sample_worth(struct codec *c, const uint8_t *src, size_t n, bool *ret)
{
    size_t bytes;
    for (size_t i = 0; i < SAMPLE_PARTS; i++) {
        size_t at = (n - SAMPLE_PART_BYTES) / (SAMPLE_PARTS - 1) * i;
        memcpy(c->sample + i * SAMPLE_PART_BYTES, src + at, SAMPLE_PART_BYTES);
    }
    enum ckpt_status st =
        zstd_code(c->cctx, c->sample, SAMPLE_BYTES, c->coded, worth_bytes(SAMPLE_BYTES), &bytes);
    if (st != CKPT_OK)
        return st;
    *ret = bytes > 0;
    return CKPT_OK;
}

static enum ckpt_status encode_zstd(struct codec *c, int level, const void *src, size_t n,
                                    void *dst, size_t cap, size_t *ret_bytes)
{
    bool worth = n > 0;
    if (!zstd_setup(c->cctx, level))
        return CKPT_BUG;
    if (n >= SAMPLE_FROM) {
        enum ckpt_status st = sample_worth(c, src, n, &worth);
        if (st != CKPT_OK)
            return st;
    }
    *ret_bytes = 0;
    if (!worth)
        return CKPT_OK;
    return zstd_code(c->cctx, src, n, dst, min_u64(cap, worth_bytes(n)), ret_bytes);
}

enum ckpt_status codec_encode(struct codec *c, enum codec_id want, int level, const void *src,
                              size_t n, void *dst, size_t cap, enum codec_id *ret_id,
                              size_t *ret_bytes)
{
    size_t bytes = 0;
    if (want != CODEC_STORED && want != CODEC_ZSTD)
        return CKPT_UNSUPPORTED;
    if (want == CODEC_ZSTD) {
        enum ckpt_status st = encode_zstd(c, level, src, n, dst, cap, &bytes);
        if (st != CKPT_OK)
            return st;
    }
    *ret_id = bytes ? CODEC_ZSTD : CODEC_STORED;
    *ret_bytes = bytes ? bytes : n;
    return CKPT_OK;
}

/* Exactly one frame of the one kind that the format knows, over all of src. */
static bool zstd_frame_ok(const void *src, size_t n, size_t raw_bytes)
{
    ZSTD_frameHeader frame;
    return ZSTD_getFrameHeader(&frame, src, n) == 0 && frame.frameType == ZSTD_frame &&
           frame.frameContentSize == raw_bytes && frame.windowSize <= CKPT_CHUNK_BYTES_MAX &&
           frame.dictID == 0 && frame.checksumFlag == 0 &&
           ZSTD_findFrameCompressedSize(src, n) == n;
}

static enum ckpt_status decode_zstd(struct codec *c, const void *src, size_t n, void *dst,
                                    size_t raw_bytes)
{
    if (!zstd_frame_ok(src, n, raw_bytes))
        return CKPT_CORRUPT;
    size_t bytes = ZSTD_decompressDCtx(c->dctx, dst, raw_bytes, src, n);
    if (ZSTD_isError(bytes) && ZSTD_getErrorCode(bytes) == ZSTD_error_memory_allocation)
        return CKPT_NO_MEMORY;
    return bytes == raw_bytes ? CKPT_OK : CKPT_CORRUPT; /* an error code is never raw_bytes */
}

enum ckpt_status codec_decode(struct codec *c, unsigned id, unsigned planes, const void *src,
                              size_t n, void *dst, size_t raw_bytes)
{
    if (planes != 0)
        return CKPT_UNSUPPORTED;
    switch (id) {
    case CODEC_STORED:
        if (n != raw_bytes)
            return CKPT_CORRUPT;
        if (n)
            memcpy(dst, src, n);
        return CKPT_OK;
    case CODEC_ZSTD:
        return decode_zstd(c, src, n, dst, raw_bytes);
    default:
        return CKPT_UNSUPPORTED;
    }
}
