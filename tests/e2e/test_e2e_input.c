/* Bad declarations and bad input, end to end: each is refused with words that name the
 * thing, on every rank, loses nothing, and the next save works. */
#include "e2e/kit.h"

#define F32(n, name_, how_)                                                               \
    {                                                                                     \
        .name = (name_), .dtype = CKPT_F32, .ndim = 2, .shape = { (n), 6 }, .how = (how_) \
    }

static const struct kit_part good[] = { F32(10, "layer.w", KIT_ROWS), F32(4, "layer.b", KIT_SAME) };
static char long_name[1026];

/* -- names ---------------------------------------------------------------------------- */

static const char *const bad_jobs[] = { "",         "../x", "a/b", ".hidden", "ckpt.repo",
                                        "\xff\xfe", "a b",  "-a",  "a\n" };
static const char *const bad_names[] = { "",      "../x",     "a/../b",      "/a",
                                         "a/",    "a//b",     "a/./b",       "..",
                                         "a\x01", "\xc3\x28", "\xed\xa0\x80" };

static void bad_job_names(struct kit_rank *r)
{
    struct ckpt_open_opts o = kit_opts(r);
    char long_job[200] = "";
    memset(long_job, 'j', 129);
    for (size_t i = 0; i < ARRAY_COUNT(bad_jobs); i++) {
        o.job = bad_jobs[i];
        KIT_FAILS(ckpt_open(&o, &r->c), CKPT_BAD_NAME, "name");
    }
    o.job = long_job;
    KIT_FAILS(ckpt_open(&o, &r->c), CKPT_BAD_NAME, "128");
    o.job = NULL;
    KIT_FAILS(ckpt_open(&o, &r->c), CKPT_INVALID, "job");
    o = kit_opts(r);
    o.launch = "two\nlines";
    KIT_FAILS(ckpt_open(&o, &r->c), CKPT_BAD_NAME, "launch id");
    o = kit_opts(r);
    o.resume = "latest";
    KIT_FAILS(ckpt_open(&o, &r->c), CKPT_INVALID, "latest");
    o.resume = "12~";
    KIT_FAILS(ckpt_open(&o, &r->c), CKPT_INVALID, "12~");
    r->c = NULL;
    kit_open(r);
    kit_declare(r, good, ARRAY_COUNT(good));
    KIT_OK(kit_save_local(r, 1));
}

/* A state that refuses every bad name and goes on. */
static void bad_tensor_names(struct kit_rank *r)
{
    struct ckpt_tensor_desc d = { .size = sizeof(d), .dtype = CKPT_U8 };
    struct ckpt_piece scalar = { 0 };
    uint8_t byte = 7, back = 0;
    kit_open(r);
    KIT_OK(ckpt_state_new(r->c, &r->s));
    for (size_t i = 0; i < ARRAY_COUNT(bad_names); i++) {
        d.name = bad_names[i];
        KIT_FAILS(ckpt_tensor(r->s, &d, &scalar, 1), CKPT_BAD_NAME, "name");
        KIT_FAILS(ckpt_object(r->s, bad_names[i], 10, CKPT_OBJECT_SHARED), CKPT_BAD_NAME, "name");
        KIT_FAILS(ckpt_object(r->s, bad_names[i], 10, CKPT_OBJECT_RANK), CKPT_BAD_NAME, "name");
    }
    memset(long_name, 'n', 1025);
    d.name = long_name;
    KIT_FAILS(ckpt_tensor(r->s, &d, &scalar, 1), CKPT_BAD_NAME, "1024");
    long_name[1024] = 0; /* the longest */
    KIT_FAILS(ckpt_object(r->s, long_name, 10, CKPT_OBJECT_RANK), CKPT_BAD_NAME, "1024");
    KIT_OK(ckpt_tensor(r->s, &d, &scalar, 1));
    ckpt_state_free(r->s);
    KIT_OK(ckpt_state_new(r->c, &r->s));
    KIT_OK(ckpt_tensor(r->s, &d, &scalar, 1));
    KIT_OK(ckpt_seal(r->s, 20000));
    struct ckpt_buffer b = { &byte, 1 };
    uint64_t op;
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 5 };
    struct ckpt_metric m = { "", 1.0 };
    o.metrics = &m;
    o.metric_count = 1;
    KIT_FAILS(ckpt_save(r->s, &o, &b, 1, NULL, &op), CKPT_BAD_NAME, "metric");
    m.name = long_name;
    KIT_FAILS(ckpt_save(r->s, &o, &b, 1, NULL, &op), CKPT_BAD_NAME, "metric");
    m.name = "loss";
    KIT_OK(ckpt_save(r->s, &o, &b, 1, NULL, &op));
    KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 20000));
    struct ckpt_open_opts ro = kit_opts(r);
    struct ckpt *c;
    struct ckpt_state *s;
    ro.mode = CKPT_READ;
    KIT_OK(ckpt_open(&ro, &c));
    KIT_OK(ckpt_state_new(c, &s));
    KIT_OK(ckpt_tensor(s, &d, &scalar, 1));
    KIT_OK(ckpt_seal(s, 20000));
    b.base = &back;
    KIT_OK(ckpt_restore(s, NULL, &b, 1, NULL, NULL));
    CHECK_EQ(back, byte);
    ckpt_close(c);
}

