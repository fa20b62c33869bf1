/* Power cuts: a workload runs once on a recording disk; after each operation states that a
 * cut there may leave are written out, recovered and verified.  64 of them, drawn by seed.
 * CKPT_DEEP: also all of them where they are no more than 4,096, else as many drawn, on a
 * disk that is otherwise settled; and each sync is swallowed in turn ("test_crash swallow" does that
 * alone). */
#include <stdio.h>
#include <sys/stat.h>

#include "crash/record_io.h"
#include "crash/swallow.h"
#include "crash/workload.h"
#include "store/scratch.h"

#define DRAWS      (64 / TEST_TENTH)
#define EVERY      (TEST_TENTH > 1 ? 5 : 1) /* prime to how many steps a put has */
#define ALL_DEEP   4096
#define DRAWS_DEEP 4096

static void say(const char *what, const struct walk_counts *c)
{
    printf("%s: %llu cuts (%llu exhaustive), %llu states drawn, %llu recovered\n", what,
           (unsigned long long)c->cuts, (unsigned long long)c->exhaustive,
           (unsigned long long)c->drawn, (unsigned long long)c->recovered);
    fflush(stdout);
}

/* ---- a process is killed, another goes on, then comes the cut ---- */

/* all: at each operation; else where a name has just been made and not synced. */
static void walk_killed(const struct walk *like, const char *base, bool all,
                        struct walk_counts *sum)
{
    static bool kills[4096]; /* by event; the same in every run */
    size_t count;
    uint64_t killed = 0;
    workload_record_killed(base, SIZE_MAX, &count);
    CHECK(count < ARRAY_COUNT(kills));
    for (size_t i = 0; i < count; i++) {
        enum disk_op op = recording.log.events[i].op;
        kills[i + 1] = all || op == DISK_MKDIR || op == DISK_LINK || op == DISK_RENAME;
    }
    workload_forget(base);
    for (size_t at = 0, nth = 0; at < count; at++) {
        if (!kills[at] || nth++ % TEST_TENTH != 0)
            continue;
        struct walk w = *like;
        w.marks_only = true;
        killed += workload_record_killed(base, at, &w.from);
        walk(&w);
        walk_counts_add(sum, &w.counts);
        workload_forget(base);
    }
    printf("%llu kills\n", (unsigned long long)killed);
    say("kill, go on, cut", sum);
}

/* ---- cuts of the whole workload ---- */

static void walk_workload(const struct walk *like, bool deep, struct walk_counts *sum)
{
    struct walk w = *like;
    walk(&w);
    say("cut", &w.counts);
    walk_counts_add(sum, &w.counts);
    if (!deep)
        return;
    w = *like;
    w.all_max = ALL_DEEP;
    w.draws = DRAWS_DEEP;
    w.settles = w.fresh_only = true;
    walk(&w);
    say("cut, where all else is written back between operations", &w.counts);
    walk_counts_add(sum, &w.counts);
}

int main(int argc, char **argv)
{
    char base[200], killed[240];
    bool swallow_only = argc > 1 && strcmp(argv[1], "swallow") == 0;
    bool deep = getenv("CKPT_DEEP") != NULL;
    struct walk_counts sum = { 0 };
    struct walk w = {
        .swallow = SIZE_MAX, .all_max = DRAWS, .draws = DRAWS, .every = EVERY, .log = &recording.log
    };
    w.rand = test_seed(4);
    if (access("/dev/shm", W_OK) == 0)
        setenv("TMPDIR", "/dev/shm", 0); /* no real disk has to be worn for this */
    scratch_make(base);
    walk_seen_init();
    snprintf(w.dir, sizeof(w.dir), "%s/cut", base);
    snprintf(killed, sizeof(killed), "%s/killed", base);
    CHECK_EQ(mkdir(killed, 0777), 0);
    if (!swallow_only)
        walk_killed(&w, killed, deep, &sum);
    w.good = workload_record(base);
    printf("workload: %zu operations\n", recording.log.count);
    if (!swallow_only)
        walk_workload(&w, deep, &sum);
    if (swallow_only || deep)
        CHECK_EQ(swallow_each(&w, killed), 0);
    store_close(w.good);
    recording_fini();
    scratch_remove(base);
    walk_seen_fini();
    TEST_CASES(sum.drawn + swallow_only);
    return 0;
}
