/* ckptd is killed: its worker at random moments of many rounds of save and restore, its
 * keeper, and both.  What was committed stays whole; what was not says so. */
#include <sys/wait.h>

#include "e2e/kit.h"

static const struct kit_part parts[] = {
    { .name = "w", .dtype = CKPT_F32, .ndim = 2, .shape = { 6144, 1024 }, .how = KIT_ROWS },
    { .name = "v", .dtype = CKPT_BF16, .ndim = 2, .shape = { 100, 77 }, .how = KIT_FLAT },
    { .name = "rng", .object = true, .shape = { 64, 40 }, .scope = CKPT_OBJECT_RANK },
};
#define PARTS  ARRAY_COUNT(parts)
#define ROUNDS 30

/* Where a rank is, for the killer to count what it hit. */
enum phase { IDLE, SAVING, FENCING, WAITING, RESTORING, PHASES };
static const char *const phase_names[] = { "idle", "saving", "fencing", "waiting", "restoring" };
enum { BOARD_PHASE, BOARD_OK, BOARD_FAILED, BOARD_CHANGES, BOARD_LAST };

static void in_phase(struct kit_rank *r, enum phase p)
{
    if (r->rank != 0)
        return;
    atomic_store(&r->board->value[BOARD_PHASE], p);
    atomic_fetch_add(&r->board->value[BOARD_CHANGES], 1);
}

/* Ends committed, or with a status of BUSY or STORE class. */
static bool save_round(struct kit_rank *r, uint64_t step)
{
    uint64_t op = 0;
    in_phase(r, SAVING);
    enum ckpt_status st = kit_save(r, step, &op);
    in_phase(r, FENCING);
    KIT_OK(ckpt_fence(r->s, 40000));
    in_phase(r, WAITING);
    if (st == CKPT_OK)
        st = ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 40000);
    if (st != CKPT_OK) {
        enum ckpt_class cls = ckpt_status_class(st);
        fprintf(stderr, "step %d, rank %u: %s \"%s\"\n", (int)step, r->rank, ckpt_status_name(st),
                ckpt_error());
        CHECK((cls == CKPT_CLASS_BUSY || cls == CKPT_CLASS_STORE) && st != CKPT_TIMEOUT);
        CHECK(ckpt_error()[0]);
    }
    in_phase(r, IDLE);
    return st == CKPT_OK;
}

static void rounds(struct kit_rank *r)
{
    r->arena_bytes = 1;
    kit_open(r);
    kit_declare(r, parts, PARTS);
    uint64_t last = 0;
    for (uint64_t step = 1; step <= ROUNDS; step++) {
        bool ok = save_round(r, step);
        atomic_fetch_add(&r->board->value[8 + step % 2], ok);
        kit_reach(r->board, (int)(step % 4));
        kit_await(r->board, (int)(step % 4), (int)(r->world * ((step + 3) / 4)));
        /* All ranks heard the same. */
        unsigned long long sum = atomic_load(&r->board->value[8 + step % 2]);
        CHECK(ok ? sum % r->world == 0 : true);
        if (ok)
            last = step;
        if (r->rank == 0)
            atomic_fetch_add(&r->board->value[ok ? BOARD_OK : BOARD_FAILED], 1);
        if (step % 5 == 0 && last) {
            struct ckpt_info info = { .size = sizeof(info) };
            struct kit_rank reader = { .world = 1, .job = r->job, .board = r->board };
            struct ckpt_open_opts o = kit_opts(&reader);
            o.mode = CKPT_READ;
            o.launch = NULL;
            reader.arena_bytes = o.arena_bytes = 1;
            KIT_OK(ckpt_info(r->c, &info));
            in_phase(r, RESTORING);
            kit_open_with(&reader, &o);
            kit_declare(&reader, parts, 2);
            kit_restore(&reader);
            kit_close(&reader);
            in_phase(r, IDLE);
        }
    }
    if (r->rank == 0)
        atomic_store(&r->board->value[BOARD_LAST], last);
    kit_reach(r->board, 10);
}

/* False: all rounds are over, or rank 0 failed (kit_wait says so). */
static bool still_running(struct kit_crowd *w)
{
    siginfo_t ended = { 0 };
    CHECK_EQ(waitid(P_PID, (id_t)w->pid[0], &ended, WEXITED | WNOHANG | WNOWAIT), 0);
    return ended.si_pid == 0 && atomic_load(&w->board->stage[10]) < 2;
}