static void test_names(void)
{
    kit_run("names", 1, bad_job_names, NULL);
    kit_run("tensor-names", 1, bad_tensor_names, NULL);
    kit_verify("names", 1);
    kit_verify("tensor-names", 5);
    kit.cases += (long)(ARRAY_COUNT(bad_jobs) + 3 * ARRAY_COUNT(bad_names) + 9);
}

/* -- declarations of one rank --------------------------------------------------------------- */

static void bad_declarations(struct kit_rank *r)
{
    kit_open(r);
    KIT_OK(ckpt_state_new(r->c, &r->s));
    uint64_t shape[2] = { 10, 6 };
    struct ckpt_tensor_desc d = {
        .size = sizeof(d), .name = "mlp.up", .dtype = CKPT_F32, .ndim = 2, .shape = shape
    };
    struct ckpt_piece p = { .off = { 5, 0 }, .len = { 6, 6 }, .stride = { 6, 1 } };
    KIT_FAILS(ckpt_tensor(r->s, &d, &p, 1), CKPT_INVALID, "mlp.up");
    CHECK(strstr(ckpt_error(), "rank 0"));
    p.off[0] = UINT64_MAX - 2; /* wraps around */
    KIT_FAILS(ckpt_tensor(r->s, &d, &p, 1), CKPT_INVALID, "mlp.up");
    d.dtype = 99;
    p.off[0] = 0;
    CHECK(ckpt_tensor(r->s, &d, &p, 1) != CKPT_OK);
    CHECK(strstr(ckpt_error(), "mlp.up"));
    d.dtype = CKPT_F32;
    d.ndim = 17;
    CHECK(ckpt_tensor(r->s, &d, &p, 1) != CKPT_OK);
    d.ndim = 2;
    p.replica = 2;
    p.replica_count = 2;
    CHECK(ckpt_tensor(r->s, &d, &p, 1) != CKPT_OK);
    CHECK(strstr(ckpt_error(), "mlp.up"));
    /* Pieces that overlap within a rank, and a name twice: the whole shows it. */
    struct ckpt_piece two[2] = { { .len = { 6, 6 }, .stride = { 6, 1 } },
                                 { .off = { 5, 0 }, .len = { 5, 6 }, .stride = { 6, 1 } } };
    KIT_OK(ckpt_tensor(r->s, &d, two, 2));
    KIT_FAILS(ckpt_seal(r->s, 20000), CKPT_COVER, "mlp.up");
    ckpt_state_free(r->s);
    KIT_OK(ckpt_state_new(r->c, &r->s));
    KIT_OK(ckpt_tensor(r->s, &d, two, 1));
    KIT_OK(ckpt_tensor(r->s, &d, two, 1));
    KIT_FAILS(ckpt_seal(r->s, 20000), CKPT_INVALID, "mlp.up");
    ckpt_state_free(r->s);
    r->s = NULL;
    /* Buffers that are not those of the declaration. */
    kit_declare(r, good, ARRAY_COUNT(good));
    uint64_t op;
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 1 };
    KIT_FAILS(ckpt_save(r->s, &o, r->buffers, 1, NULL, &op), CKPT_INVALID, "1 buffers for 2");
    r->buffers[0].bytes--;
    KIT_FAILS(ckpt_save(r->s, &o, r->buffers, 2, NULL, &op), CKPT_INVALID, "layer.w");
    r->buffers[0].bytes++;
    KIT_FAILS(ckpt_fence(r->s, -1), CKPT_INVALID, "negative");
    KIT_FAILS(ckpt_wait(r->c, 4711, CKPT_LEVEL_LOCAL, 10), CKPT_NOT_FOUND, "4711");
    KIT_FAILS(ckpt_cancel(r->c, 4711), CKPT_NOT_FOUND, "4711");
    KIT_OK(kit_save_local(r, 1));
}

