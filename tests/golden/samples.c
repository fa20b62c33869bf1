/* The samples behind tests/golden/v1: never change one, add another. */
#include "golden/samples.h"

#include <stdio.h>

#include "formats/codec.h"
#include "formats/image.h"

#include "check.h"

#define EPOCH    UINT64_C(7)
#define STEP     UINT64_C(1200)
#define ATTEMPT  UINT64_C(0x0123456789abcdef)
#define TIME_NS  INT64_C(1767225600123456789)
#define L_PREFIX SAMPLE_JOB "/l/fffffffffffffff8/"
#define NAME     "fffffffffffffff8-fffffffffffffb4f-0123456789abcdef"

static const struct ckpt_name sample_name = { EPOCH, STEP, ATTEMPT };
static const struct ckpt_name sample_parent = { EPOCH - 1, STEP - 100, 42 };

static const uint8_t sample_uuid[16] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
static const uint8_t sample_node[16] = { 0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7,
                                         0xf8, 0xf9, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff };

static const struct record_repo repo = { .uuid = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14,
                                                   15 },
                                         .format = 1,
                                         .time_ns = TIME_NS };
static struct record_skip skips[2] = {
    { { EPOCH, STEP + 100, 43 }, "rank 3 reported damaged bytes" },
    { { EPOCH, STEP + 50, 44 }, "" },
};
static const struct record_resolved resolved = {
    .epoch = EPOCH + 1,
    .kind = RESOLVED_POINT,
    .forced = true,
    .name = { EPOCH, STEP, ATTEMPT },
    .time_ns = TIME_NS + 1,
    .why = "newest commit of the newest lineage — asked for by CKPT_RESUME",
    .skips = skips,
    .skip_count = 2,
};
static const struct record_resolved nothing = {
    .epoch = 1, .kind = RESOLVED_NOTHING, .stop = true, .time_ns = -1, .why = "no checkpoint"
};
static struct record_holding holdings[3] = {
    { { EPOCH, STEP, ATTEMPT }, 0, false },
    { { EPOCH, STEP, ATTEMPT }, CKPT_RANKS_MAX - 1, false },
    { { EPOCH - 1, STEP - 100, 42 }, 1, false },
};
static const struct record_step step = { .epoch = EPOCH, .step = STEP, .time_ns = TIME_NS + 2 };
static const struct record_abort abort_ = { .status = CKPT_TIMEOUT,
                                            .rank = UINT32_MAX,
                                            .by_epoch = EPOCH + 1 };
static const struct record_held held = { .name = { EPOCH, STEP, ATTEMPT },
                                         .world = 16384,
                                         .stored_bytes = UINT64_C(5700000000000),
                                         .time_ns = TIME_NS + 3 };
static const struct record_rank_held rank_held = { .name = { EPOCH, STEP, ATTEMPT },
                                                   .rank = 5,
                                                   .pack_count = 11,
                                                   .stored_bytes = UINT64_C(350000128) };
static const struct record_tag tag = { .tag = "best-of.week_1", .set = true, .time_ns = TIME_NS };

static struct record_claim claim(void)
{
    struct record_claim r = { .token = "slurm-4711.0.2", .epoch = EPOCH, .world = 16384 };
    memcpy(r.nonce, sample_uuid, 16);
    memcpy(r.node, sample_node, 16);
    r.time_ns = TIME_NS;
    return r;
}

static struct record_node node(void)
{
    struct record_node r = { .time_ns = TIME_NS, .holdings = holdings, .count = 3 };
    memcpy(r.node, sample_node, 16);
    return r;
}

static struct record_bad bad(void)
{
    struct record_bad r = {
        .epoch = EPOCH, .rank = 3, .name = sample_name, .time_ns = TIME_NS, .corrupt = true
    };
    snprintf(r.text, sizeof(r.text), "tensor \"wte\": chunk 5 of pack 2 does not match its digest");
    return r;
}

