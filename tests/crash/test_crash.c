/* Power cuts: a workload runs once on a recording disk; after each operation every state
 * that a cut there may leave (or 64 of them, drawn by seed; CKPT_DEEP=1: 4,096) is
 * written out, recovered and verified.  CKPT_DEEP=1 also swallows each sync in turn:
 * what then goes unnoticed is printed, and must be a sync that had nothing to do. */
#include <stdio.h>
#include <sys/wait.h>

#include "crash/oracle.h"
#include "crash/record_io.h"
#include "crash/workload.h"
#include "store/scratch.h"

#define DRAWS      64
#define DRAWS_DEEP 4096
#define SEEN_SLOTS (1u << 20)

struct walk {
    const struct disk_log *log;
    size_t swallow; /* event; SIZE_MAX = none */
    uint64_t draws_max;
    char dir[256]; /* where states are written */
    struct store *good;
    unsigned long long rand;
    uint64_t cuts, exhaustive, drawn, recovered;
};

/* States that were recovered before, with what was asked of them.  Inherited by forks. */
static struct digest *seen;

static bool seen_before(struct digest sum)
{
    uint64_t at;
    memcpy(&at, &sum, sizeof(at));
    for (at %= SEEN_SLOTS;; at = (at + 1) % SEEN_SLOTS) {
        if (digest_equal(&seen[at], &sum))
            return true;
        if (digest_equal(&seen[at], &(struct digest){ 0 }))
            break;
    }
    seen[at] = sum;
    return false;
}

static void try_state(struct walk *w, struct disk *d, const struct oracle *o)
{
    struct {
        struct digest drawn, oracle;
    } key = { disk_drawn_sum(d), digest_of(o, sizeof(*o)) };
    w->drawn++;
    if (seen_before(digest_of(&key, sizeof(key))))
        return;
    CHECK_EQ(mkdir(w->dir, 0777), 0);
    disk_drawn_write(d, w->dir);
    char store[300];
    snprintf(store, sizeof(store), "%s/store", w->dir);
    oracle_recover(store, o, w->good);
    scratch_remove(w->dir);
    w->recovered++;
}

static void cut(struct walk *w, struct disk *d, const struct oracle *o)
{
    uint64_t states = disk_states(d);
    w->cuts++;
    w->exhaustive += states <= w->draws_max;
    for (uint64_t i = 0; i < min_u64(states, w->draws_max); i++) {
        if (states <= w->draws_max)
            disk_draw_nth(d, i, &w->rand);
        else
            disk_draw_random(d, &w->rand);
        try_state(w, d, o);
    }
}

static void walk(struct walk *w)
{
    static const char *const ops[] = { "create", "mkdir", "link", "rename", "unlink",
                                       "write",  "size",  "sync", "mark" };
    struct disk d;
    struct oracle o; /* padding is hashed */
    memset(&o, 0, sizeof(o));
    o.damaged = -1;
    disk_init(&d);
    for (size_t i = 0; i < w->log->count; i++) {
        const struct disk_event *e = &w->log->events[i];
        disk_apply(&d, e, i == w->swallow);
        snprintf(oracle_where, sizeof(oracle_where), "cut at %zu, %s %.*s%s", i, ops[e->op],
                 2 * DISK_NAME, e->name, e->label);
        if (e->op == DISK_MARK)
            oracle_apply(&o, e->mark);
        if (i >= w->swallow || w->swallow == SIZE_MAX)
            cut(w, &d, &o);
    }
    disk_fini(&d);
}

int main(void)
{
    char base[200];
    bool deep = getenv("CKPT_DEEP") != NULL;
    unsigned long long seed = test_seed(4);
    if (access("/dev/shm", W_OK) == 0)
        setenv("TMPDIR", "/dev/shm", 0); /* no real disk has to be worn for this */
    scratch_make(base);
    seen = calloc(SEEN_SLOTS, sizeof(*seen));
    CHECK(seen);
    struct walk w = { .log = &recording.log,
                      .swallow = SIZE_MAX,
                      .draws_max = deep ? DRAWS_DEEP : DRAWS,
                      .rand = seed };
    snprintf(w.dir, sizeof(w.dir), "%s/cut", base);
    w.good = workload_record(base);
    printf("workload: %zu operations\n", recording.log.count);
    walk(&w);
    printf("%llu cuts (%llu exhaustive), %llu states drawn, %llu different ones recovered\n",
           (unsigned long long)w.cuts, (unsigned long long)w.exhaustive,
           (unsigned long long)w.drawn, (unsigned long long)w.recovered);
    store_close(w.good);
    recording_fini();
    scratch_remove(base);
    free(seen);
    TEST_CASES(w.drawn);
    return 0;
}
