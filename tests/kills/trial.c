/* One trial: the ranks, the kill, and what must hold after it.
 *
 *   steps   10 is committed before anything happens; 20 is hit; what is left alive saves 30
 *           and on; the next launch resumes, compares every byte and saves once more. */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "kills/kills.h"
#include "kills/probe.h"

#define ROUNDS 10 /* saves tried until one succeeds on all ranks after ckptd was lost */

const char *const phase_names[PHASES] = { "copying",  "staged",  "encoding", "put",
                                          "manifest", "publish", "resolve",  "load" };

static const struct kit_part large_parts[] = {
    { .name = "w", .dtype = CKPT_F32, .ndim = 2, .shape = { 13056, 1024 }, .how = KIT_ROWS },
    { .name = "rng", .object = true, .shape = { 64, 40 }, .scope = CKPT_OBJECT_RANK },
};
static const struct kit_part small_parts[] = {
    { .name = "w", .dtype = CKPT_F32, .ndim = 2, .shape = { 512, 1024 }, .how = KIT_ROWS },
    { .name = "rng", .object = true, .shape = { 64, 40 }, .scope = CKPT_OBJECT_RANK },
};
#define PARTS ARRAY_COUNT(large_parts)

/* Stages of the board, and its values. */
enum { READY, ARMED, AGAIN };
enum seen { SEEN_NOTHING, SEEN_BEGINNING, SEEN_COPYING, SEEN_COPIED, SEEN_STAGED };
enum {
    VALUE_SEEN = 0,
    VALUE_LOCAL = 2,
    VALUE_SAVED = 4,
    VALUE_ROUND = 5
}; /* first 2: a rank each */

/* -- the aim ---------------------------------------------------------------------------- */

struct aim *aim_block;

void aim_make(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    CHECK_EQ(ftruncate(fd, sizeof(*aim_block)), 0);
    aim_block = mmap(NULL, sizeof(*aim_block), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(aim_block != MAP_FAILED);
    close(fd);
}

void aim_set(const char *job, const struct aim_point *point, uint32_t nth)
{
    static unsigned number;
    snprintf(aim_block->job, sizeof(aim_block->job), "%s", job);
    aim_block->point = *point;
    aim_block->nth = nth;
    atomic_store(&aim_block->seen, 0);
    atomic_store(&aim_block->hits, 0);
    atomic_store(&aim_block->pid, 0);
    atomic_store(&aim_block->armed, ++number);
}

void aim_clear(void)
{
    atomic_store(&aim_block->armed, 0);
}

/* -- the ranks ---------------------------------------------------------------------------- */

static const struct trial *trial_of(const struct kit_rank *r)
{
    return r->arg;
}

static void declare(struct kit_rank *r)
{
    kit_declare(r, trial_of(r)->large ? large_parts : small_parts, PARTS);
}

/* A failure that training may see: it says what, and is nobody's mistake. */
static void check_clean(enum ckpt_status st)
{
    enum ckpt_class cls = ckpt_status_class(st);
    bool clean = (cls == CKPT_CLASS_BUSY || cls == CKPT_CLASS_STORE) && st != CKPT_TIMEOUT;
    if (!clean || !ckpt_error()[0]) {
        fprintf(stderr, "a survivor was told %s \"%s\"\n", ckpt_status_name(st), ckpt_error());
        exit(1);
    }
}

/* Says on the board how far the save is, until it is decided. */
static enum ckpt_status watch(struct kit_rank *r, uint64_t op)
{
    enum ckpt_status st = CKPT_TIMEOUT;
    for (int i = 0; st == CKPT_TIMEOUT && i < 40000; i++) {
        enum seen seen = SEEN_COPYING;
        if (ckpt_fence(r->s, 0) == CKPT_OK)
            seen =
                ckpt_wait(r->c, op, CKPT_LEVEL_PROCESS, 0) == CKPT_OK ? SEEN_STAGED : SEEN_COPIED;
        atomic_store(&r->board->value[VALUE_SEEN + r->rank], seen);
        st = ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 1);
    }
    atomic_store(&r->board->value[VALUE_LOCAL + r->rank], st == CKPT_OK);
    return st;
}

/* Saves until all ranks are told that one save is committed. */
static void save_on(struct kit_rank *r, int rounds)
{
    for (int i = 0; i < rounds; i++) {
        uint64_t step = 30 + (uint64_t)i;
        enum ckpt_status st = kit_save_local(r, step);
        if (st != CKPT_OK && st != CKPT_TIMEOUT) /* of a rank whose part was lost on the way */
            check_clean(st);
        atomic_fetch_add(&r->board->value[VALUE_ROUND + i], st == CKPT_OK);
        kit_reach(r->board, AGAIN + 1);
        kit_await(r->board, AGAIN + 1, WORLD * (i + 1));
        if (atomic_load(&r->board->value[VALUE_ROUND + i]) == WORLD) {
            atomic_store(&r->board->value[VALUE_SAVED], step);
            return;
        }
        kit_pause(200);
    }
    CHECK(!"no save succeeded after ckptd came back");
}