/* -- what does not fit between ranks ------------------------------------------------------------ */

/* Each rank's own declaration of a tensor "t" beside a good one. */
struct clash {
    const char *what;
    enum ckpt_status status;
    const char *word[4];
    struct {
        uint64_t from, rows, shape[2];
        uint32_t dtype, kind;
    } rank[2];
};
static const struct clash clashes[] = {
    { "overlap",
      CKPT_COVER,
      { "tensor t", "ranks 0 and 1", "[5:6, 0:6]", "" },
      { { 0, 6, { 10, 6 }, CKPT_F32, 0 }, { 5, 5, { 10, 6 }, CKPT_F32, 0 } } },
    { "hole",
      CKPT_COVER,
      { "tensor t", "[4:5, 0:6]", "", "" },
      { { 0, 4, { 10, 6 }, CKPT_F32, 0 }, { 5, 5, { 10, 6 }, CKPT_F32, 0 } } },
    { "both whole",
      CKPT_COVER,
      { "tensor t", "ranks 0 and 1", "[0:10, 0:6]", "" },
      { { 0, 10, { 10, 6 }, CKPT_F32, 0 }, { 0, 10, { 10, 6 }, CKPT_F32, 0 } } },
    { "nobody holds it",
      CKPT_COVER,
      { "tensor t", "[0:10, 0:6]", "", "" },
      { { 0, 0, { 10, 6 }, CKPT_F32, 0 }, { 0, 0, { 10, 6 }, CKPT_F32, 0 } } },
    { "shape",
      CKPT_MISMATCH,
      { "tensor t", "0", "1", "shape" },
      { { 0, 5, { 10, 6 }, CKPT_F32, 0 }, { 5, 6, { 11, 6 }, CKPT_F32, 0 } } },
    { "dtype",
      CKPT_MISMATCH,
      { "tensor t", "0", "1", "" },
      { { 0, 5, { 10, 6 }, CKPT_F32, 0 }, { 5, 5, { 10, 6 }, CKPT_I32, 0 } } },
    { "kind",
      CKPT_MISMATCH,
      { "tensor t", "0", "1", "" },
      { { 0, 5, { 10, 6 }, CKPT_F32, 0 }, { 5, 5, { 10, 6 }, CKPT_F32, CKPT_LOCKED } } },
};