static struct record_commit commit(void)
{
    struct record_commit r = { .name = sample_name,
                               .world = 16384,
                               .try_ = 1,
                               .has_parent = true,
                               .parent = sample_parent,
                               .vanished_allowed = true,
                               .time_ns = TIME_NS,
                               .raw_bytes = UINT64_C(5670000000000),
                               .tensor_count = 2421,
                               .pack_count = 170000,
                               .chunk_count = 1400000,
                               .index_segments = 3,
                               .index_header_bytes = 8192,
                               .metric_count = 2 };
    for (unsigned i = 0; i < sizeof(r.index_sha.b); i++)
        r.index_sha.b[i] = (uint8_t)(0xa0 + i);
    snprintf(r.metrics[0].name, sizeof(r.metrics[0].name), "loss");
    r.metrics[0].value = 2.25;
    snprintf(r.metrics[1].name, sizeof(r.metrics[1].name), "val/perplexity");
    r.metrics[1].value = -0.1;
    return r;
}

static struct record_life life(void)
{
    struct record_life r = { .life = LIFE_DELETED, .time_ns = TIME_NS };
    snprintf(r.why, sizeof(r.why), "ckpt delete by uid 1000");
    return r;
}

static void encode_repo(struct buf *out)
{
    record_repo_encode(&repo, out);
}

static void encode_claim(struct buf *out)
{
    struct record_claim r = claim();
    record_claim_encode(&r, L_PREFIX "claim", out);
}

static void encode_resolved(struct buf *out)
{
    record_resolved_encode(&resolved, SAMPLE_JOB "/l/fffffffffffffff7/resolved", out);
}

static void encode_nothing(struct buf *out)
{
    record_resolved_encode(&nothing, SAMPLE_JOB "/l/fffffffffffffffe/resolved", out);
}

static void encode_node(struct buf *out)
{
    struct record_node r = node();
    record_node_encode(&r, L_PREFIX "node-f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", out);
}

static void encode_restored(struct buf *out)
{
    record_step_encode(RECORD_RESTORED, &step, L_PREFIX "restored", out);
}

static void encode_progress(struct buf *out)
{
    record_step_encode(RECORD_PROGRESS, &step, L_PREFIX "progress", out);
}

static void encode_bad(struct buf *out)
{
    struct record_bad r = bad();
    record_bad_encode(&r, L_PREFIX "bad-3", out);
}

static void encode_commit(struct buf *out)
{
    struct record_commit r = commit();
    record_commit_encode(&r, SAMPLE_JOB "/c/" NAME, out);
}

static void encode_abort(struct buf *out)
{
    record_abort_encode(&abort_, SAMPLE_JOB "/c/" NAME, out);
}

static void encode_held(struct buf *out)
{
    record_held_encode(&held, SAMPLE_JOB "/h/" NAME, out);
}

static void encode_rank_held(struct buf *out)
{
    record_rank_held_encode(&rank_held, key_rank_held(SAMPLE_JOB, &sample_name, 5).text, out);
}

static void encode_tag(struct buf *out)
{
    record_tag_encode(&tag, SAMPLE_JOB "/t/" NAME "/best-of.week_1/fffffffffffffffe", out);
}

static void encode_life(struct buf *out)
{
    struct record_life r = life();
    record_life_encode(&r, SAMPLE_JOB "/x/" NAME "/ffffffffffffffff", out);
}

/* What was decoded gives the same bytes when it is encoded again. */
static void check_same(const struct buf *again, const void *bytes, size_t len)
{
    CHECK(!again->failed);
    CHECK_EQ(again->len, len);
    CHECK(memcmp(again->data, bytes, len) == 0);
}

#define DECODE(type)                                                                      \
    static enum ckpt_status decode_##type(const void *bytes, size_t len, const char *key, \
                                          bool compare)                                   \
    {                                                                                     \
        struct record_##type got;                                                         \
        CLEANUP_BUF struct buf again = { 0 };                                             \
        enum ckpt_status st = record_##type##_decode(bytes, len, key, &got, NULL);        \
        if (st == CKPT_OK && compare) {                                                   \
            record_##type##_encode(&got, key, &again);                                    \
            check_same(&again, bytes, len);                                               \
        }                                                                                 \
        return st;                                                                        \
    }
