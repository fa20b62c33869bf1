/* Makes a store directory for the command-line cases, straight through the engine:
 *
 *     make_jobs DIR JOB WORD...
 *
 * Words, in order: STEP saves and commits that step; "abort=STEP" gives one up;
 * "launch" starts the next launch at the newest checkpoint; "resume=STEP" starts one at
 * that step; "tag=NAME" tags the last checkpoint; "ranks=N" (default 2), "zstd",
 * "drop=TENSOR" leaves a tensor out from here on (allowed), "big=NAME" calls the tensor
 * "big" so, "metric=NAME" adds a metric to what is saved, "bad=TEXT" says of the checkpoint
 * that was resumed from that its bytes are wrong.
 *
 * The bytes of a tensor follow from its name and the step, so that a reader that knows
 * nothing of ckpt can compute them: byte i = (sum of the name's bytes + 7 * step +
 * 31 * i + 17 * (i >> 8)) & 255. */
#include "formats/dtype.h"
#include "storage/repo/launch.h"
#include "storage/repo/publish.h"
#include "storage/repo/save.h"

#include "check.h"

#define RANKS_MAX 16

struct model_tensor {
    const char *name;
    unsigned dtype, kind, flags;
    uint32_t ndim;
    uint64_t shape[3];
    const char *alias;
};
static const struct model_tensor model[] = {
    { .name = "layers.0.weight", .dtype = CKPT_DTYPE_F32, .ndim = 2, .shape = { 64, 48 } },
    { .name = "layers.1.weight", .dtype = CKPT_DTYPE_BF16, .ndim = 3, .shape = { 5, 3, 8 } },
    { .name = "läyers/\"odd\" \\ name", .dtype = CKPT_DTYPE_I64, .ndim = 1, .shape = { 7 } },
    { .name = "big", .dtype = CKPT_DTYPE_U8, .ndim = 2, .shape = { 12000, 1024 } },
    { .name = "scalar", .dtype = CKPT_DTYPE_F64 },
    { .name = "empty", .dtype = CKPT_DTYPE_F32, .ndim = 2, .shape = { 0, 3 } },
    { .name = "locked", .dtype = CKPT_DTYPE_U8, .kind = DECL_LOCKED, .ndim = 1, .shape = { 100 } },
    { .name = "complex", .dtype = CKPT_DTYPE_C128, .ndim = 2, .shape = { 2, 3 } },
    { .name = "tied",
      .dtype = CKPT_DTYPE_F32,
      .flags = DECL_ALIAS,
      .ndim = 2,
      .shape = { 64, 48 },
      .alias = "layers.0.weight" },
    { .name = "rng@0", .dtype = CKPT_DTYPE_U8, .flags = DECL_OBJECT, .ndim = 1, .shape = { 108 } },
    { .name = "loader/state",
      .dtype = CKPT_DTYPE_U8,
      .flags = DECL_OBJECT,
      .ndim = 1,
      .shape = { 8 + 5000 } },
};

struct maker {
    struct store *s;
    const char *job;
    uint32_t world;
    uint64_t epoch;
    const char *dropped, *big;
    const char *metrics[RECORD_METRICS_MAX];
    uint32_t metric_count;
    struct save_codec codec;
    struct ckpt_name last;
    bool has_last;
    int64_t time_ns;
};

/* -- one rank's part ----------------------------------------------------- */

static void tensor_content(const struct decl_tensor *t, uint64_t step, uint8_t *to, uint64_t bytes)
{
    uint64_t sum = 7 * step;
    uint64_t from = 0;
    for (const char *c = t->name; *c; c++)
        sum += (unsigned char)*c;
    if (t->flags & DECL_OBJECT) { /* length, bytes, zeros to capacity */
        uint64_t len = (bytes - 8) / 2;
        memset(to, 0, bytes);
        memcpy(to, &len, 8);
        from = 8;
        bytes = 8 + len;
    }
    for (uint64_t i = from; i < bytes; i++)
        to[i] = (uint8_t)(sum + 31 * (i - from) + 17 * ((i - from) >> 8));
}

/* Rows of dimension 0, as evenly as can be; what has no rows lies on the last rank. */
static struct box rank_box(const struct model_tensor *t, uint32_t rank, uint32_t world)
{
    struct box box = box_whole(t->ndim, t->shape);
    bool whole = t->ndim == 0 || t->shape[0] < world || (t->flags & DECL_OBJECT);
    if (whole && rank != world - 1)
        box.ndim = UINT32_MAX;
    if (whole)
        return box;
    box.off[0] = t->shape[0] * rank / world;
    box.len[0] = t->shape[0] * (rank + 1) / world - box.off[0];
    return box;
}