/* A state with "t" as the clash says; returns its buffer. */
static struct ckpt_state *clash_state(struct kit_rank *r, const struct clash *x, void **ret)
{
    struct ckpt_state *s;
    struct ckpt_piece p = { .off = { x->rank[r->rank].from },
                            .len = { x->rank[r->rank].rows, 6 },
                            .stride = { 6, 1 } };
    struct ckpt_tensor_desc d = { .size = sizeof(d),
                                  .name = "t",
                                  .dtype = x->rank[r->rank].dtype,
                                  .kind = x->rank[r->rank].kind,
                                  .ndim = 2,
                                  .shape = x->rank[r->rank].shape };
    KIT_OK(ckpt_state_new(r->c, &s));
    KIT_OK(ckpt_tensor(s, &d, &p, p.len[0] ? 1 : 0));
    KIT_OK(ckpt_seal(s, 20000));
    *ret = calloc(1, 4096);
    return s;
}

static void clash_between_ranks(struct kit_rank *r)
{
    kit_open(r);
    kit_declare(r, good, ARRAY_COUNT(good));
    KIT_OK(kit_save_local(r, 1));
    for (size_t i = 0; i < ARRAY_COUNT(clashes); i++) {
        const struct clash *x = &clashes[i];
        void *mem;
        struct ckpt_state *s = clash_state(r, x, &mem);
        struct ckpt_save_opts o = { .size = sizeof(o),
                                    .step = 10 + i,
                                    .flags = CKPT_SAVE_ALLOW_VANISHED };
        uint64_t op;
        KIT_OK(ckpt_save(s, &o, &(struct ckpt_buffer){ mem, 4096 }, 1, NULL, &op));
        KIT_FAILS(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 30000), x->status, x->word[0]);
        for (int k = 1; k < 4; k++)
            if (!strstr(ckpt_error(), x->word[k])) {
                fprintf(stderr, "%s: \"%s\" lacks \"%s\"\n", x->what, ckpt_error(), x->word[k]);
                exit(1);
            }
        if (r->rank == 0)
            printf("    %s: %s\n", x->what, ckpt_error());
        ckpt_state_free(s);
        free(mem);
        KIT_OK(kit_save_local(r, 100 + i));
    }
}

static void test_declarations(void)
{
    kit_run("declare", 1, bad_declarations, NULL);
    kit_verify("declare", 1);
    kit_run("clash", 2, clash_between_ranks, NULL);
    CHECK_EQ(kit_verify("clash", 100 + ARRAY_COUNT(clashes) - 1), 1 + ARRAY_COUNT(clashes));
    kit.cases += 11 + (long)ARRAY_COUNT(clashes);
}

/* -- tensors that vanish ---------------------------------------------------------------------- */

static void vanishing(struct kit_rank *r)
{
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 2 };
    uint64_t op;
    kit_open(r);
    kit_declare(r, good, 2);
    KIT_OK(kit_save_local(r, 1));
    kit_declare(r, good, 1);
    KIT_OK(kit_save_with(r, &o, &op));
    KIT_FAILS(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 30000), CKPT_VANISHED, "layer.b");
    o.flags = CKPT_SAVE_ALLOW_VANISHED;
    KIT_OK(kit_save_with(r, &o, &op)); /* the same step, a second try */
    KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 30000));
    KIT_OK(kit_save_local(r, 3)); /* the parent lacks it now */
    kit_declare(r, good, 2);
    KIT_OK(kit_save_local(r, 4));
}

/* A new launch that lacks a tensor of what it resumed from. */
static void vanished_in_next_launch(struct kit_rank *r)
{
    kit_open(r);
    kit_declare(r, good, 1);
    kit_restore(r);
    KIT_FAILS(kit_save_local(r, 5), CKPT_VANISHED, "layer.b");
}

static void still_there(struct kit_rank *r)
{
    kit_open(r);
    CHECK_EQ(r->point.step, 4);
    kit_declare(r, good, 2);
    kit_restore(r);
}

static void test_vanished(void)
{
    kit_run("vanish", 2, vanishing, NULL);
    kit_run("vanish", 2, vanished_in_next_launch, NULL);
    kit_run("vanish", 1, still_there, NULL);
    CHECK_EQ(kit_verify("vanish", 4), 4);
}

