/* Soak: saves without end through the library and the daemon, while old checkpoints are deleted
 * and collected beside them.  Everything that could grow is looked at ten times, printed, and
 * must be as it was after the first saves.
 *
 *   test_soak [--saves N]
 *
 * The saves are those of several launches, so that sessions, arenas and ledgers come and go;
 * before each look the ranks pause and the collector has nothing left to do. */
#include <limits.h>
#include <sys/wait.h>

#include "e2e/kit.h"
#include "kills/probe.h"
#include "storage/repo/catalog.h"
#include "storage/repo/life.h"
#include "storage/repo/repo.h"

#define SAVES    100
#define LAUNCHES 5
#define LOOKS    10 /* two a launch */
#define WARM_UP  4  /* looks, of two launches, whose greatest values are the measure */
#define KEPT     3  /* newest checkpoints that are not deleted */
#define WORLD    2
#define JOB      "soak"
#define GC_EVERY 20 /* saves */

/* What may be more than in the warm-up. */
#define RSS_SLACK_KIB    1024
#define LAUNCH_NAMES_MAX 6 /* a launch leaves its directory and records in l/, for good */

#if defined(__SANITIZE_ADDRESS__)
#define SAVES_DEEP          SAVES
#define RSS_MEANS_SOMETHING 0 /* what was freed is kept aside */
#else
#define SAVES_DEEP          1000
#define RSS_MEANS_SOMETHING 1
#endif

static const struct kit_part parts[] = {
    { .name = "w", .dtype = CKPT_F32, .ndim = 2, .shape = { 512, 512 }, .how = KIT_ROWS },
    { .name = "v", .dtype = CKPT_F32, .ndim = 1, .shape = { 30011 }, .how = KIT_FLAT },
    { .name = "rng", .object = true, .shape = { 64, 40 }, .scope = CKPT_OBJECT_RANK },
};
#define PARTS ARRAY_COUNT(parts)

struct look {
    long saves;
    struct probe worker, keeper;
    long temps, entries, launch_entries, live;
};
struct soak {
    long saves; /* in all */
    struct store *s;
    struct look looks[LOOKS];
    uint64_t collected, removed;
};

/* -- the ranks ------------------------------------------------------------------------- */

enum { PAUSED, GO_ON };
enum { VALUE_STEP };

/* Half of the launch's saves, then it waits while the test looks. */
static void save_half(struct kit_rank *r, uint64_t first, uint64_t count, int look)
{
    for (uint64_t i = 0; i < count; i++) {
        KIT_OK(kit_save_local(r, first + i));
        if (r->rank == 0)
            atomic_store(&r->board->value[VALUE_STEP], first + i);
    }
    kit_reach(r->board, PAUSED);
    kit_await(r->board, GO_ON, look + 1);
}

static void launch(struct kit_rank *r)
{
    uint64_t each = *(const uint64_t *)r->arg, next = 1;
    kit_open(r);
    kit_declare(r, parts, PARTS);
    if (r->point.size) {
        kit_restore(r);
        next = r->point.step + 1;
    }
    save_half(r, next, each, 0);
    save_half(r, next + each, each, 1);
}

/* -- the collector ------------------------------------------------------------------------ */

/* All live ones but the newest few; where the newest launch resumed may be refused. */
static void delete_old(struct soak *k)
{
    struct catalog cat;
    size_t live = 0;
    CHECK_OK(catalog_read(k->s, JOB, CATALOG_ALL, &cat, NULL));
    for (size_t i = 0; i < cat.count; i++) { /* newest first */
        struct ckpt_err err = { 0 };
        if (cat.entries[i].state != CATALOG_LIVE || live++ < KEPT)
            continue;
        enum ckpt_status st = life_delete(k->s, JOB, &cat.entries[i].name, "old", &err);
        CHECK(st == CKPT_OK || st == CKPT_REFUSED);
    }
    catalog_fini(&cat);
}

static void collect(struct soak *k)
{
    const struct life_gc_options o = { .undecided = true };
    struct life_gc_report report = { 0 };
    struct ckpt_err err = { 0 };
    delete_old(k);
    enum ckpt_status st = life_gc(k->s, JOB, &o, &report, &err);
    if (st != CKPT_OK)
        fprintf(stderr, "gc: %s \"%s\"\n", status_name(st), err_text(&err));
    CHECK_EQ(st, CKPT_OK);
    k->collected += report.collected;
    k->removed += report.objects;
}

/* -- looking --------------------------------------------------------------------------------- */

static long below(const char *what)
{
    char path[sizeof(kit.store) + 32];
    snprintf(path, sizeof(path), "%s/%s", kit.store, what);
    return probe_entries(path);
}

static void look(struct soak *k, int at, long saves)
{
    struct look *l = &k->looks[at];
    collect(k); /* deletes and collects; the second forgets */
    collect(k);
    kit_pause(50); /* the last messages of sessions that ended */
    l->saves = saves;
    CHECK(probe_process(kit_worker(), &l->worker) && probe_process(kit.keeper, &l->keeper));
    l->temps = below(".tmp");
    l->launch_entries = below(JOB "/l");
    l->entries = below(JOB) - l->launch_entries;
    struct catalog cat;
    CHECK_OK(catalog_read(k->s, JOB, CATALOG_ALL, &cat, NULL));
    for (size_t i = 0; i < cat.count; i++)
        l->live += cat.entries[i].state == CATALOG_LIVE;
    catalog_fini(&cat);
}

