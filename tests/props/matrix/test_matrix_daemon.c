/* The same law end to end: ranks are processes on the public API, a real ckptd, a store in a
 * directory.  A job's model is saved in one layout, the next launch resumes in another and saves
 * again, and so on: each launch ends one pair and begins the next.  Several jobs run at once.
 *
 *     test_matrix_daemon             200 pairs and more (TEST_PAIRS), from TEST_SEED
 *     test_matrix_daemon --job S     the one job of seed S again */
#include "e2e/kit.h"
#include "props/matrix/matrix_case.h"

#define PAIRS_OF_A_JOB 3
#define JOBS_AT_ONCE   6 /* launches wait more than they work */

/* What a launch does: resumes into one side, saves from the other. */
struct leg {
    size_t tensors;
    const struct matrix_side *restore, *save; /* NULL: nothing */
    uint64_t step;                            /* to save */
    uint64_t arena;
    bool same_state; /* one declaration for both */
    bool read;       /* restores without taking part in the job's history */
};

/* -- in a rank ---------------------------------------------------------------------------- */

static size_t buffers_of(const struct kit_rank *r, const struct matrix_side *s, size_t tensors,
                         struct ckpt_buffer *buffers)
{
    size_t count = 0;
    memset(buffers, 0, tensors * sizeof(*buffers));
    for (size_t i = 0; i < tensors; i++) {
        const struct topo_hold *h = &s->hold[r->rank][i];
        if (matrix_omits(s, tensors, r->rank, i))
            continue;
        if (h->count) {
            buffers[count].base = s->blob[r->rank][h->blob];
            buffers[count].bytes = s->bytes[r->rank][h->blob];
        }
        count++;
    }
    return count;
}

static void declare(struct kit_rank *r, const struct matrix_side *s, size_t tensors)
{
    ckpt_state_free(r->s);
    r->s = NULL;
    KIT_OK(ckpt_state_new(r->c, &r->s));
    for (size_t i = 0; i < tensors; i++) {
        const struct topo_tensor *t = &s->tensor[i];
        const struct topo_hold *h = &s->hold[r->rank][i];
        struct ckpt_tensor_desc d = { .size = sizeof(d),
                                      .name = t->name,
                                      .dtype = t->dtype,
                                      .kind = t->kind,
                                      .ndim = t->ndim,
                                      .shape = t->shape,
                                      .block = t->kind == CKPT_BLOCKED ? t->block : NULL,
                                      .alias = t->tied };
        if (matrix_omits(s, tensors, r->rank, i))
            continue;
        KIT_OK(ckpt_tensor(r->s, &d, h->piece, h->count));
    }
    KIT_OK(ckpt_seal(r->s, 40000));
}

static void restore_side(struct kit_rank *r, const struct leg *g)
{
    struct ckpt_buffer buffers[MATRIX_TENSORS];
    size_t count = buffers_of(r, g->restore, g->tensors, buffers);
    struct ckpt_info info = { .size = sizeof(info) };
    CHECK_EQ(r->point.step, g->step - 1);
    declare(r, g->restore, g->tensors);
    KIT_OK(ckpt_restore(r->s, NULL, buffers, count, NULL, NULL));
    KIT_OK(ckpt_info(r->c, &info));
    CHECK_EQ(info.restore_missing, 0);
}

static void save_side(struct kit_rank *r, const struct leg *g)
{
    struct ckpt_buffer buffers[MATRIX_TENSORS];
    size_t count = buffers_of(r, g->save, g->tensors, buffers);
    struct ckpt_save_opts o = { .size = sizeof(o), .step = g->step };
    uint64_t op = 0;
    if (!g->same_state || !g->restore)
        declare(r, g->save, g->tensors);
    KIT_OK(ckpt_save(r->s, &o, buffers, count, NULL, &op));
    KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 60000));
    KIT_OK(ckpt_progress(r->c, g->step));
}

static void run_leg(struct kit_rank *r)
{
    const struct leg *g = r->arg;
    r->arena_bytes = g->arena;
    struct ckpt_open_opts o = kit_opts(r);
    if (g->read)
        o.mode = CKPT_READ;
    kit_open_with(r, &o);
    if (!g->read) /* no rank is through before all have come */
        kit_meet(r, 0);
    CHECK_EQ(r->point.size != 0, g->restore != NULL);
    if (g->restore)
        restore_side(r, g);
    if (g->save)
        save_side(r, g);
}

/* -- jobs ----------------------------------------------------------------------------------- */