/* -- what does not fit a restore ---------------------------------------------------------------- */

static void save_good(struct kit_rank *r)
{
    kit_open(r);
    kit_declare(r, good, 2);
    KIT_OK(kit_save_local(r, 7));
}

static void misfit(struct kit_rank *r, const struct kit_part *parts, size_t n,
                   enum ckpt_status status, const char *word)
{
    kit_declare(r, parts, n);
    KIT_FAILS(ckpt_restore(r->s, NULL, r->buffers, r->count, NULL, NULL), status, word);
    CHECK(strstr(ckpt_error(), "layer.") || strstr(ckpt_error(), "absent"));
}

/* What the last restore says of itself.  unasked: not known when a rank came too late to be
 * planned with the others. */
static void check_gaps(struct kit_rank *r, uint32_t missing, uint32_t unasked)
{
    struct ckpt_info info = { .size = sizeof(info) };
    KIT_OK(ckpt_info(r->c, &info));
    CHECK_EQ(info.restore_missing, missing);
    CHECK(info.restore_unasked == unasked || (r->world > 1 && info.restore_unasked == UINT32_MAX));
}

static void misfits(struct kit_rank *r)
{
    static const struct kit_part shape[] = { F32(11, "layer.w", KIT_ROWS) },
                                 dtype[] = { { .name = "layer.w",
                                               .dtype = CKPT_BF16,
                                               .ndim = 2,
                                               .shape = { 10, 6 },
                                               .how = KIT_ROWS } },
                                 ndim[] = { { .name = "layer.w",
                                              .dtype = CKPT_F32,
                                              .ndim = 1,
                                              .shape = { 60 },
                                              .how = KIT_ROWS } },
                                 object[] = { { .name = "layer.w",
                                                .object = true,
                                                .shape = { 100, 50 },
                                                .scope = CKPT_OBJECT_SHARED } },
                                 absent[] = { F32(10, "layer.w", KIT_COLS),
                                              F32(3, "absent", KIT_ROWS) },
                                 gone_object[] = {
                                     F32(10, "layer.w", KIT_COLS),
                                     { .name = "absent-rng", .object = true, .shape = { 100, 50 } }
                                 };
    static struct kit_part optional[2];
    kit_open(r);
    misfit(r, shape, 1, CKPT_MISMATCH, "layer.w");
    misfit(r, dtype, 1, CKPT_MISMATCH, "layer.w");
    misfit(r, ndim, 1, CKPT_MISMATCH, "layer.w");
    misfit(r, object, 1, CKPT_MISMATCH, "layer.w");
    misfit(r, absent, 2, CKPT_NOT_FOUND, "absent");
    misfit(r, gone_object, 2, CKPT_NOT_FOUND, "absent-rng");
    /* Partial: what is there comes, what is not stays. */
    struct ckpt_restore_opts o = { .size = sizeof(o), .flags = CKPT_RESTORE_PARTIAL };
    kit_declare(r, absent, 2);
    kit_fill(r, 99);
    KIT_OK(ckpt_restore(r->s, NULL, r->buffers, r->count, NULL, &o));
    CHECK(kit_part_is(r, 0, 7) && kit_part_is(r, 1, 99));
    check_gaps(r, 1, 1);
    /* Optional: the same without the flag. */
    memcpy(optional, absent, sizeof(optional));
    optional[1].flags = CKPT_OPTIONAL;
    kit_declare(r, optional, 2);
    kit_fill(r, 98);
    KIT_OK(ckpt_restore(r->s, NULL, r->buffers, r->count, NULL, NULL));
    CHECK(kit_part_is(r, 0, 7) && kit_part_is(r, 1, 98));
    check_gaps(r, 1, 1);
    /* There, and nobody asked for it: restored without, and said. */
    kit_declare(r, good, 1);
    kit_restore(r);
    check_gaps(r, 0, 1);
    /* After all this the launch is sound. */
    kit_declare(r, good, 2);
    kit_restore(r);
    check_gaps(r, 0, 0);
    KIT_OK(kit_save_local(r, 8));
    struct ckpt_info info = { .size = sizeof(info) };
    KIT_OK(ckpt_info(r->c, &info));
    CHECK(info.save_done_bytes > 0 && info.save_done_bytes == info.save_total_bytes);
}