static void ready(struct kit_rank *r)
{
    kit_meet(r, READY);
    kit_await(r->board, ARMED, 1);
}

static void saves(struct kit_rank *r)
{
    const struct trial *t = trial_of(r);
    uint64_t op;
    r->arena_bytes = t->phase == IN_COPYING; /* of 1 byte: the smallest there is, two slots */
    kit_open(r);
    declare(r);
    KIT_OK(kit_save_local(r, 10));
    ready(r);
    atomic_store(&r->board->value[VALUE_SEEN + r->rank], SEEN_BEGINNING);
    enum ckpt_status st = kit_save(r, 20, &op);
    if (st == CKPT_OK)
        st = watch(r, op);
    if (!(t->victims & (TRAINER | KEEPER)))
        KIT_OK(st); /* the worker's death costs nothing, wherever it was */
    if (st != CKPT_OK && !(st == CKPT_TIMEOUT && t->victims & KEEPER)) /* see save_on */
        check_clean(st);
    kit_await(r->board, AGAIN, 1);
    if (!(t->victims & TRAINER))
        save_on(r, t->victims & KEEPER ? ROUNDS : 1);
}

static void saves_first(struct kit_rank *r)
{
    kit_open(r);
    CHECK_EQ(r->point.size, 0);
    declare(r);
    KIT_OK(kit_save_local(r, 10));
}

static void loads(struct kit_rank *r)
{
    bool alone = trial_of(r)->victims & TRAINER; /* who is left may wait for who is dead */
    struct ckpt_restore_opts o = { .size = sizeof(o), .timeout_ms = alone ? 1500 : 30000 };
    kit_open(r);
    CHECK(r->point.size && r->point.step == 10);
    declare(r);
    kit_scribble(r);
    ready(r);
    enum ckpt_status st = ckpt_restore(r->s, NULL, r->buffers, r->count, NULL, &o);
    if (!alone)
        KIT_OK(st); /* asks the next worker, or the next ckptd */
    if (st == CKPT_OK)
        kit_check(r, 10);
    else if (st != CKPT_TIMEOUT)
        check_clean(st);
    kit_await(r->board, AGAIN, 1);
}

static void opens(struct kit_rank *r)
{
    const struct trial *t = trial_of(r);
    struct ckpt_open_opts o = kit_opts(r);
    if (t->victims & TRAINER)
        o.timeout_ms = 1000; /* who is left waits for who is dead */
    enum ckpt_status st = ckpt_open(&o, &r->c);
    if (t->victims == WORKER)
        KIT_OK(st);
    if (st != CKPT_OK && !(st == CKPT_TIMEOUT && t->victims & TRAINER))
        check_clean(st);
    kit_await(r->board, AGAIN, 1); /* who is to be killed does not end before */
}

/* What a restart does. */
static void resumes(struct kit_rank *r)
{
    const struct trial *t = trial_of(r);
    kit_open(r);
    if (!r->point.size || r->point.step < t->least || r->point.step > t->most) {
        fprintf(stderr, "resumed from step %lld, promised was %llu to %llu\n",
                r->point.size ? (long long)r->point.step : -1, (unsigned long long)t->least,
                (unsigned long long)t->most);
        exit(1);
    }
    declare(r);
    kit_restore(r);
    KIT_OK(kit_save_local(r, 100));
}

/* -- the kill ------------------------------------------------------------------------------- */

/* True when the phase is there to be seen, from both sides. */
static bool in_phase(const struct trial *t, const struct kit_board *b)
{
    unsigned long long want = t->phase == IN_COPYING ? SEEN_COPYING : SEEN_STAGED;
    bool is = atomic_load(&aim_block->hits) > 0;
    for (uint32_t i = 0; i < WORLD && t->phase < IN_RESOLVE; i++) {
        unsigned long long seen = atomic_load(&b->value[VALUE_SEEN + i]);
        /* A rank that ckptd does not answer any more is still inside ckpt_save. */
        is &= seen == want || (t->point.call == AIM_SEND && seen == SEEN_BEGINNING);
    }
    return is;
}

static void await_phase(const struct trial *t, const struct kit_board *b, pid_t worker)
{
    for (int i = 0; i < 20000 && !in_phase(t, b); i++)
        kit_pause(1);
    if (!in_phase(t, b)) {
        fprintf(stderr, "%s was not reached: %u calls seen, %u threads stand, ranks at %llu %llu\n",
                phase_names[t->phase], atomic_load(&aim_block->seen), atomic_load(&aim_block->hits),
                b->value[VALUE_SEEN], b->value[VALUE_SEEN + 1]);
        exit(1);
    }
    CHECK_EQ(atomic_load(&aim_block->pid), worker);
}

