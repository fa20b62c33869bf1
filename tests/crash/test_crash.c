/* Power cuts: a workload runs once on a recording disk; after each operation every state
 * that a cut there may leave (or 64 of them, drawn by seed; `test_crash deep`: 4,096) is
 * written out, recovered and verified.  `deep` and `swallow` also swallow each sync in turn:
 * what then goes unnoticed is printed, and must be a sync that had nothing to do.
 * ("test_crash swallow" does that alone.) */
#include <fcntl.h>
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
    size_t from;               /* no cuts before this event ... */
    bool marks_only;           /* ... and after that only where the workload was told something */
    size_t swallow;            /* this sync does nothing; SIZE_MAX = none */
    const char *swallow_class; /* nor do syncs of this class; NULL = none */
    bool *useful;              /* per event: a sync that had something to do; may be NULL */
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

/* What a sync is of, without the names that differ from one to the next. */
static void class_of(const struct disk_event *e, char ret[DISK_LABEL])
{
    const char *at = strstr(e->label, ": ");
    size_t len = 0;
    for (at = at ? at + 2 : ""; *at;) {
        size_t part = strcspn(at, "/"), slash = at[part] == '/';
        bool varies = part >= 16 || (part == 1 && at[0] >= '0' && at[0] <= '9');
        if (len == 0 || !varies) {
            memcpy(ret + len, at, part + slash);
            len += part + slash;
        } else {
            ret[len++] = '*';
            if (slash)
                ret[len++] = '/';
        }
        at += part + slash;
    }
    ret[len] = 0;
}

static bool swallowed(const struct walk *w, size_t i, const struct disk_event *e)
{
    char class[DISK_LABEL];
    if (i == w->swallow)
        return true;
    if (e->op != DISK_SYNC || !w->swallow_class)
        return false;
    class_of(e, class);
    return strcmp(class, w->swallow_class) == 0;
}

static void say_where(size_t i, const struct disk_event *e)
{
    static const char *const ops[] = { "create", "mkdir", "link", "rename", "unlink",
                                       "write",  "size",  "sync", "mark" };
    snprintf(oracle_where, sizeof(oracle_where), "cut at %zu, %s %s%s", i, ops[e->op], e->name,
             e->label);
}

static void walk(struct walk *w)
{
    struct disk d;
    struct oracle o;
    memset(&o, 0, sizeof(o)); /* its padding is hashed */
    o.damaged = -1;
    disk_init(&d);
    for (size_t i = 0; i < w->log->count; i++) {
        const struct disk_event *e = &w->log->events[i];
        bool changed = disk_apply(&d, e, swallowed(w, i, e));
        if (w->useful)
            w->useful[i] = changed;
        if (e->op == DISK_MARK)
            oracle_apply(&o, e->mark);
        say_where(i, e);
        if (i >= w->from && (!w->marks_only || e->op == DISK_MARK))
            cut(w, &d, &o);
        if (w->swallow < i && e->op == DISK_SYNC && e->ino == w->log->events[w->swallow].ino)
            break; /* made good: from here on it is the run that was tried already */
    }
    disk_fini(&d);
}

/* ---- a process is killed, another goes on, then comes the cut ---- */

struct kills {
    uint64_t kills, cuts, drawn, recovered;
};

static void kill_once(const struct walk *like, const char *base, size_t at, struct kills *k)
{
    struct walk w = *like;
    w.cuts = w.drawn = w.recovered = 0;
    w.marks_only = true;
    k->kills += workload_record_killed(base, at, &w.from);
    walk(&w);
    k->cuts += w.cuts;
    k->drawn += w.drawn;
    k->recovered += w.recovered;
    workload_forget(base);
}

/* all: at each operation; else where a name has just been made and not synced. */
static void walk_killed(const struct walk *like, const char *base, bool all, struct kills *k)
{
    static bool kills[4096]; /* by event; the same in every run */
    size_t count;
    workload_record_killed(base, SIZE_MAX, &count);
    CHECK(count < ARRAY_COUNT(kills));
    for (size_t i = 0; i < count; i++) {
        enum disk_op op = recording.log.events[i].op;
        kills[i + 1] = all || op == DISK_MKDIR || op == DISK_LINK || op == DISK_RENAME;
    }
    workload_forget(base);
    for (size_t at = 0; at < count; at++)
        if (kills[at])
            kill_once(like, base, at, k);
}

/* ---- syncs that do nothing ---- */

/* Runs `w` in a child whose complaint is *said*; true if it complained. */
static bool complains(void (*run)(struct walk *w, const char *base), const struct walk *w,
                      const char *base, char said[200])
{
    int fds[2], status;
    CHECK_EQ(pipe2(fds, O_CLOEXEC), 0);
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        struct walk mine = *w;
        dup2(fds[1], STDERR_FILENO);
        run(&mine, base);
        _exit(0);
    }
    close(fds[1]);
    FILE *from = fdopen(fds[0], "r");
    CHECK(from);
    said[0] = 0;
    for (char line[1024]; fgets(line, sizeof(line), from);)
        snprintf(said, 200, "%.*s", (int)strcspn(line, "\n"), line);
    fclose(from);
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    scratch_remove(w->dir);
    return status != 0;
}

static void run_walk(struct walk *w, const char *base)
{
    (void)base;
    walk(w);
}

static void run_both(struct walk *w, const char *base)
{
    struct kills k = { 0 };
    char other[240];
    walk(w);
    snprintf(other, sizeof(other), "%s/killed", base);
    CHECK_EQ(mkdir(other, 0777), 0);
    recording = (struct recording){ 0 }; /* the parent's log lives on in the parent */
    walk_killed(w, other, true, &k);
}

/* Syncs that the next one on the same directory covers before anything refers to what
 * they keep, and why they stay. */
