/* Records: fields survive, sizes tell ABORT from COMMIT, and a well-summed record
 * that makes no sense is refused.  Covers record.c, record_commit.c and record_launch.c
 * together.  (Damage of every kind: test_golden.c) */
#include <math.h>
#include <stdio.h>

#include "formats/index.h"
#include "formats/record.h"

#include "check.h"

static const struct ckpt_name name = { 3, 9, 0x55 };

static const char *job_of_length(size_t n)
{
    static char job[CKPT_JOB_NAME_MAX + 1];
    memset(job, 'j', n);
    job[n] = 0;
    return job;
}

/* Law: for every length of the job's name, ABORT <= 255 < 256 <= COMMIT. */
static int test_sizes_tell(void)
{
    int padded = 0;
    for (size_t n = 1; n <= CKPT_JOB_NAME_MAX; n++) {
        struct key key = key_commit(job_of_length(n), &name);
        CLEANUP_BUF struct buf abort_ = { 0 }, commit = { 0 };
        struct record_abort a = { .status = CKPT_TIMEOUT, .rank = 1, .by_epoch = UINT64_MAX };
        struct record_commit c = { .name = name, .world = 1 };
        record_abort_encode(&a, key.text, &abort_);
        record_commit_encode(&c, key.text, &commit);
        CHECK(abort_.len <= RECORD_ABORT_MAX && commit.len > RECORD_ABORT_MAX);
        padded += commit.len == 256;
        CHECK_EQ(record_kind_of(abort_.data, abort_.len), RECORD_ABORT);
        CHECK_EQ(record_kind_of(commit.data, commit.len), RECORD_COMMIT);
        CHECK_OK(record_abort_decode(abort_.data, abort_.len, key.text, &a, NULL));
        CHECK_OK(record_commit_decode(commit.data, commit.len, key.text, &c, NULL));
        CHECK(a.status == CKPT_TIMEOUT && a.by_epoch == UINT64_MAX);
        CHECK(!c.has_parent && c.metric_count == 0);
    }
    CHECK(padded > 5 && padded < 100); /* short jobs are padded, long ones need it not */
    return 7 * CKPT_JOB_NAME_MAX;
}

static struct record_commit full_commit(void)
{
    struct record_commit r = { .name = name,
                               .world = 11,
                               .try_ = 12,
                               .has_parent = true,
                               .parent = { 1, 2, 3 },
                               .time_ns = -13,
                               .raw_bytes = 14,
                               .tensor_count = 15,
                               .pack_count = 16,
                               .chunk_count = 17,
                               .index_segments = 18,
                               .index_header_bytes = 19,
                               .metric_count = RECORD_METRICS_MAX };
    memset(r.index_sha.b, 20, sizeof(r.index_sha.b));
    for (unsigned i = 0; i < RECORD_METRICS_MAX; i++) {
        memset(r.metrics[i].name, 'm', RECORD_METRIC_NAME_MAX);
        r.metrics[i].value = i ? 1.0 / i : -INFINITY;
    }
    return r;
}

static int test_commit_fields(void)
{
    struct record_commit r = full_commit(), got;
    struct key key = key_commit("job", &name);
    CLEANUP_BUF struct buf b = { 0 };
    record_commit_encode(&r, key.text, &b);
    CHECK_OK(record_commit_decode(b.data, b.len, key.text, &got, NULL));
    CHECK(name_equal(&got.name, &name) && name_equal(&got.parent, &r.parent));
    CHECK(got.world == 11 && got.try_ == 12 && got.has_parent && !got.vanished_allowed);
    CHECK(got.time_ns == -13 && got.raw_bytes == 14 && got.tensor_count == 15);
    CHECK(got.pack_count == 16 && got.chunk_count == 17 && got.index_segments == 18);
    CHECK(got.index_header_bytes == 19 && sha256_equal(&got.index_sha, &r.index_sha));
    CHECK_EQ(got.metric_count, RECORD_METRICS_MAX);
    for (unsigned i = 0; i < RECORD_METRICS_MAX; i++) {
        CHECK_STR(got.metrics[i].name, r.metrics[i].name);
        CHECK(got.metrics[i].value == r.metrics[i].value);
    }
    return 7 + 2 * RECORD_METRICS_MAX;
}