static void next_is_8(struct kit_rank *r)
{
    kit_open(r);
    CHECK_EQ(r->point.step, 8);
    kit_declare(r, good, 2);
    kit_restore(r);
}

static void half_of_it(struct kit_rank *r)
{
    kit_open(r);
    kit_declare(r, good, 1);
    kit_restore(r);
    check_gaps(r, 0, 1);
}

/* Refused restores are the caller's fault, not the checkpoint's. */
static void only_misfits(struct kit_rank *r)
{
    static const struct kit_part shape[] = { F32(11, "layer.w", KIT_ROWS) };
    kit_open(r);
    CHECK_EQ(r->point.step, 8);
    misfit(r, shape, 1, CKPT_MISMATCH, "layer.w");
}

static void test_misfits(void)
{
    kit_run("misfit", 2, save_good, NULL);
    kit_run("misfit", 2, misfits, NULL);
    CHECK(kit_logged("count=1 names=\"layer.b\""));
    for (int i = 0; i < 5; i++)
        kit_run("misfit", 2, only_misfits, NULL);
    kit_run("misfit", 3, next_is_8, NULL);
    kit_run("misfit", 1, half_of_it, NULL);
    CHECK_EQ(kit_verify("misfit", 8), 2);
    kit.cases += 10;
}

/* -- replicas that differ ------------------------------------------------------------------ */

/* Split among its replicas, and small enough for one of them: what others write is seen. */
static const struct kit_part replicated[] = { F32(900000, "split.w", KIT_SAME),
                                              F32(4, "small.b", KIT_SAME),
                                              F32(10, "layer.w", KIT_ROWS) };

/* Wrong in every tile of one tensor: the one whose turn it is finds it; with two tensors and
 * a few tiles in turn, soon. */
static void differs(struct kit_rank *r)
{
    uint64_t op, step = 1, found = 0;
    kit_open(r);
    kit_declare(r, replicated, ARRAY_COUNT(replicated));
    KIT_OK(kit_save_local(r, step++));
    for (size_t part = 0; part < 2; part++) {
        bool seen = false;
        for (int turn = 0; turn < 8 && !seen; turn++, step++) {
            struct ckpt_save_opts o = { .size = sizeof(o), .step = step };
            kit_fill(r, step);
            uint8_t *bytes = r->buffers[part].base;
            for (uint64_t at = 0; r->rank == 1 && at < r->buffers[part].bytes; at += 4096)
                bytes[at] ^= 0x10;
            KIT_OK(ckpt_save(r->s, &o, r->buffers, r->count, NULL, &op));
            KIT_OK(ckpt_fence(r->s, 60000));
            seen = ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 60000) != CKPT_OK;
            if (seen)
                KIT_FAILS(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 60000), CKPT_CORRUPT,
                          replicated[part].name);
            if (seen)
                KIT_FAILS(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 60000), CKPT_CORRUPT,
                          "replicas differ");
        }
        found += seen;
    }
    CHECK_EQ(found, 2);
    KIT_OK(kit_save_local(r, 100));
}

static void next_is_100(struct kit_rank *r)
{
    kit_open(r);
    kit_declare(r, replicated, ARRAY_COUNT(replicated));
    CHECK_EQ(r->point.step, 100);
    kit_restore(r);
}

static void test_replicas(void)
{
    kit_run("replicas", 3, differs, NULL);
    kit_run("replicas", 2, next_is_100, NULL);
    kit.cases += 3;
}

int main(void)
{
    kit_begin("input");
    test_names();
    test_declarations();
    test_vanished();
    test_misfits();
    test_replicas();
    return kit_end();
}
