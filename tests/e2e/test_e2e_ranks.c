/* Ranks that do not come, die or stall at every point of a save, levels, cancelling and
 * deadlines: the others are told who and why, nothing is lost, the next save works. */
#include "e2e/kit.h"

/* 48 MiB (33 under a sanitizer), on two ranks three slots of 8 MiB each: through an arena of two. */
#define ROWS (TEST_TENTH > 1 ? 8448 : 12288)
static const struct kit_part parts[] = {
    { .name = "w", .dtype = CKPT_F32, .ndim = 2, .shape = { ROWS, 1024 }, .how = KIT_ROWS },
    { .name = "b", .dtype = CKPT_BF16, .ndim = 1, .shape = { 1001 }, .how = KIT_FLAT },
};
#define PARTS ARRAY_COUNT(parts)

static void open_declare(struct kit_rank *r)
{
    kit_open(r);
    kit_declare(r, parts, PARTS);
}

/* The next launch resumes from `step`, compares, and saves the one after. */
static void resume_and_save(struct kit_rank *r)
{
    uint64_t step = *(const uint64_t *)r->arg;
    open_declare(r);
    CHECK_EQ(r->point.size ? r->point.step : 0, step);
    if (step)
        kit_restore(r);
    KIT_OK(kit_save_local(r, step + 1));
}

static void check_next(const char *job, uint64_t step)
{
    kit_run(job, 2, resume_and_save, &step);
    kit_verify(job, step + 1);
}

/* -- who never comes --------------------------------------------------------------------- */

static void rank_2_never_opens(struct kit_rank *r)
{
    if (r->rank == 2)
        return;
    open_declare(r);
    KIT_FAILS(kit_save_local(r, 1), CKPT_TIMEOUT, "2 did not come"); /* another may be late */
}

static void rank_0_never_opens(struct kit_rank *r)
{
    struct ckpt_open_opts o = kit_opts(r);
    if (r->rank == 0)
        return;
    o.timeout_ms = 400;
    KIT_FAILS(ckpt_open(&o, &r->c), CKPT_TIMEOUT, "rank 0");
}

static void rank_1_never_saves(struct kit_rank *r)
{
    open_declare(r);
    KIT_OK(kit_save_local(r, 1));
    if (r->rank == 0)
        KIT_FAILS(kit_save_local(r, 2), CKPT_TIMEOUT, "rank 1");
    else
        kit_await(r->board, 1, 1);
    if (r->rank == 0)
        kit_reach(r->board, 1);
    KIT_OK(kit_save_local(r, 3));
}

/* The ranks come to different steps: neither is ever whole, both are named. */
static void different_steps(struct kit_rank *r)
{
    open_declare(r);
    KIT_FAILS(kit_save_local(r, 10 + r->rank), CKPT_TIMEOUT, r->rank ? "rank 0" : "rank 1");
    kit_meet(r, 1);
    KIT_OK(kit_save_local(r, 20));
}

static void test_absent(void)
{
    kit_run("never-opens", 3, rank_2_never_opens, NULL);
    kit_run("rank0-never", 2, rank_0_never_opens, NULL);
    kit_run("never-saves", 2, rank_1_never_saves, NULL);
    CHECK_EQ(kit_verify("never-saves", 3), 2);
    kit_run("steps", 2, different_steps, NULL);
    kit_verify("steps", 20);
    check_next("never-opens", 0);
    check_next("steps", 20);
}

/* -- who dies ------------------------------------------------------------------------------ */

enum death { BEFORE_SAVE, AFTER_SAVE, IN_COPY, AFTER_FENCE, AFTER_STAGED, AFTER_LOCAL, DEATHS };
static const char *const death_names[] = { "before save",     "after save",   "while copying",
                                           "after the fence", "after staged", "after local" };

/* A thread of nobody: kills this process after some microseconds. */
static void die_soon(unsigned us)
{
    pid_t me = getpid(), killer = fork();
    CHECK(killer >= 0);
    if (killer == 0) {
        usleep(us);
        kill(me, SIGKILL);
        _exit(0);
    }
}