/* A reader makes room for the index header before it has seen a byte of it. */
static int test_commit_limits(void)
{
    struct record_commit r = full_commit(), got;
    struct key key = key_commit("job", &name);
    static const uint32_t sizes[] = { 0, INDEX_HEADER_BYTES_MAX, INDEX_HEADER_BYTES_MAX + 1,
                                      UINT32_MAX };
    for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        CLEANUP_BUF struct buf b = { 0 };
        r.index_header_bytes = sizes[i];
        record_commit_encode(&r, key.text, &b);
        CHECK_EQ(record_commit_decode(b.data, b.len, key.text, &got, NULL),
                 sizes[i] <= INDEX_HEADER_BYTES_MAX ? CKPT_OK : CKPT_CORRUPT);
    }
    return ARRAY_COUNT(sizes);
}

static int test_launch_fields(void)
{
    struct record_claim c = { .epoch = 1, .world = CKPT_RANKS_MAX, .time_ns = 4 }, cg;
    CLEANUP_BUF struct buf b = { 0 };
    memset(c.token, 't', RECORD_TOKEN_MAX);
    memset(c.nonce, 2, 16);
    memset(c.node, 3, 16);
    record_claim_encode(&c, "j/l/x/claim", &b);
    CHECK_OK(record_claim_decode(b.data, b.len, "j/l/x/claim", &cg, NULL));
    CHECK_STR(cg.token, c.token);
    CHECK(cg.epoch == 1 && cg.world == CKPT_RANKS_MAX && cg.time_ns == 4);
    CHECK(memcmp(cg.nonce, c.nonce, 16) == 0 && memcmp(cg.node, c.node, 16) == 0);
    buf_fini(&b);
    struct record_bad d = { .epoch = 5, .rank = 6, .name = name, .time_ns = 7, .corrupt = true };
    struct record_bad dg;
    memset(d.text, 'x', RECORD_TEXT_MAX - 1);
    record_bad_encode(&d, "k", &b);
    CHECK_OK(record_bad_decode(b.data, b.len, "k", &dg, NULL));
    CHECK(dg.epoch == 5 && dg.rank == 6 && name_equal(&dg.name, &name) && dg.time_ns == 7);
    CHECK(dg.corrupt);
    CHECK_STR(dg.text, d.text);
    return 8;
}

static int test_small_fields(void)
{
    CLEANUP_BUF struct buf b = { 0 };
    struct record_held h = { .name = name, .world = 2, .stored_bytes = 3, .time_ns = 4 }, hg;
    struct key key = key_held("job", &name);
    record_held_encode(&h, key.text, &b);
    CHECK_OK(record_held_decode(b.data, b.len, key.text, &hg, NULL));
    CHECK(name_equal(&hg.name, &name) && hg.world == 2 && hg.stored_bytes == 3 && hg.time_ns == 4);
    buf_fini(&b);
    struct record_rank_held k = { .name = name, .rank = 2, .pack_count = 3, .stored_bytes = 4 };
    struct record_rank_held kg;
    record_rank_held_encode(&k, "k", &b);
    CHECK_OK(record_rank_held_decode(b.data, b.len, "k", &kg, NULL));
    CHECK(name_equal(&kg.name, &name) && kg.rank == 2 && kg.pack_count == 3 &&
          kg.stored_bytes == 4 && !kg.whole);
    size_t plain = b.len;
    buf_fini(&b);
    k.whole = true;
    record_rank_held_encode(&k, "k", &b);
    CHECK_EQ(b.len, plain + 4);
    CHECK_OK(record_rank_held_decode(b.data, b.len, "k", &kg, NULL));
    CHECK(kg.whole && kg.stored_bytes == 4);
    buf_fini(&b);
    struct record_life l = { .life = LIFE_GONE, .time_ns = 8 }, lg;
    memset(l.why, 'w', sizeof(l.why) - 1);
    record_life_encode(&l, "k", &b);
    CHECK_OK(record_life_decode(b.data, b.len, "k", &lg, NULL));
    CHECK(lg.life == LIFE_GONE && lg.time_ns == 8);
    CHECK_STR(lg.why, l.why);
    return 7;
}

