/* Launches of one job: takeover, reuse, resuming elsewhere, rollback, crash loops, damage. */
#include "e2e/kit.h"

static const struct kit_part parts[] = {
    { .name = "w", .dtype = CKPT_F32, .ndim = 2, .shape = { 300, 100 }, .how = KIT_ROWS },
    { .name = "rng", .object = true, .shape = { 64, 40 }, .scope = CKPT_OBJECT_SHARED },
};
#define PARTS ARRAY_COUNT(parts)

/* One launch by a script. */
struct act {
    const char *resume; /* opts.resume */
    uint64_t expect;    /* step resumed from; 0: none */
    bool restore, progress, finished, die;
    uint64_t saves[4];
    const char *why; /* part of info.why */
    enum ckpt_status open, restored;
    const char *word;      /* of the failed open or restore */
    uint64_t expect_epoch; /* 0: any */
};

static void act_out(struct kit_rank *r)
{
    const struct act *a = r->arg;
    struct ckpt_info info = { .size = sizeof(info) };
    struct ckpt_open_opts o = kit_opts(r);
    o.resume = a->resume;
    if (a->open != CKPT_OK) {
        KIT_FAILS(ckpt_open(&o, &r->c), a->open, a->word);
        r->c = NULL;
        return;
    }
    kit_open_with(r, &o);
    KIT_OK(ckpt_info(r->c, &info));
    uint64_t got = r->point.size ? r->point.step : 0;
    if (got != a->expect || (a->why && !strstr(info.why, a->why))) {
        fprintf(stderr, "resumes from %llu, not %llu, why \"%s\" not \"%s\"\n",
                (unsigned long long)got, (unsigned long long)a->expect, info.why,
                a->why ? a->why : "");
        exit(1);
    }
    if (a->expect_epoch)
        CHECK_EQ(r->point.epoch, a->expect_epoch);
    kit_declare(r, parts, PARTS);
    if (a->restored != CKPT_OK) {
        enum ckpt_status st = ckpt_restore(r->s, NULL, r->buffers, r->count, NULL, NULL);
        if (st ==
            CKPT_OK) { /* planned apart from the rank whose bytes are bad: so its own are right */
            CHECK(r->rank > 0);
            kit_check(r, a->expect);
            return;
        }
        KIT_FAILS(st, a->restored, a->word);
        CHECK(strstr(ckpt_error(), "/d/") || strstr(ckpt_error(), "pack"));
        return;
    }
    if (a->restore && r->point.size)
        kit_restore(r);
    if (a->progress)
        KIT_OK(ckpt_progress(r->c, a->expect + 1));
    if (a->finished && r->rank == 0)
        KIT_OK(ckpt_progress(r->c, CKPT_FINISHED));
    for (int i = 0; i < 4 && a->saves[i]; i++)
        KIT_OK(kit_save_local(r, a->saves[i]));
    kit_meet(r, 15);
    if (a->die)
        kit_pause(200); /* what was reported is on its way */
    if (a->die)
        raise(SIGKILL);
}

static void launch(const char *job, uint32_t world, struct act a)
{
    struct kit_crowd w;
    if (!a.die) {
        kit_run(job, world, act_out, &a);
        return;
    }
    kit_ranks(&w, job, world, act_out, &a);
    kit_wait(&w, (1u << world) - 1);
    kit.cases++;
}

/* -- two at once, and reuse ------------------------------------------------------------- */

static void two_at_once(struct kit_rank *r)
{
    struct kit_rank newer = *r;
    uint64_t op;
    snprintf(newer.token, sizeof(newer.token), "%.60s-newer", r->token);
    kit_open(r);
    kit_declare(r, parts, PARTS);
    KIT_OK(kit_save_local(r, 1));
    KIT_OK(kit_save(r, 2, &op)); /* under way while the newer one opens */
    kit_meet(r, 0);
    kit_open(&newer);
    kit_declare(&newer, parts, PARTS);
    CHECK(newer.point.step <= 2);
    kit_restore(&newer);
    KIT_FAILS(kit_save_local(r, 3), CKPT_SUPERSEDED, "launch");
    KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 20000));       /* begun before: it may commit */
    KIT_FAILS(kit_save_local(r, 4), CKPT_SUPERSEDED, "launch"); /* for good */
    KIT_OK(kit_save_local(&newer, 3));
    /* The same launch id from another start. */
    struct ckpt_open_opts o = kit_opts(&newer);
    struct ckpt *again;
    KIT_FAILS(ckpt_open(&o, &again), CKPT_LAUNCH_REUSED, "newer");
    KIT_OK(kit_save_local(&newer, 4));
    kit_close(&newer);
}

/* The id of a launch that has ended. */
static void reused_later(struct kit_rank *r)
{
    struct ckpt_open_opts o = kit_opts(r);
    o.launch = "the-same-id";
    if (atomic_load(&r->board->value[0]) == 0 && *(const int *)r->arg == 0) {
        kit_open_with(r, &o);
        kit_declare(r, parts, PARTS);
        KIT_OK(kit_save_local(r, 5));
        return;
    }
    KIT_FAILS(ckpt_open(&o, &r->c), CKPT_LAUNCH_REUSED, "the-same-id");
    r->c = NULL;
}