static void die_at(struct kit_rank *r, enum death at, uint64_t step)
{
    uint64_t op;
    if (at == BEFORE_SAVE)
        raise(SIGKILL);
    if (at == IN_COPY)
        die_soon(1500);
    KIT_OK(kit_save(r, step, &op));
    if (at == AFTER_SAVE)
        raise(SIGKILL);
    KIT_OK(ckpt_fence(r->s, 20000));
    if (at == AFTER_FENCE)
        raise(SIGKILL);
    KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_PROCESS, 20000));
    if (at == AFTER_STAGED)
        raise(SIGKILL);
    enum ckpt_status st = ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 20000);
    CHECK(st == CKPT_OK || at == IN_COPY);
    if (at == IN_COPY)
        pause();
    raise(SIGKILL);
}

static void one_dies(struct kit_rank *r)
{
    enum death at = *(const enum death *)r->arg;
    r->arena_bytes = 1; /* two slots for more: copying takes a while */
    open_declare(r);
    KIT_OK(kit_save_local(r, 1));
    kit_meet(r, 0);
    if (r->rank == 1)
        die_at(r, at, 2);
    enum ckpt_status st = kit_save_local(r, 2);
    if (st != CKPT_OK && (st != CKPT_ABORTED || !strstr(ckpt_error(), "rank 1"))) {
        fprintf(stderr, "%s: %s \"%s\"\n", death_names[at], ckpt_status_name(st), ckpt_error());
        exit(1);
    }
    if (at == BEFORE_SAVE)
        CHECK_EQ(st, CKPT_ABORTED);
    if (at >= AFTER_STAGED)
        CHECK_EQ(st, CKPT_OK);
    atomic_store(&r->board->value[1], st == CKPT_OK);
    /* The launch has lost a rank: the next save fails at once and says who. */
    KIT_FAILS(kit_save_local(r, 3), CKPT_ABORTED, "rank 1");
}

static void all_die(struct kit_rank *r)
{
    enum death at = *(const enum death *)r->arg;
    r->arena_bytes = 1;
    open_declare(r);
    KIT_OK(kit_save_local(r, 1));
    kit_meet(r, 0);
    die_at(r, at, 2);
}

static void test_deaths(void)
{
    int whole = 0, lost = 0;
    for (enum death at = 0; at < DEATHS; at++) {
        struct kit_crowd w;
        char job[32];
        snprintf(job, sizeof(job), "one-%d", at);
        kit_ranks(&w, job, 2, one_dies, &at);
        kit_wait(&w, 2);
        uint64_t last = kit_committed(job, 2) ? 2 : 1;
        CHECK(last == 2 ? at > BEFORE_SAVE : at < AFTER_STAGED);
        check_next(job, last);
        snprintf(job, sizeof(job), "all-%d", at);
        kit_ranks(&w, job, 2, all_die, &at);
        kit_wait(&w, 3);
        /* The resolver of the next launch waits for what this daemon still finishes. */
        if (at >= AFTER_STAGED)
            check_next(job, 2);
        else if (at == BEFORE_SAVE)
            check_next(job, 1);
        else {
            struct kit_crowd v;
            kit_ranks(&v, job, 2, one_dies, &at); /* whichever it was, all works again */
            kit_wait(&v, 2);
        }
        whole += kit_committed(job, 2);
        lost += !kit_committed(job, 2);
    }
    printf("    all died: step whole %d times, given up %d times\n", whole, lost);
    kit.cases += 2 * DEATHS;
}

/* -- who stalls ------------------------------------------------------------------------------ */