static void soak_launch(struct soak *k, uint64_t each, int number)
{
    struct kit_crowd w;
    uint64_t collected_at = 0;
    kit_ranks(&w, JOB, WORLD, launch, &each);
    for (int half = 0; half < 2; half++) {
        while (atomic_load(&w.board->stage[PAUSED]) < WORLD * (half + 1)) {
            siginfo_t ended = { 0 };
            CHECK_EQ(waitid(P_PID, (id_t)w.pid[0], &ended, WEXITED | WNOHANG | WNOWAIT), 0);
            CHECK_EQ(ended.si_pid, 0); /* it has said why */
            uint64_t step = atomic_load(&w.board->value[VALUE_STEP]);
            if (step >= collected_at + GC_EVERY) { /* beside the saves */
                collect(k);
                collected_at = step;
            }
            kit_pause(2);
        }
        look(k, number * 2 + half, (long)each * (number * 2 + half + 1));
        kit_reach(w.board, GO_ON);
    }
    kit_wait(&w, 0);
}

/* -- the table --------------------------------------------------------------------------------- */

struct column {
    const char *name;
    long slack; /* LONG_MAX: only shown */
    long value[LOOKS];
};

static void fill(const struct soak *k, struct column *c, size_t n)
{
    for (int i = 0; i < LOOKS; i++) {
        const struct look *l = &k->looks[i];
        const long row[] = { l->saves,
                             l->live,
                             l->entries,
                             l->launch_entries,
                             l->temps,
                             l->worker.rss_kib,
                             l->worker.fds,
                             l->worker.rings,
                             l->worker.threads,
                             l->worker.memfds,
                             l->worker.memfd_pages,
                             l->keeper.rss_kib,
                             l->keeper.fds,
                             l->keeper.threads,
                             l->keeper.memfds,
                             l->keeper.memfd_pages };
        CHECK_EQ(ARRAY_COUNT(row), n);
        for (size_t j = 0; j < n; j++)
            c[j].value[i] = row[j];
    }
}

static long most_of(const struct column *c)
{
    long most = 0;
    for (int i = 0; i < WARM_UP; i++)
        most = c->value[i] > most ? c->value[i] : most;
    return most;
}

static void say_and_check(const struct soak *k)
{
    long rss = RSS_MEANS_SOMETHING ? RSS_SLACK_KIB : LONG_MAX;
    struct column c[] = {
        { .name = "saves", .slack = LONG_MAX },
        { .name = "live", .slack = 0 }, /* with where the launch resumed */
        { .name = "names", .slack = 0 },
        { .name = "l/", .slack = LONG_MAX },
        { .name = "temp", .slack = 0 },
        { .name = "w.rss", .slack = rss },
        { .name = "w.fds", .slack = 0 },
        { .name = "rings", .slack = 0 },
        { .name = "w.thr", .slack = 0 },
        { .name = "w.shm", .slack = 0 },
        { .name = "w.pages", .slack = 0 },
        { .name = "k.rss", .slack = rss },
        { .name = "k.fds", .slack = 0 },
        { .name = "k.thr", .slack = 0 },
        { .name = "k.shm", .slack = 0 },
        { .name = "k.pages", .slack = 0 },
    };
    bool flat = true;
    fill(k, c, ARRAY_COUNT(c));
    for (size_t j = 0; j < ARRAY_COUNT(c); j++)
        printf("%8s", c[j].name);
    for (int i = 0; i < LOOKS; i++) {
        printf("\n");
        for (size_t j = 0; j < ARRAY_COUNT(c); j++) {
            long most = most_of(&c[j]);
            bool grew = c[j].slack != LONG_MAX && c[j].value[i] > most + c[j].slack;
            printf("%7ld%c", c[j].value[i], grew ? '!' : ' ');
            flat &= !grew;
        }
    }
    printf("\n(w. worker, k. keeper: resident KiB, descriptors, threads, shared memories and their "
           "4 KiB pages; l/ is history)\n");
    fflush(stdout);
    CHECK(flat);
    for (int i = 0; i < LOOKS; i++)
        CHECK(k->looks[i].launch_entries <= LAUNCH_NAMES_MAX * (i / 2 + 1));
}

int main(int argc, char **argv)
{
    struct soak k = { 0 };
    const char *deep = getenv("CKPT_DEEP");
    k.saves = deep && deep[0] ? SAVES_DEEP : SAVES;
    for (int i = 1; i + 1 < argc; i += 2) {
        CHECK(strcmp(argv[i], "--saves") == 0);
        k.saves = strtol(argv[i + 1], NULL, 10);
    }
    CHECK(k.saves >= LOOKS);
    kit_begin("soak");
    CHECK_OK(store_open(kit.store, &(struct store_options){ .io = "threads" }, &k.s, NULL));
    uint64_t each = (uint64_t)(k.saves + LOOKS - 1) / LOOKS;
    for (int i = 0; i < LAUNCHES; i++)
        soak_launch(&k, each, i);
    kit_verify(JOB, each * LOOKS);
    store_close(k.s);
    say_and_check(&k);
    printf("%llu checkpoints collected, %llu objects removed\n", (unsigned long long)k.collected,
           (unsigned long long)k.removed);
    CHECK(k.collected > 0 && k.removed > 0);
    kit.cases += (long)each * LOOKS;
    return kit_end();
}