DECODE(claim)
DECODE(bad)
DECODE(commit)
DECODE(abort)
DECODE(held)
DECODE(rank_held)
DECODE(tag)
DECODE(life)

static enum ckpt_status decode_repo(const void *bytes, size_t len, const char *key, bool compare)
{
    struct record_repo got;
    CLEANUP_BUF struct buf again = { 0 };
    enum ckpt_status st = record_repo_decode(bytes, len, key, &got, NULL);
    if (st == CKPT_OK && compare) {
        record_repo_encode(&got, &again);
        check_same(&again, bytes, len);
    }
    return st;
}

static enum ckpt_status decode_step(enum record_kind kind, const void *bytes, size_t len,
                                    const char *key, bool compare)
{
    struct record_step got;
    enum ckpt_status st = record_step_decode(kind, bytes, len, key, &got, NULL);
    if (st == CKPT_OK && compare)
        CHECK(got.epoch == step.epoch && got.step == step.step && got.time_ns == step.time_ns);
    return st;
}

static enum ckpt_status decode_restored(const void *bytes, size_t len, const char *key,
                                        bool compare)
{
    return decode_step(RECORD_RESTORED, bytes, len, key, compare);
}

static enum ckpt_status decode_progress(const void *bytes, size_t len, const char *key,
                                        bool compare)
{
    return decode_step(RECORD_PROGRESS, bytes, len, key, compare);
}

static void compare_resolved(const struct record_resolved *got, const struct record_resolved *want)
{
    CHECK_EQ(got->epoch, want->epoch);
    CHECK_EQ(got->kind, want->kind);
    CHECK_EQ(got->forced, want->forced);
    CHECK_EQ(got->stop, want->stop);
    CHECK(name_equal(&got->name, &want->name));
    CHECK_EQ(got->time_ns, want->time_ns);
    CHECK_STR(got->why, want->why);
    CHECK_EQ(got->skip_count, want->skip_count);
    for (uint32_t i = 0; i < want->skip_count; i++) {
        CHECK(name_equal(&got->skips[i].name, &want->skips[i].name));
        CHECK_STR(got->skips[i].why, want->skips[i].why);
    }
}

static enum ckpt_status decode_resolved(const void *bytes, size_t len, const char *key,
                                        bool compare)
{
    struct record_resolved got = { 0 };
    enum ckpt_status st = record_resolved_decode(bytes, len, key, &got, NULL);
    if (st == CKPT_OK && compare)
        compare_resolved(&got, strstr(key, "fe/resolved") ? &nothing : &resolved);
    record_resolved_fini(&got);
    return st;
}

static enum ckpt_status decode_node(const void *bytes, size_t len, const char *key, bool compare)
{
    struct record_node got = { 0 };
    enum ckpt_status st = record_node_decode(bytes, len, key, &got, NULL);
    if (st == CKPT_OK && compare) {
        CHECK(memcmp(got.node, sample_node, 16) == 0);
        CHECK_EQ(got.time_ns, TIME_NS);
        CHECK_EQ(got.count, 3);
        for (uint32_t i = 0; i < 3; i++) {
            CHECK(name_equal(&got.holdings[i].name, &holdings[i].name));
            CHECK_EQ(got.holdings[i].rank, holdings[i].rank);
        }
    }
    record_node_fini(&got);
    return st;
}

/* Noise, but for the second: that one can be coded, and an image puts it on a 4 KiB border. */
static const uint32_t chunk_sizes[SAMPLE_CHUNKS] = { 100, 65536, 1, 5001 };