static void stalls(struct kit_rank *r)
{
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 2, .timeout_ms = 700 };
    uint64_t op;
    r->arena_bytes = 1;
    open_declare(r);
    KIT_OK(kit_save_local(r, 1));
    kit_meet(r, 0);
    if (r->rank == 1) { /* stopped between save and copy, or in it */
        KIT_OK(kit_save_with(r, &o, &op));
        raise(SIGSTOP);
    } else {
        KIT_OK(kit_save_with(r, &o, &op));
    }
    enum ckpt_status st = ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 20000);
    if (st != CKPT_OK && r->rank == 0) {
        CHECK_EQ(st, CKPT_TIMEOUT);
        CHECK(strstr(ckpt_error(), "step 2"));
        CHECK(strstr(ckpt_error(), "rank 1"));
    }
    kit_reach(r->board, 1);
    KIT_OK(ckpt_fence(r->s, 20000));
    kit_meet(r, 2);
    KIT_OK(kit_save_local(r, 3));
}

static void test_stalls(void)
{
    struct kit_crowd w;
    kit_ranks(&w, "stall", 2, stalls, NULL);
    kit_await(w.board, 1, 1); /* rank 0 has been told */
    kill(w.pid[1], SIGCONT);
    kit_wait(&w, 0);
    kit_verify("stall", 3);
    check_next("stall", 3);
    kit.cases++;
}

/* -- levels, cancelling, fences ---------------------------------------------------------------- */

static void levels(struct kit_rank *r)
{
    uint64_t op[3];
    struct ckpt_info info = { .size = sizeof(info) };
    open_declare(r);
    KIT_OK(kit_save(r, 1, &op[0]));
    KIT_OK(ckpt_wait(r->c, op[0], CKPT_LEVEL_NONE, 0));
    KIT_OK(ckpt_wait(r->c, op[0], CKPT_LEVEL_PROCESS, 20000));
    KIT_OK(ckpt_wait(r->c, op[0], CKPT_LEVEL_STAGED, 20000));
    KIT_OK(ckpt_wait(r->c, op[0], CKPT_LEVEL_LOCAL, 20000));
    KIT_FAILS(ckpt_wait(r->c, op[0], CKPT_LEVEL_REPLICATED, 20000), CKPT_NOT_PLANNED, "step 1");
    KIT_FAILS(ckpt_wait(r->c, op[0], CKPT_LEVEL_REMOTE, 20000), CKPT_NOT_PLANNED, "remote");
    KIT_FAILS(ckpt_wait(r->c, op[0], (enum ckpt_level)9, 1), CKPT_INVALID, "level");
    KIT_FAILS(ckpt_wait(r->c, op[0], CKPT_LEVEL_LOCAL, -1), CKPT_INVALID, "negative");
    /* Three in flight. */
    for (uint64_t k = 0; k < 3; k++)
        KIT_OK(kit_save(r, 2 + k, &op[k]));
    for (uint64_t k = 0; k < 3; k++)
        KIT_OK(ckpt_wait(r->c, op[k], CKPT_LEVEL_LOCAL, 20000));
    KIT_FAILS(kit_save_local(r, 4), CKPT_EXISTS, "4");
    KIT_OK(ckpt_info(r->c, &info));
    CHECK_EQ(info.saves_committed, 4);
    CHECK_EQ(info.last_step_committed, 4);
    CHECK_EQ(info.arena_bytes % (8 * MIB), 0);
}

/* Cancelled by one rank for all: at once, when staged, when committed. */
static void cancels(struct kit_rank *r)
{
    uint64_t op;
    r->arena_bytes = 1;
    open_declare(r);
    KIT_OK(kit_save_local(r, 1));
    for (uint64_t phase = 0; phase < 4; phase++) {
        uint64_t step = 10 + phase;
        bool by_me = r->rank == phase % 2;
        enum ckpt_status st = kit_save(r, step, &op);
        bool begun = st == CKPT_OK;
        CHECK(begun || (phase == 0 && !by_me)); /* it was cancelled before this rank came */
        if (phase == 1)
            KIT_OK(ckpt_fence(r->s, 20000));
        if (phase == 2)
            (void)ckpt_wait(r->c, op, CKPT_LEVEL_PROCESS, 20000);
        if (phase == 3)
            KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 20000));
        if (by_me)
            KIT_OK(ckpt_cancel(r->c, op));
        if (begun)
            st = ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 20000);
        if (st != CKPT_OK && (ckpt_status_class(st) != CKPT_CLASS_BUSY ||
                              !strstr(ckpt_error(), phase % 2 ? "rank 1" : "rank 0"))) {
            fprintf(stderr, "cancel %d: %s \"%s\"\n", (int)phase, ckpt_status_name(st),
                    ckpt_error());
            exit(1);
        }
        atomic_fetch_add(&r->board->value[phase], st == CKPT_OK);
        kit_meet(r, (int)phase);
        unsigned long long ok = atomic_load(&r->board->value[phase]);
        CHECK(ok == 0 || ok == 2); /* all ranks hear the same */
        CHECK(ok == 2 || phase < 3);
        st = kit_save_local(r, step); /* the same step again: new try, or there already */
        CHECK_EQ(st, ok ? CKPT_EXISTS : CKPT_OK);
        kit_meet(r, 8 + (int)phase);
    }
}