static void test_worker_killed(void)
{
    unsigned long long rnd = test_seed(11), ok, bad, last;
    int hits[PHASES] = { 0 }, kinds = 0;
    struct kit_crowd w;
    kit_ranks(&w, "rounds", 2, rounds, NULL);
    while (still_running(&w)) {
        /* Let it get on a little after each: a ckptd that dies all the time does nothing. */
        unsigned long long seen = atomic_load(&w.board->value[BOARD_CHANGES]);
        uint64_t more = 1 + test_rand(&rnd) % 6;
        while (still_running(&w) && atomic_load(&w.board->value[BOARD_CHANGES]) < seen + more)
            kit_pause(1);
        kit_pause((long)(test_rand(&rnd) % 30));
        if (!still_running(&w))
            break;
        unsigned long long at = atomic_load(&w.board->value[BOARD_PHASE]);
        kit_kill(kit_worker(), SIGKILL);
        hits[at < PHASES ? at : 0]++;
    }
    ok = w.board->value[BOARD_OK];
    bad = w.board->value[BOARD_FAILED];
    last = w.board->value[BOARD_LAST];
    kit_wait(&w, 0);
    printf("    %llu saves committed, %llu failed clearly; the worker was killed", ok, bad);
    for (int i = 0; i < PHASES; i++) {
        printf(" %s %d", phase_names[i], hits[i]);
        kinds += hits[i] > 0;
    }
    printf("\n");
    CHECK(ok >= ROUNDS / 2 && kit.kills >= 8 && kinds >= 3);
    CHECK_EQ(kit_verify("rounds", last), ok);
    kit.cases += ROUNDS;
}

/* -- the keeper, and both ------------------------------------------------------------------ */

static void resumes(struct kit_rank *r)
{
    uint64_t least = *(const uint64_t *)r->arg;
    kit_open(r);
    CHECK(r->point.size && r->point.step >= least);
    kit_declare(r, parts, PARTS);
    kit_restore(r);
    KIT_OK(kit_save_local(r, r->point.step + 10));
}

/* Saves, is told when ckptd was killed and started again, and must be able to save. */
static void lives_on(struct kit_rank *r)
{
    uint64_t op = 0;
    kit_open(r);
    kit_declare(r, parts, PARTS);
    KIT_OK(kit_save_local(r, 1));
    KIT_OK(kit_save(r, 2, &op));
    KIT_OK(ckpt_fence(r->s, 20000));
    KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_PROCESS, 20000));
    kit_meet(r, 0);
    kit_await(r->board, 1, 1); /* a new ckptd serves */
    enum ckpt_status st = ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 20000);
    if (st != CKPT_OK) {
        enum ckpt_class cls = ckpt_status_class(st);
        CHECK(cls == CKPT_CLASS_STORE || cls == CKPT_CLASS_BUSY);
        fprintf(stderr, "    rank %u: %s \"%s\"\n", r->rank, ckpt_status_name(st), ckpt_error());
    }
    kit_meet(r, 2);
    bool saved = false;
    for (uint64_t step = 3; step < 23 && !saved; step++) {
        st = kit_save_local(r, step);
        atomic_fetch_add(&r->board->value[step % 16], st == CKPT_OK);
        if (st != CKPT_OK)
            fprintf(stderr, "    rank %u step %d: %s \"%s\"\n", r->rank, (int)step,
                    ckpt_status_name(st), ckpt_error());
        kit_reach(r->board, 4);
        kit_await(r->board, 4, (int)(r->world * (step - 2)));
        saved = atomic_load(&r->board->value[step % 16]) == r->world;
        if (!saved)
            kit_pause(200);
    }
    CHECK(saved);
}

static void wait_gone(pid_t pid)
{
    for (int i = 0; i < 4000; i++) {
        if (kill(pid, 0) < 0)
            return;
        kit_pause(5);
    }
    CHECK(!"the worker did not end");
}

static void keeper_killed(const char *job, bool both)
{
    struct kit_crowd w;
    pid_t worker = kit_worker();
    kit_ranks(&w, job, 2, lives_on, NULL);
    kit_await(w.board, 0, 2);
    kit_kill(kit.keeper, SIGKILL);
    if (both)
        kill(worker, SIGKILL);
    kit.kills += both;
    CHECK_EQ(waitpid(kit.keeper, NULL, 0), kit.keeper);
    kit_start();
    if (!both)
        CHECK(kit_committed(job, 2)); /* the worker finished what was staged */
    wait_gone(worker);
    kit_reach(w.board, 1);
    kit_wait(&w, 0);
    uint64_t least = 3;
    kit_run(job, 3 - 1, resumes, &least);
    kit.cases++;
}

int main(void)
{
    kit_begin("kills");
    test_worker_killed();
    printf("  keeper killed\n");
    fflush(stdout);
    keeper_killed("keeper", false);
    printf("  both killed\n");
    fflush(stdout);
    keeper_killed("both", true);
    return kit_end();
}