static void declare(const struct maker *m, uint32_t rank, struct decl *d)
{
    for (size_t i = 0; i < ARRAY_COUNT(model); i++) {
        const struct model_tensor *t = &model[i];
        if (m->dropped && strcmp(t->name, m->dropped) == 0)
            continue;
        const char *name = m->big && strcmp(t->name, "big") == 0 ? m->big : t->name;
        struct decl_tensor dt = { .name = (char *)(uintptr_t)name,
                                  .alias = (char *)(uintptr_t)t->alias,
                                  .dtype = (uint8_t)t->dtype,
                                  .kind = (uint8_t)t->kind,
                                  .flags = (uint16_t)t->flags,
                                  .ndim = t->ndim };
        memcpy(dt.shape, t->shape, sizeof(t->shape));
        CHECK_OK(decl_add_tensor(d, &dt, NULL));
        struct decl_piece p = { .box = rank_box(t, rank, m->world), .replica_count = 1 };
        if (t->alias || p.box.ndim == UINT32_MAX)
            continue;
        int64_t stride = 1;
        for (uint32_t k = t->ndim; k-- > 0; stride *= (int64_t)max_u64(p.box.len[k], 1))
            p.stride[k] = stride;
        CHECK_OK(decl_add_piece(d, &p, NULL));
    }
    CHECK_OK(decl_finish(d, CKPT_SLOT_BYTES_MIN, NULL));
}

static void fill_slot(const struct decl *d, uint64_t step, uint32_t slot, uint8_t *memory)
{
    struct decl_walk w = decl_walk_slot(d, slot);
    struct decl_tile tile;
    while (decl_walk_next(&w, &tile)) {
        const struct decl_tensor *t = &d->tensors[tile.tensor];
        unsigned bits = dtype_bits(t->dtype);
        struct box whole = box_whole(t->ndim, t->shape);
        uint64_t bytes = box_bytes(&whole, bits);
        CLEANUP_FREE uint8_t *dense = malloc(bytes + 1);
        CHECK(dense);
        tensor_content(t, step, dense, bytes);
        struct strided to = dense_at(&tile.box, bits, memory + tile.place.offset);
        struct strided from = dense_at(&whole, bits, dense);
        box_copy(&tile.box, bits, &tile.box, &to, &whole, &from);
    }
}

static void save_rank(const struct maker *m, const struct ckpt_name *name, uint32_t rank)
{
    struct decl d = { 0 };
    declare(m, rank, &d);
    struct save_work *work = save_work_new(CKPT_SLOT_BYTES_MIN);
    CLEANUP_FREE uint8_t *memory = aligned_alloc(CKPT_BLOCK, CKPT_SLOT_BYTES_MIN);
    CLEANUP_FREE struct digest *digests = calloc(d.chunk_count + 1, sizeof(*digests));
    CLEANUP_FREE uint32_t *crcs = calloc(d.chunk_count + 1, sizeof(*crcs));
    CLEANUP_FREE struct manifest_pack *packs = calloc(d.slot_count + 1, sizeof(*packs));
    CHECK(work && memory && digests && crcs && packs);
    uint64_t stored = 0;
    for (uint32_t slot = 0; slot < d.slot_count; slot++) {
        struct save_slot in = { .job = m->job,
                                .name = *name,
                                .rank = rank,
                                .d = &d,
                                .slot = slot,
                                .memory = memory,
                                .codec = m->codec };
        struct save_packed packed;
        fill_slot(&d, name->step, slot, memory);
        const uint64_t first = d.slots[slot].first_chunk;
        save_digest(&in, digests + first, crcs + first);
        CHECK_OK(save_pack(m->s, work, &in, digests + first, crcs + first, &packed, NULL));
        stored += packed.stored_bytes;
        packs[slot] = (struct manifest_pack){ .slot = slot,
                                              .chunks = d.slots[slot].chunks,
                                              .id = packed.id,
                                              .first_chunk = d.slots[slot].first_chunk };
    }
    CLEANUP_FREE struct manifest_header *h = calloc(1, sizeof(*h));
    CHECK(h);
    *h = (struct manifest_header){ .name = *name,
                                   .rank = rank,
                                   .world = m->world,
                                   .flags = MANIFEST_FLAG_VANISHED_OK,
                                   .has_parent = m->has_last,
                                   .parent = m->last,
                                   .time_ns = m->time_ns,
                                   .pack_count = d.slot_count,
                                   .packs = packs };
    snprintf(h->job, sizeof(h->job), "%s", m->job);
    if (rank == 0) {
        h->metric_count = 1 + m->metric_count;
        h->metrics[0] = (struct record_metric){ "loss", 2.5 };
        for (uint32_t i = 0; i < m->metric_count; i++) {
            h->metrics[1 + i].value = i;
            snprintf(h->metrics[1 + i].name, sizeof(h->metrics[0].name), "%s", m->metrics[i]);
        }
    }
    const struct manifest_source from = { .d = &d, .digests = digests };
    CHECK_OK(save_finish(m->s, h, &from, stored, NULL));
    save_work_free(work);
    decl_fini(&d);
}

/* -- the history --------------------------------------------------------- */

static struct ckpt_name name_of(const struct maker *m, uint64_t step)
{
    return (struct ckpt_name){ .epoch = m->epoch,
                               .step = step,
                               .attempt = attempt_of(m->job, m->epoch, m->world, step, 0) };
}