uint8_t *sample_chunk(unsigned i, uint32_t *ret_bytes)
{
    unsigned long long state = 1000 + i;
    uint8_t *bytes = malloc(chunk_sizes[i]);
    CHECK(bytes != NULL);
    for (uint32_t k = 0; k < chunk_sizes[i]; k++)
        bytes[k] = (uint8_t)(i == 1 ? test_rand(&state) & 7 : test_rand(&state));
    *ret_bytes = chunk_sizes[i];
    return bytes;
}

static struct pack_head sample_head(uint16_t flags, struct pack_chunk *chunks)
{
    struct digest raw[SAMPLE_CHUNKS];
    uint32_t sizes[SAMPLE_CHUNKS];
    for (unsigned i = 0; i < SAMPLE_CHUNKS; i++) {
        CLEANUP_FREE uint8_t *bytes = sample_chunk(i, &sizes[i]);
        raw[i] = digest_of(bytes, sizes[i]);
    }
    return (struct pack_head){ .name = sample_name,
                               .job_hash = digest_hash(SAMPLE_JOB, strlen(SAMPLE_JOB)),
                               .rank = 5,
                               .slot = 2,
                               .flags = flags,
                               .id = pack_id(raw, sizes, SAMPLE_CHUNKS),
                               .chunk_count = SAMPLE_CHUNKS,
                               .chunks = chunks };
}

/* Puts one chunk behind `body`, which grows to `offset` with zeros first. */
static void put_chunk(struct buf *body, struct codec *codec, enum codec_id want, unsigned i,
                      struct pack_chunk *chunk)
{
    CLEANUP_FREE uint8_t *raw = sample_chunk(i, &chunk->raw_bytes);
    size_t cap = codec_bound(want, chunk->raw_bytes);
    CLEANUP_FREE uint8_t *coded = malloc(cap);
    enum codec_id id;
    size_t bytes;
    CHECK(coded != NULL);
    CHECK_OK(codec_encode(codec, want, 1, raw, chunk->raw_bytes, coded, cap, &id, &bytes));
    buf_zero(body, chunk->offset - body->len);
    buf_bytes(body, id == CODEC_STORED ? raw : coded, bytes);
    chunk->codec = (uint8_t)id;
    chunk->stored_bytes = (uint32_t)bytes;
    chunk->crc = crc32c(body->data + chunk->offset, bytes);
}

static void encode_pack(uint16_t flags, enum codec_id want, struct buf *out)
{
    struct pack_chunk chunks[SAMPLE_CHUNKS] = { 0 };
    struct pack_head head = sample_head(flags, chunks);
    CLEANUP_BUF struct buf body = { 0 };
    struct codec *codec = codec_new();
    uint64_t used = 0;
    CHECK(codec != NULL);
    for (unsigned i = 0; i < SAMPLE_CHUNKS; i++) {
        chunks[i].offset = flags & PACK_FLAG_IMAGE ? image_offset_next(&used, chunk_sizes[i])
                                                   : align_up(body.len, 8);
        put_chunk(&body, codec, want, i, &chunks[i]);
    }
    buf_zero(&body, align_up(body.len, CKPT_BLOCK) - body.len);
    head.body_bytes = body.len;
    uint8_t *to = buf_extend(out, pack_head_bytes(SAMPLE_CHUNKS));
    CHECK(to != NULL && !body.failed);
    pack_head_encode(&head, to);
    buf_bytes(out, body.data, body.len);
    codec_free(codec);
}

static void encode_image(struct buf *out)
{
    encode_pack(PACK_FLAG_IMAGE, CODEC_STORED, out);
}

static void encode_stored(struct buf *out)
{
    encode_pack(0, CODEC_STORED, out);
}

static void encode_zstd(struct buf *out)
{
    encode_pack(0, CODEC_ZSTD, out);
}