/* Lists at their limits and empty ones. */
static int test_lists(void)
{
    CLEANUP_FREE struct record_skip *skips = calloc(RECORD_SKIPS_MAX, sizeof(*skips));
    CHECK(skips != NULL);
    for (unsigned i = 0; i < RECORD_SKIPS_MAX; i++) {
        skips[i].name.step = i;
        memset(skips[i].why, 's', sizeof(skips[i].why) - 1);
    }
    struct record_resolved r = { .epoch = 1, .kind = RESOLVED_SUPERSEDED, .skips = skips }, got;
    struct record_node n = { .time_ns = 5 }, ngot;
    CLEANUP_BUF struct buf b = { 0 };
    for (unsigned count = 0; count <= RECORD_SKIPS_MAX; count += RECORD_SKIPS_MAX / 2) {
        buf_fini(&b);
        r.skip_count = count;
        record_resolved_encode(&r, "k", &b);
        CHECK_OK(record_resolved_decode(b.data, b.len, "k", &got, NULL));
        CHECK_EQ(got.skip_count, count);
        CHECK(count ? got.skips[count - 1].name.step == count - 1 : got.skips == NULL);
        record_resolved_fini(&got);
        CHECK(got.skips == NULL && got.skip_count == 0);
    }
    buf_fini(&b);
    record_node_encode(&n, "k", &b);
    CHECK_OK(record_node_decode(b.data, b.len, "k", &ngot, NULL));
    CHECK(ngot.count == 0 && ngot.holdings == NULL && ngot.time_ns == 5);
    record_node_fini(&ngot);
    return 14;
}

/* Changes one byte of a record's body and makes the sum right again. */
static void patch(struct buf *b, size_t body_at, size_t key_len, uint8_t value)
{
    b->data[18 + key_len + body_at] = value;
    struct digest sum = digest_of(b->data, b->len - 16);
    memcpy(b->data + b->len - 16, sum.b, 16);
}