static void commit(struct maker *m, uint64_t step)
{
    struct ckpt_name name = name_of(m, step);
    struct record_commit c;
    struct ckpt_err err = { 0 };
    m->time_ns += INT64_C(60) * 1000000000;
    for (uint32_t rank = 0; rank < m->world; rank++)
        save_rank(m, &name, rank);
    if (publish(m->s, m->job, &name, m->world, &c, &err) != CKPT_OK) {
        fprintf(stderr, "make_jobs: publish: %s\n", err_text(&err));
        exit(1);
    }
    m->last = name;
    m->has_last = true;
}

static void launch(struct maker *m, const struct lineage_wish *wish)
{
    char token[64];
    static int number;
    snprintf(token, sizeof(token), "make-%ld-%d", (long)getpid(), number++);
    struct launch_who who = {
        .job = m->job, .token = token, .world = m->world, .time_ns = m->time_ns
    };
    struct lineage_wish w = *wish;
    struct record_resolved r = { 0 };
    struct ckpt_err err = { 0 };
    CHECK_OK(launch_claim(m->s, &who, &m->epoch, NULL));
    w.below = m->epoch;
    if (launch_resolve(m->s, m->job, m->epoch, &w, &r, &err) != CKPT_OK) {
        fprintf(stderr, "make_jobs: resolve: %s\n", err_text(&err));
        exit(1);
    }
    m->has_last = r.kind == RESOLVED_POINT;
    m->last = r.name;
    record_resolved_fini(&r);
}

static void tag(const struct maker *m, const char *text)
{
    struct record_tag t = { .set = true, .time_ns = m->time_ns };
    struct buf b = { 0 };
    struct key key = key_tag(m->job, &m->last, text, 1);
    snprintf(t.tag, sizeof(t.tag), "%s", text);
    record_tag_encode(&t, key.text, &b);
    CHECK_OK(repo_put(m->s, &key, &b, NULL));
    buf_fini(&b);
}

static void say_bad(const struct maker *m, const char *text)
{
    struct record_bad bad = {
        .epoch = m->epoch, .name = m->last, .time_ns = m->time_ns, .corrupt = true
    };
    struct buf b = { 0 };
    struct key key = key_bad(m->job, m->epoch, 0);
    snprintf(bad.text, sizeof(bad.text), "%s", text);
    record_bad_encode(&bad, key.text, &b);
    CHECK_OK(repo_put(m->s, &key, &b, NULL));
    buf_fini(&b);
}

static void word(struct maker *m, const char *w)
{
    const char *value = strchr(w, '=');
    uint64_t n = strtoull(value ? value + 1 : w, NULL, 10);
    if (strcmp(w, "launch") == 0) {
        launch(m, &(struct lineage_wish){ 0 });
    } else if (strncmp(w, "resume=", 7) == 0) {
        launch(m, &(struct lineage_wish){ .forced = true, .step = n });
    } else if (strncmp(w, "abort=", 6) == 0) {
        struct ckpt_name name = name_of(m, n);
        struct record_abort why = { .status = CKPT_FULL, .rank = 1, .by_epoch = m->epoch };
        CHECK_OK(publish_abort(m->s, m->job, &name, &why, NULL));
    } else if (strncmp(w, "tag=", 4) == 0) {
        tag(m, value + 1);
    } else if (strncmp(w, "ranks=", 6) == 0) {
        CHECK(n >= 1 && n <= RANKS_MAX);
        m->world = (uint32_t)n;
    } else if (strncmp(w, "drop=", 5) == 0) {
        m->dropped = value + 1;
    } else if (strncmp(w, "big=", 4) == 0) {
        m->big = value + 1;
    } else if (strncmp(w, "metric=", 7) == 0) {
        CHECK(m->metric_count + 1 < RECORD_METRICS_MAX);
        m->metrics[m->metric_count++] = value + 1;
    } else if (strncmp(w, "bad=", 4) == 0) {
        say_bad(m, value + 1);
    } else if (strcmp(w, "zstd") == 0) {
        m->codec = (struct save_codec){ CODEC_ZSTD, 1 };
    } else {
        commit(m, n);
    }
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: make_jobs DIR JOB WORD...\n");
        return 2;
    }
    struct maker m = { .job = argv[2], .world = 2, .time_ns = INT64_C(1700000000000000000) };
    struct store_options options = { .create = true };
    struct record_repo repo;
    struct ckpt_err err = { 0 };
    if (store_open(argv[1], &options, &m.s, &err) != CKPT_OK) {
        fprintf(stderr, "make_jobs: %s\n", err_text(&err));
        return 1;
    }
    CHECK_OK(repo_open(m.s, true, &repo, NULL));
    if (argc > 3)
        launch(&m, &(struct lineage_wish){ 0 });
    for (int i = 3; i < argc; i++)
        word(&m, argv[i]);
    store_close(m.s);
    return 0;
}