static void solo_and_read(struct kit_rank *r)
{
    kit_open(r);
    kit_declare(r, parts, PARTS);
    KIT_OK(kit_save_local(r, 1));
    struct kit_rank other = { .world = 1, .job = r->job, .board = r->board };
    struct ckpt_open_opts o = kit_opts(&other);
    o.launch = "solo";
    o.flags = CKPT_OPEN_SOLO;
    KIT_FAILS(ckpt_open(&o, &other.c), CKPT_REFUSED, "attached");
    /* A reader takes no epoch, sees what is there, and cannot save. */
    o.flags = 0;
    o.mode = CKPT_READ;
    o.launch = NULL;
    for (int i = 0; i < 3; i++) {
        kit_open_with(&other, &o);
        CHECK_EQ(other.point.step, (uint64_t)i + 1);
        kit_declare(&other, parts, PARTS);
        kit_restore(&other);
        KIT_FAILS(kit_save_local(&other, 50), CKPT_WRONG_STATE, "READ");
        kit_close(&other);
        other.point.size = 0;
        KIT_OK(kit_save_local(r, (uint64_t)i + 2)); /* the trainer is not disturbed */
    }
    struct ckpt_info info = { .size = sizeof(info) };
    KIT_OK(ckpt_info(r->c, &info));
    CHECK_EQ(info.epoch, 1);
}

static void test_two(void)
{
    kit_run("two", 1, two_at_once, NULL);
    launch("two", 1, (struct act){ .expect = 4, .restore = true });
    for (int i = 0; i < 2; i++)
        kit_run("reuse", 1, reused_later, &i);
    launch("reuse", 1, (struct act){ .expect = 5, .restore = true });
    kit_run("solo", 1, solo_and_read, NULL);
    kit_verify("two", 4);
    kit_verify("solo", 4);
    kit.cases += 8;
}

/* -- resume points and rollback ------------------------------------------------------------ */

static void rollback(struct kit_rank *r)
{
    kit_open(r);
    kit_declare(r, parts, PARTS);
    struct ckpt_info info = { .size = sizeof(info) };
    for (uint64_t step = 1; step <= 3; step++)
        KIT_OK(kit_save_local(r, step));
    KIT_FAILS(kit_save_local(r, 3), CKPT_EXISTS, "3");
    KIT_OK(ckpt_info(r->c, &info));
    uint64_t epoch = info.epoch;
    struct ckpt_point back = { .size = sizeof(back), .step = 1, .epoch = epoch };
    /* Its attempt is told by the store. */
    back.attempt = attempt_of(r->job, epoch, r->world, 1, 0);
    struct ckpt_point wrong = back;
    wrong.step = 77;
    KIT_FAILS(ckpt_restore(r->s, &wrong, r->buffers, r->count, NULL, NULL), CKPT_NOT_FOUND, "77");
    kit_meet(r, 0);
    kit_scribble(r);
    KIT_OK(ckpt_restore(r->s, &back, r->buffers, r->count, NULL, NULL));
    kit_check(r, 1);
    KIT_OK(ckpt_info(r->c, &info));
    /* A new epoch: the same step again, and EXISTS counts from there. */
    KIT_OK(kit_save_local(r, 2));
    KIT_FAILS(kit_save_local(r, 2), CKPT_EXISTS, "2");
    KIT_OK(ckpt_info(r->c, &info));
    CHECK(info.epoch > epoch);
}

/* Ranks that do not ask for the same tensors go back together all the same. */
static void rollback_apart(struct kit_rank *r)
{
    static const char *const all[] = { "*", "**" };
    struct ckpt_restore_opts o = { .size = sizeof(o), .timeout_ms = 20000 };
    struct ckpt_info info = { .size = sizeof(info) };
    kit_open(r);
    kit_declare(r, parts, PARTS);
    for (uint64_t step = 1; step <= 2; step++)
        KIT_OK(kit_save_local(r, step));
    KIT_OK(ckpt_info(r->c, &info));
    uint64_t epoch = info.epoch;
    struct ckpt_point back = { .size = sizeof(back), .step = 1, .epoch = epoch };
    back.attempt = attempt_of(r->job, epoch, r->world, 1, 0);
    o.only = all;
    o.only_count = r->rank; /* rank 0 says nothing, rank 1 a pattern, rank 2 two of them */
    kit_meet(r, 0);
    kit_scribble(r);
    KIT_OK(ckpt_restore(r->s, &back, r->buffers, r->count, NULL, &o));
    kit_check(r, 1);
    KIT_OK(kit_save_local(r, 2));
    KIT_OK(ckpt_info(r->c, &info));
    CHECK_EQ(info.epoch, epoch + 1);
}