/* With the worker stopped nothing moves: timeouts come in time, and all goes on after. */
static void worker_stopped(struct kit_rank *r)
{
    uint64_t op;
    r->arena_bytes = 1;
    open_declare(r);
    KIT_OK(kit_save_local(r, 1));
    kit_meet(r, 0);
    KIT_OK(kit_save(r, 2, &op));
    kit_reach(r->board, 1);
    kit_await(r->board, 2, 1);                    /* stopped now */
    enum ckpt_status fence = ckpt_fence(r->s, 0); /* a look */
    enum ckpt_status wait = ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 30);
    CHECK(fence == CKPT_OK || fence == CKPT_TIMEOUT);
    CHECK(wait == CKPT_OK || wait == CKPT_TIMEOUT);
    if (wait == CKPT_TIMEOUT)
        CHECK(strstr(ckpt_error(), "step 2"));
    atomic_fetch_add(&r->board->value[0], fence == CKPT_TIMEOUT);
    atomic_fetch_add(&r->board->value[1], wait == CKPT_TIMEOUT);
    kit_reach(r->board, 3);
    KIT_OK(ckpt_fence(r->s, 20000));
    KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 20000));
    KIT_OK(kit_save_local(r, 3));
}

static void test_fences(void)
{
    unsigned long long fences = 0, waits = 0;
    for (int i = 0; i < 3; i++) {
        struct kit_crowd w;
        char job[32];
        snprintf(job, sizeof(job), "stop-%d", i);
        kit_ranks(&w, job, 2, worker_stopped, NULL);
        kit_await(w.board, 1, 1 + i % 2);
        pid_t worker = kit_worker();
        kit_kill(worker, SIGSTOP);
        kit_reach(w.board, 2);
        if (i % 2)
            kit_await(w.board, 3, 2);
        else
            kit_pause(100);
        kit_kill(worker, SIGCONT);
        kit_await(w.board, 3, 2);
        fences += w.board->value[0];
        waits += w.board->value[1];
        kit_wait(&w, 0);
        kit_verify(job, 3);
    }
    printf("    worker stopped: %llu fences and %llu waits timed out\n", fences, waits);
    CHECK(waits > 0);
    kit.cases += 3;
}

int main(void)
{
    setenv("CKPT_ARRIVAL_MS", "4000",
           1); /* ranks that do come need some of it, on a busy machine */
    kit_begin("ranks");
    const struct {
        const char *name;
        void (*run)(void);
    } tests[] = { { "absent", test_absent },
                  { "deaths", test_deaths },
                  { "stalls", test_stalls },
                  { "fences", test_fences } };
    for (size_t i = 0; i < ARRAY_COUNT(tests); i++) {
        printf("  %s\n", tests[i].name);
        fflush(stdout);
        tests[i].run();
    }
    printf("  levels, cancels\n");
    kit_run("levels", 2, levels, NULL);
    kit_verify("levels", 4);
    kit_run("cancel", 2, cancels, NULL);
    CHECK_EQ(kit_verify("cancel", 13), 5);
    return kit_end();
}