static const struct {
    const char *phase, *class, *why;
} covered[] = {
    { "publish", "fsync of /store/kit",
      "after c/: nothing is acknowledged before h/ is there, whose put syncs the same" },
    { "save", "fsync of /store/kit",
      "store_sync of the packs: the contract of a store asks "
      "for it; in dir, the put of .h that follows happens to sync the same directories" },
};

static const char *why_covered(const struct disk_event *e)
{
    char class[DISK_LABEL];
    class_of(e, class);
    for (size_t i = 0; i < ARRAY_COUNT(covered); i++)
        if (strncmp(e->label, covered[i].phase, strlen(covered[i].phase)) == 0 &&
            strncmp(class, covered[i].class, strlen(covered[i].class)) == 0)
            return covered[i].why;
    return NULL;
}

/* Each sync of the workload that had something to do, alone. */
static uint64_t swallow_each(const struct walk *like, const char *base, const bool *useful)
{
    uint64_t found = 0, idle = 0, unnoticed = 0, justified = 0;
    for (size_t i = 0; i < like->log->count; i++) {
        const struct disk_event *e = &like->log->events[i];
        char said[200];
        if (e->op != DISK_SYNC)
            continue;
        if (!useful[i]) {
            idle++;
            continue;
        }
        struct walk w = *like;
        w.swallow = w.from = i;
        bool noticed = complains(run_walk, &w, base, said);
        const char *why = noticed ? NULL : why_covered(e);
        found += noticed;
        justified += why != NULL;
        unnoticed += !noticed && !why;
        printf("swallowed %zu, %s: %s\n", i, e->label, noticed ? said : why ? why : "NOT NOTICED");
    }
    printf("syncs swallowed one by one: %llu noticed, %llu covered, %llu NOT NOTICED, %llu idle\n",
           (unsigned long long)found, (unsigned long long)justified, (unsigned long long)unnoticed,
           (unsigned long long)idle);
    return unnoticed;
}

/* All syncs of a class together, also with a killed writer: as if the line were not there. */
static uint64_t swallow_classes(const struct walk *like, const char *base)
{
    static char done[64][DISK_LABEL];
    size_t count = 0;
    uint64_t unnoticed = 0;
    char killed[240];
    snprintf(killed, sizeof(killed), "%s/killed", base);
    for (size_t i = 0; i < like->log->count; i++) {
        const struct disk_event *e = &like->log->events[i];
        size_t k = 0;
        char said[200], class[DISK_LABEL];
        if (e->op != DISK_SYNC)
            continue;
        class_of(e, class);
        while (k < count && strcmp(done[k], class) != 0)
            k++;
        if (k < count)
            continue;
        CHECK(count < ARRAY_COUNT(done));
        memcpy(done[count++], class, sizeof(class));
        struct walk w = *like;
        w.swallow_class = class;
        bool noticed = complains(run_both, &w, base, said);
        unnoticed += !noticed;
        printf("all of %s: %s\n", class, noticed ? said : "NOT NOTICED");
        scratch_remove(killed);
    }
    printf("%zu classes of syncs, %llu not noticed\n", count, (unsigned long long)unnoticed);
    return unnoticed;
}

static void test_swallow(const struct walk *like, const char *base)
{
    CLEANUP_FREE bool *useful = calloc(like->log->count, sizeof(*useful));
    CHECK(useful);
    struct walk w = *like;
    w.from = SIZE_MAX;
    w.useful = useful;
    walk(&w);
    w = *like;
    w.draws_max = DRAWS;
    uint64_t unnoticed = swallow_classes(&w, base);
    unnoticed += swallow_each(&w, base, useful);
    CHECK_EQ(unnoticed, 0);
}

int main(int argc, char **argv)
{
    char base[200], killed[240];
    bool deep = argc > 1 && strcmp(argv[1], "deep") == 0; /* takes hours */
    bool swallow_only = argc > 1 && strcmp(argv[1], "swallow") == 0;
    unsigned long long seed = test_seed(4);
    struct kills kills = { 0 };
    if (access("/dev/shm", W_OK) == 0)
        setenv("TMPDIR", "/dev/shm", 0); /* no real disk has to be worn for this */
    scratch_make(base);
    seen = calloc(SEEN_SLOTS, sizeof(*seen));
    CHECK(seen);
    struct walk w = { .swallow = SIZE_MAX, .draws_max = deep ? DRAWS_DEEP : DRAWS, .rand = seed };
    snprintf(w.dir, sizeof(w.dir), "%s/cut", base);
    snprintf(killed, sizeof(killed), "%s/killed", base);
    CHECK_EQ(mkdir(killed, 0777), 0);
    w.log = &recording.log;
    walk_killed(&w, killed, deep, &kills);
    scratch_remove(killed);
    printf("kill, go on, cut: %llu kills, %llu cuts, %llu states drawn, %llu recovered\n",
           (unsigned long long)kills.kills, (unsigned long long)kills.cuts,
           (unsigned long long)kills.drawn, (unsigned long long)kills.recovered);
    w.good = workload_record(base);
    printf("workload: %zu operations\n", recording.log.count);
    w.from = swallow_only ? SIZE_MAX : 0;
    walk(&w);
    printf("cut: %llu cuts (%llu exhaustive), %llu states drawn, %llu recovered\n",
           (unsigned long long)w.cuts, (unsigned long long)w.exhaustive,
           (unsigned long long)w.drawn, (unsigned long long)w.recovered);
    w.from = 0;
    if (deep || swallow_only)
        test_swallow(&w, base);
    store_close(w.good);
    recording_fini();
    scratch_remove(base);
    free(seen);
    TEST_CASES(w.drawn + kills.drawn);
    return 0;
}