/* Every chunk by its sum and its codec; all bytes of the object are accounted for. */
static void compare_chunks(const struct pack_head *head, const uint8_t *body)
{
    struct codec *codec = codec_new();
    CHECK(codec != NULL);
    for (unsigned i = 0; i < SAMPLE_CHUNKS; i++) {
        const struct pack_chunk *chunk = &head->chunks[i];
        uint32_t raw_bytes;
        CLEANUP_FREE uint8_t *raw = sample_chunk(i, &raw_bytes);
        CLEANUP_FREE uint8_t *got = malloc(raw_bytes);
        CHECK(got != NULL);
        CHECK_EQ(chunk->raw_bytes, raw_bytes);
        CHECK_EQ(chunk->crc, crc32c(body + chunk->offset, chunk->stored_bytes));
        CHECK_OK(codec_decode(codec, chunk->codec, chunk->planes, body + chunk->offset,
                              chunk->stored_bytes, got, raw_bytes));
        CHECK(memcmp(got, raw, raw_bytes) == 0);
    }
    codec_free(codec);
}

static enum ckpt_status decode_pack(const void *bytes, size_t len, const char *key, bool compare)
{
    struct pack_chunk chunks[SAMPLE_CHUNKS];
    struct pack_head head = { .chunks = chunks };
    (void)key;
    enum ckpt_status st = pack_head_decode(bytes, len, SAMPLE_CHUNKS, &head, NULL);
    if (st == CKPT_OK && compare) {
        struct pack_head want = sample_head(head.flags, chunks);
        want.body_bytes = len - pack_head_bytes(SAMPLE_CHUNKS);
        CHECK_EQ(pack_head_peek(bytes, len), SAMPLE_CHUNKS);
        CHECK_EQ(head.body_bytes, want.body_bytes);
        CHECK(digest_equal(&head.id, &want.id) && name_equal(&head.name, &want.name));
        CHECK(head.rank == 5 && head.slot == 2 && head.job_hash == want.job_hash);
        compare_chunks(&head, (const uint8_t *)bytes + pack_head_bytes(SAMPLE_CHUNKS));
    }
    return st;
}

const struct sample *sample_at(unsigned i)
{
    static struct key rank_held_key, pack_key;
    static struct sample samples[SAMPLES] = {
        { "repo.bin", KEY_REPO, encode_repo, decode_repo, true },
        { "claim.bin", L_PREFIX "claim", encode_claim, decode_claim, true },
        { "resolved.bin", SAMPLE_JOB "/l/fffffffffffffff7/resolved", encode_resolved,
          decode_resolved, true },
        { "resolved_nothing.bin", SAMPLE_JOB "/l/fffffffffffffffe/resolved", encode_nothing,
          decode_resolved, true },
        { "node.bin", L_PREFIX "node-f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", encode_node, decode_node,
          true },
        { "restored.bin", L_PREFIX "restored", encode_restored, decode_restored, true },
        { "progress.bin", L_PREFIX "progress", encode_progress, decode_progress, true },
        { "bad.bin", L_PREFIX "bad-3", encode_bad, decode_bad, true },
        { "commit.bin", SAMPLE_JOB "/c/" NAME, encode_commit, decode_commit, true },
        { "abort.bin", SAMPLE_JOB "/c/" NAME, encode_abort, decode_abort, true },
        { "held.bin", SAMPLE_JOB "/h/" NAME, encode_held, decode_held, true },
        { "rank_held.bin", rank_held_key.text, encode_rank_held, decode_rank_held, true },
        { "tag.bin", SAMPLE_JOB "/t/" NAME "/best-of.week_1/fffffffffffffffe", encode_tag,
          decode_tag, true },
        { "life.bin", SAMPLE_JOB "/x/" NAME "/ffffffffffffffff", encode_life, decode_life, true },
        { "pack_image.bin", pack_key.text, encode_image, decode_pack, true },
        { "pack_stored.bin", pack_key.text, encode_stored, decode_pack, true },
        { "pack_zstd.bin", pack_key.text, encode_zstd, decode_pack, false },
    };
    rank_held_key = key_rank_held(SAMPLE_JOB, &sample_name, 5);
    struct pack_head head = sample_head(0, NULL);
    pack_key = key_pack(SAMPLE_JOB, &sample_name, 5, 2, &head.id);
    return &samples[i];
}