static unsigned kill_ranks(const struct trial *t, const struct kit_crowd *w)
{
    unsigned kills = 0;
    for (uint32_t i = 0; t->victims & TRAINER && i < WORLD; i++)
        if (t->dead >> i & 1) {
            CHECK_EQ(kill(w->pid[i], SIGKILL), 0);
            kills++;
        }
    return kills;
}

static void wait_dead(pid_t pid)
{
    for (int i = 0; i < 20000 && probe_runs(pid); i++)
        kit_pause(1);
    CHECK(!probe_runs(pid));
}

static unsigned strike(const struct trial *t, const struct kit_crowd *w, pid_t worker)
{
    unsigned kills = t->trainer_last ? 0 : kill_ranks(t, w);
    if (t->victims & KEEPER) {
        kit_kill(kit.keeper, SIGKILL); /* first: it would start another worker */
        kills++;
    }
    if (t->victims & WORKER) {
        kit_kill(worker, SIGKILL);
        kills++;
        wait_dead(worker);
    }
    if (t->trainer_last)
        kills += kill_ranks(t, w);
    kit_pause(t->pause_ms);
    aim_clear();
    return kills;
}

static void start_again(const struct trial *t, pid_t worker)
{
    if (t->victims & KEEPER) {
        CHECK_EQ(waitpid(kit.keeper, NULL, 0), kit.keeper);
        kit_start(); /* waits for a worker that finishes */
        CHECK(!probe_runs(worker));
    } else if (t->victims & WORKER) {
        for (int i = 0; i < 20000 && kit_worker() == worker; i++)
            kit_pause(1);
        CHECK(kit_worker() != worker);
    }
}

/* -- what was promised ---------------------------------------------------------------------- */

/* Is step 20 safe at this kill?  1 it is, 0 it cannot be, -1 either may be. */
static int promise(const struct trial *t)
{
    if (t->phase >= IN_RESOLVE)
        return 0;
    if (t->victims == WORKER)
        return 1; /* the keeper has the arena, the trainer the rest */
    if (t->phase == IN_COPYING && t->point.call == AIM_SEND && t->victims & TRAINER)
        return -1; /* the rank that dies may have handed over all that it had */
    if (t->phase == IN_COPYING)
        return 0; /* the bytes are nowhere else */
    if ((t->victims & (WORKER | KEEPER)) != (WORKER | KEEPER))
        return 1; /* staged survives the trainer, and either half of ckptd */
    /* Staged is lost with both halves; not so what the store has whole. */
    return t->phase == IN_PUBLISH ? 1 : t->phase == IN_MANIFEST ? -1 : 0;
}

/* After the ranks have ended: what the next launch may find. */
static void expect(struct trial *t, const struct kit_board *b)
{
    int safe = promise(t);
    bool told = atomic_load(&b->value[VALUE_LOCAL]) || atomic_load(&b->value[VALUE_LOCAL + 1]);
    uint64_t saved = atomic_load(&b->value[VALUE_SAVED]);
    t->safe = told ? 1 : safe;
    t->least = safe > 0 ? 20 : 10;
    t->most = safe ? 20 : 10;
    CHECK(!told || t->most == 20);
    if (told)
        t->least = 20;
    if (saved)
        t->least = t->most = saved;
}

unsigned trial_run(struct trial *t)
{
    static const kit_body bodies[PHASES] = { [IN_RESOLVE] = opens, [IN_LOAD] = loads };
    kit_body body = bodies[t->phase] ? bodies[t->phase] : saves;
    struct kit_crowd w;
    pid_t worker = kit_worker();
    if (t->phase >= IN_RESOLVE)
        kit_run(t->job, WORLD, saves_first, t);
    if (t->phase == IN_RESOLVE)
        aim_set(t->job, &t->point, t->nth);
    kit_ranks(&w, t->job, WORLD, body, t);
    if (t->phase != IN_RESOLVE) {
        kit_await(w.board, READY, WORLD);
        aim_set(t->job, &t->point, t->nth);
        kit_reach(w.board, ARMED);
    }
    await_phase(t, w.board, worker);
    unsigned kills = strike(t, &w, worker);
    start_again(t, worker);
    kit_reach(w.board, AGAIN);
    struct kit_board *board = w.board;
    kit_reap(&w, t->victims & TRAINER ? t->dead : 0);
    expect(t, board);
    munmap(board, sizeof(*board));
    kit_run(t->job, WORLD, resumes, t);
    kit_verify(t->job, 100);
    if (t->safe >= 0) /* also when later saves hide it: the next launch has decided it */
        CHECK_EQ(kit_committed(t->job, 20), t->safe);
    return kills;
}