#define NONSENSE(type, record, at, value)                                                    \
    do {                                                                                     \
        CLEANUP_BUF struct buf b = { 0 };                                                    \
        struct record_##type got;                                                            \
        record_##type##_encode(&record, key.text, &b);                                       \
        CHECK_OK(record_##type##_decode(b.data, b.len, key.text, &got, NULL));               \
        fini(&got, sizeof(got), RECORD_OF_##type);                                           \
        patch(&b, at, strlen(key.text), value);                                              \
        CHECK_EQ(record_##type##_decode(b.data, b.len, key.text, &got, NULL), CKPT_CORRUPT); \
        cases++;                                                                             \
    } while (0)
#define RECORD_OF_claim     RECORD_CLAIM
#define RECORD_OF_resolved  RECORD_RESOLVED
#define RECORD_OF_node      RECORD_NODE
#define RECORD_OF_bad       RECORD_BAD
#define RECORD_OF_commit    RECORD_COMMIT
#define RECORD_OF_abort     RECORD_ABORT
#define RECORD_OF_held      RECORD_HELD
#define RECORD_OF_rank_held RECORD_RANK_HELD
#define RECORD_OF_tag       RECORD_TAG
#define RECORD_OF_life      RECORD_LIFE

static void fini(void *got, size_t bytes, enum record_kind kind)
{
    if (kind == RECORD_RESOLVED && bytes)
        record_resolved_fini(got);
    if (kind == RECORD_NODE && bytes)
        record_node_fini(got);
}

static int test_nonsense_of_launches(void)
{
    int cases = 0;
    struct key key = key_claim("job", 3);
    struct record_claim claim = { .token = "t", .epoch = 3, .world = 1 };
    NONSENSE(claim, claim, 8, 0);         /* no ranks */
    NONSENSE(claim, claim, 10, 0x10 | 1); /* more than 2^20 */
    NONSENSE(claim, claim, 15, 1);        /* reserved */
    NONSENSE(claim, claim, 56, 0);        /* token shorter than the body */
    NONSENSE(claim, claim, 57, 1);        /* longer */
    NONSENSE(claim, claim, 58, 0);        /* a NUL in it */
    struct record_skip skips[1] = { { .why = "w" } };
    struct record_resolved resolved = { .kind = RESOLVED_NOTHING, .skips = skips, .skip_count = 1 };
    NONSENSE(resolved, resolved, 8, 3);  /* kind */
    NONSENSE(resolved, resolved, 9, 4);  /* flag */
    NONSENSE(resolved, resolved, 10, 1); /* reserved */
    NONSENSE(resolved, resolved, 12, 0); /* fewer skips */
    NONSENSE(resolved, resolved, 12, 2); /* more */
    NONSENSE(resolved, resolved, 15, 0xff);
    NONSENSE(resolved, resolved, 16, 1); /* a name, yet nothing to resume from */
    struct record_holding holdings[1] = { { .rank = 1, .whole = true } };
    uint32_t ranks[2] = { 3, 5 };
    struct record_node node = { .holdings = holdings, .count = 1, .ranks = ranks, .rank_count = 2 };
    struct record_rank_held held = { .rank = 1, .whole = true };
    NONSENSE(rank_held, held, 40, 2); /* no flag that is known */
    NONSENSE(rank_held, held, 40, 0);
    NONSENSE(node, node, 32 + 28, 2);
    NONSENSE(node, node, 32 + 32 + 4, 3);    /* ranks that do not rise */
    NONSENSE(node, node, 32 + 32 + 6, 0x10); /* rank 2^20 */
    NONSENSE(node, node, 24, 2);
    NONSENSE(node, node, 27, 0xff);
    NONSENSE(node, node, 28, 1);
    NONSENSE(node, node, 32 + 26, 0x10); /* rank 2^20 */
    NONSENSE(node, node, 32 + 29, 1);
    struct record_bad bad = { .rank = 1, .text = "x" };
    NONSENSE(bad, bad, 10, 0x10);
    NONSENSE(bad, bad, 12, 2);
    NONSENSE(bad, bad, 13, 1);
    NONSENSE(bad, bad, 49, 4); /* text of 1025 bytes */
    return cases;
}

static int test_nonsense_of_commits(void)
{
    int cases = 0;
    struct key key = key_commit("j", &name);
    struct record_commit commit = { .name = name, .world = 1 };
    NONSENSE(commit, commit, 0, 4);              /* not the name in the key */
    NONSENSE(commit, commit, 24, 0);             /* no ranks */
    NONSENSE(commit, commit, 32, 4);             /* flag */
    NONSENSE(commit, commit, 36, 65);            /* metrics */
    NONSENSE(commit, commit, 36, 1);             /* an empty name of a metric, out of the padding */
    NONSENSE(commit, commit, 40, 1);             /* a parent without its flag */
    NONSENSE(commit, commit, 64 + 8 + 8 + 3, 2); /* tensors */
    NONSENSE(commit, commit, 256 - 16 - 18 - 54 - 1, 1); /* padding */
    struct record_abort abort_ = { .status = CKPT_ABORTED, .rank = 1 };
    NONSENSE(abort, abort_, 6, 0x10); /* rank 2^20 */
    key = key_held("j", &name);
    struct record_held held = { .name = name, .world = 1 };
    NONSENSE(held, held, 8, 1);
    NONSENSE(held, held, 24, 0);
    NONSENSE(held, held, 28, 1);
    struct record_rank_held rank_held = { .rank = 1 };
    NONSENSE(rank_held, rank_held, 26, 0x10);
    struct record_tag tag = { .tag = "t", .set = true };
    NONSENSE(tag, tag, 0, 2);
    NONSENSE(tag, tag, 7, 1);
    NONSENSE(tag, tag, 18, '/');
    struct record_life life = { .why = "w" };
    NONSENSE(life, life, 0, 3);
    NONSENSE(life, life, 1, 1);
    return cases;
}

static int test_versions_and_reasons(void)
{
    struct record_abort r = { .status = CKPT_TIMEOUT, .rank = UINT32_MAX }, got;
    struct key key = key_commit("j", &name);
    struct ckpt_err err = { 0 };
    CLEANUP_BUF struct buf b = { 0 };
    record_abort_encode(&r, key.text, &b);
    patch(&b, 0, strlen(key.text), 200); /* a status that only newer programs know */
    CHECK_OK(record_abort_decode(b.data, b.len, key.text, &got, NULL));
    CHECK_EQ(got.status, CKPT_ABORTED);
    CHECK_EQ(got.rank, UINT32_MAX);
    b.data[8] = 2;
    patch(&b, 0, strlen(key.text), 16);
    CHECK_EQ(record_abort_decode(b.data, b.len, key.text, &got, &err), CKPT_UNSUPPORTED);
    CHECK(strstr(err.text, key.text) && strstr(err.text, "version 2"));
    CHECK_EQ(record_kind_of(b.data, b.len), RECORD_ABORT);
    b.data[8] = 0;
    patch(&b, 0, strlen(key.text), 16);
    CHECK_EQ(record_abort_decode(b.data, b.len, key.text, &got, NULL), CKPT_CORRUPT);
    CHECK_EQ(record_kind_of("CKPTREC", 8), 0);
    b.data[10] = 14;
    patch(&b, 0, strlen(key.text), 16);
    CHECK_EQ(record_kind_of(b.data, b.len), 0);
    return 9;
}

/* Two records one after the other in one buffer are each whole. */
static int test_append(void)
{
    CLEANUP_BUF struct buf b = { 0 };
    struct record_repo r = { .format = 1, .time_ns = 2 }, got;
    record_repo_encode(&r, &b);
    size_t first = b.len;
    record_repo_encode(&r, &b);
    CHECK_OK(record_repo_decode(b.data + first, b.len - first, KEY_REPO, &got, NULL));
    CHECK(got.format == 1 && got.time_ns == 2);
    CHECK_EQ(record_repo_decode(b.data, b.len, KEY_REPO, &got, NULL), CKPT_CORRUPT);
    struct buf failed = { .failed = true };
    record_repo_encode(&r, &failed);
    CHECK(failed.failed && failed.len == 0);
    return 4;
}

/* A key that only begins, or only goes on, like the record's own is another key. */
static int test_near_keys(void)
{
    CLEANUP_BUF struct buf b = { 0 };
    struct record_step r = { .epoch = 1 }, got;
    record_step_encode(RECORD_PROGRESS, &r, "ab", &b);
    CHECK_OK(record_step_decode(RECORD_PROGRESS, b.data, b.len, "ab", &got, NULL));
    static const char *const near[] = { "", "a", "abc", "Ab", "ba" };
    for (size_t i = 0; i < ARRAY_COUNT(near); i++)
        CHECK_EQ(record_step_decode(RECORD_PROGRESS, b.data, b.len, near[i], &got, NULL),
                 CKPT_CORRUPT);
    for (int off = -1; off <= 1; off += 2) { /* a length that lies under a right sum */
        buf_patch_u32(&b, 12, (uint32_t)((int)b.len + off));
        patch(&b, 0, 2, 1);
        CHECK_EQ(record_step_decode(RECORD_PROGRESS, b.data, b.len, "ab", &got, NULL),
                 CKPT_CORRUPT);
    }
    return 3 + ARRAY_COUNT(near);
}

/* Zeros behind a commit that needs no padding are not believed, whatever the sum. */
static int test_padding_ends(void)
{
    struct record_commit r = full_commit(), got;
    struct key key = key_commit("job", &name);
    CLEANUP_BUF struct buf b = { 0 };
    record_commit_encode(&r, key.text, &b);
    b.len -= 16;
    buf_zero(&b, 8);
    buf_patch_u32(&b, 12, (uint32_t)b.len + 16);
    struct digest sum = digest_of(b.data, b.len);
    buf_bytes(&b, sum.b, sizeof(sum.b));
    CHECK_EQ(record_kind_of(b.data, b.len), RECORD_COMMIT);
    CHECK_EQ(record_commit_decode(b.data, b.len, key.text, &got, NULL), CKPT_CORRUPT);
    return 2;
}

int main(void)
{
    long cases = test_sizes_tell() + test_commit_fields() + test_commit_limits();
    cases += test_launch_fields();
    cases += test_small_fields() + test_lists() + test_nonsense_of_launches();
    cases += test_nonsense_of_commits() + test_versions_and_reasons() + test_append();
    cases += test_near_keys() + test_padding_ends();
    TEST_CASES(cases);
    return 0;
}