/* One job's run through its layouts. */
struct job {
    unsigned long long seed, rand;
    char name[32];
    struct matrix_model m;
    struct topo topo[PAIRS_OF_A_JOB + 1];
    struct matrix_side from[2], to[2]; /* of this pair and of the one before */
    struct leg leg;
    struct kit_crowd crowd;
};

static void begin_job(struct job *j, unsigned long long seed)
{
    j->seed = j->rand = seed;
    snprintf(j->name, sizeof(j->name), "job-%llu", seed);
    matrix_model_random(&j->m, seed % 12 == 0, &j->rand);
    for (size_t i = 0; i <= PAIRS_OF_A_JOB; i++)
        matrix_topo_random(&j->topo[i], KIT_RANKS, &j->rand);
}

/* What is saved with bytes of its own from now on cannot be tied again: they would be lost,
 * and a restore says so (test_plan_names). */
static void stay_untied(struct matrix_model *m, const struct matrix_side *saved)
{
    for (size_t i = 0; i < m->count; i++)
        if (!saved->tensor[i].tied)
            m->tensor[i].tied = NULL;
}

/* Launch i ends pair i - 1 and begins pair i. */
static void launch(struct job *j, size_t i, struct matrix_oracle *oracle,
                   struct matrix_census *census)
{
    struct matrix_side *before = &j->to[(i + 1) % 2], *next = &j->to[i % 2], *now = &j->from[i % 2];
    j->leg = (struct leg){ .tensors = j->m.count,
                           .restore = i ? before : NULL,
                           .step = i + 1,
                           .arena = test_rand(&j->rand) % 2,
                           .same_state = j->seed >> 1 & 1,
                           .read = i == PAIRS_OF_A_JOB && j->seed % 2 };
    if (i < PAIRS_OF_A_JOB) {
        if (i && j->leg.same_state)
            matrix_side_like(now, &j->m, before);
        else
            matrix_side_init(now, &j->m, &j->topo[i], false, &j->rand);
        stay_untied(&j->m, now);
        matrix_side_init(next, &j->m, &j->topo[i + 1], true, &j->rand);
        matrix_oracle_make(oracle, j->seed + i, j->seed + i, j->m.count, now, next);
        matrix_count(&j->m, now, next, census);
        j->leg.save = now;
    }
    kit_ranks(&j->crowd, j->name, topo_world(&j->topo[i]), run_leg, &j->leg);
}

static void landed(struct job *j, size_t i, struct matrix_oracle *oracle)
{
    struct matrix_side *from = &j->from[(i + 1) % 2], *to = &j->to[(i + 1) % 2];
    kit_wait(&j->crowd, 0);
    if (i == 0)
        return;
    if (!matrix_oracle_check(oracle, j->seed + i - 1, to)) {
        matrix_say(stderr, j->m.count, from, to);
        fprintf(stderr, "pair %zu of a job; again: test_matrix_daemon --job %llu\n", i - 1,
                j->seed);
        exit(1);
    }
    matrix_side_fini(from);
    matrix_side_fini(to);
    kit.cases++;
}

/* The second half is coded. */
static void change_codec(void)
{
    CHECK_EQ(kit_stop(), 0);
    kit.codec = "zstd";
    kit_start();
}

int main(int argc, char **argv)
{
    static struct job jobs[JOBS_AT_ONCE];
    struct matrix_oracle oracle;
    struct matrix_census census = { 0 };
    const char *n = getenv("TEST_PAIRS");
    bool one = argc == 3 && strcmp(argv[1], "--job") == 0;
    long pairs = (getenv("CKPT_DEEP") ? 600 : 210) / TEST_TENTH;
    unsigned long long rand = one ? 0 : test_seed(202606);
    size_t at_once = one ? 1 : JOBS_AT_ONCE;
    if (n || one)
        pairs = n ? strtol(n, NULL, 0) : 1;
    matrix_oracle_start(&oracle);
    kit_begin("matrix");
    while (kit.cases < pairs) {
        for (size_t k = 0; k < at_once; k++)
            begin_job(&jobs[k], one ? strtoull(argv[2], NULL, 0) : test_rand(&rand));
        for (size_t i = 0; i <= PAIRS_OF_A_JOB; i++) {
            for (size_t k = 0; k < at_once; k++)
                launch(&jobs[k], i, &oracle, &census);
            for (size_t k = 0; k < at_once; k++)
                landed(&jobs[k], i, &oracle);
        }
        if (!kit.codec && kit.cases >= pairs / 2)
            change_codec();
    }
    matrix_oracle_end(&oracle);
    matrix_census_check(&census, pairs >= 200);
    return kit_end();
}