static void test_resume(void)
{
    kit_run("apart", 3, rollback_apart, NULL);
    kit_verify("apart", 2);
    kit.cases++;
    kit_run("roll", 2, rollback, NULL);
    launch("roll", 2, (struct act){ .expect = 2, .restore = true });
    kit_verify("roll", 3);
    launch("res", 2, (struct act){ .saves = { 1, 2, 3 } });
    launch("res", 1, (struct act){ .resume = "2", .expect = 2, .restore = true, .saves = { 3 } });
    launch("res", 1, (struct act){ .expect = 3, .expect_epoch = 2, .restore = true });
    launch("res", 2,
           (struct act){
               .resume = "3~1", .expect = 3, .expect_epoch = 1, .restore = true, .saves = { 9 } });
    launch("res", 3, (struct act){ .expect = 9, .restore = true });
    launch("res", 1, (struct act){ .resume = "44", .open = CKPT_NOT_FOUND, .word = "44" });
    launch("res", 1, (struct act){ .resume = "3~40", .open = CKPT_NOT_FOUND, .word = "40" });
    launch("res", 1, (struct act){ .expect = 9, .restore = true });
    setenv("CKPT_RESUME", "1", 1);
    launch("res", 1, (struct act){ .expect = 1, .restore = true });
    unsetenv("CKPT_RESUME");
    launch("res", 1, (struct act){ .expect = 1, .restore = true }); /* forced moves the head */
    launch("res", 1, (struct act){ .resume = "none", .expect = 0, .saves = { 1 } });
    launch("res", 1, (struct act){ .expect = 1, .restore = true });
    kit_verify("res", 9);
}

/* -- I5, damage ---------------------------------------------------------------------------- */

static void test_crash_loop(void)
{
    launch("loop", 2, (struct act){ .saves = { 10, 20 } });
    /* Died after progress, or before all was restored: do not count. */
    launch("loop", 2, (struct act){ .expect = 20, .restore = true, .progress = true, .die = true });
    launch("loop", 2, (struct act){ .expect = 20, .die = true });
    for (int i = 0; i < 3; i++)
        launch("loop", 2, (struct act){ .expect = 20, .restore = true, .die = true });
    for (int i = 0; i < 3; i++)
        launch("loop", 2, (struct act){ .expect = 10, .restore = true, .die = true, .why = "20" });
    launch("loop", 2, (struct act){ .open = CKPT_REFUSED, .word = "CKPT_RESUME" });
    launch("loop", 2, (struct act){ .open = CKPT_REFUSED, .word = "20" });
    launch("loop", 2,
           (struct act){
               .resume = "20", .expect = 20, .restore = true, .progress = true, .saves = { 30 } });
    launch("loop", 2, (struct act){ .expect = 30, .restore = true });
    kit_verify("loop", 30);
    /* One step back helps: the run goes on from there. */
    launch("back", 1, (struct act){ .saves = { 10, 20 } });
    for (int i = 0; i < 3; i++)
        launch("back", 1, (struct act){ .expect = 20, .restore = true, .die = true });
    launch("back", 1, (struct act){ .expect = 10, .restore = true, .saves = { 11 } });
    launch("back", 1, (struct act){ .expect = 11, .restore = true });
}

/* A finished job is started again: nothing counts.  An end in order alone proves nothing: a
 * program that fails closes its context, too. */
static void test_finished(void)
{
    launch("done", 2, (struct act){ .saves = { 10, 20 } });
    for (int i = 0; i < 5; i++)
        launch("done", 2, (struct act){ .expect = 20, .restore = true, .finished = true });
    for (int i = 0; i < 2; i++)
        launch("done", 2, (struct act){ .expect = 20, .restore = true });
    launch("done", 2, (struct act){ .expect = 20, .restore = true, .finished = true, .die = true });
    for (int i = 0; i < 3; i++)
        launch("done", 2, (struct act){ .expect = 20, .restore = true });
    launch("done", 2, (struct act){ .expect = 10, .restore = true, .why = "20" });
}

static void test_damage(void)
{
    launch("dmg", 2, (struct act){ .saves = { 10, 20 } });
    kit_damage("dmg", 20);
    launch("dmg", 2, (struct act){ .expect = 20, .restored = CKPT_CORRUPT, .word = "tensor w" });
    launch("dmg", 2, (struct act){ .expect = 10, .restore = true, .why = "20", .saves = { 21 } });
    launch("dmg", 3, (struct act){ .expect = 21, .restore = true });
}

int main(void)
{
    kit_begin("launch");
    const struct {
        const char *name;
        void (*run)(void);
    } tests[] = { { "two", test_two },
                  { "resume", test_resume },
                  { "crash loop", test_crash_loop },
                  { "finished", test_finished },
                  { "damage", test_damage } };
    for (size_t i = 0; i < ARRAY_COUNT(tests); i++) {
        printf("  %s\n", tests[i].name);
        fflush(stdout);
        tests[i].run();
    }
    return kit_end();
}
