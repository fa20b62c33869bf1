/* SIGKILL of trainer, worker, keeper and pairs of them in each phase of a save, a start and a
 * restore.  The phase is not hoped for: a thread of ckptd stands at a chosen call (aim.h), the
 * ranks say how far the save is, and only then the kill is dealt.
 *
 *   test_kills [--kills N] [--seed S] [--phase NAME] [--victims NAME]
 *
 * One pass is every pair of victims and phase once, in an order drawn from the seed; passes
 * are repeated until N kills are dealt.  After every trial: what was promised, byte by byte
 * (trial.c), and nothing left over in ckptd or the store. */
#include <dirent.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "kills/kills.h"
#include "kills/probe.h"

#define KILLS 60
#if defined(__SANITIZE_ADDRESS__)
#define KILLS_DEEP KILLS
#else
#define KILLS_DEEP 400
#endif
#define HITS_MIN  5
#define RINGS_MAX 9 /* threads of a worker that do I/O: 6 for data, 2 for records, 1 more */

static const struct {
    const char *name;
    unsigned who;
} victims[] = {
    { "trainer", TRAINER },
    { "worker", WORKER },
    { "keeper", KEEPER },
    { "worker+keeper", WORKER | KEEPER },
    { "trainer+worker", TRAINER | WORKER },
    { "trainer+keeper", TRAINER | KEEPER },
};
#define VICTIMS ARRAY_COUNT(victims)

/* Where a phase can be hit: { call, kind, after, all, n at most }.  A copy through two slots
 * that are held is not over when one was given back before: a save has four. */
#define POINTS_MAX 8
static const struct aim_point points[PHASES][POINTS_MAX] = {
    [IN_COPYING] = { { AIM_RESERVE, AIM_PACK, false, true, 2 },
                     { AIM_DATASYNC, AIM_PACK, false, true, 2 },
                     { AIM_DIGEST, AIM_ANY, false, true, 2 },
                     { AIM_SEND, AIM_ANY, false, false, 8 },
                     { AIM_SEND, AIM_ANY, true, false, 8 } },
    [IN_STAGED] = { { AIM_RESERVE, AIM_PACK, false, true, 1 },
                    { AIM_DIGEST, AIM_ANY, false, true, 1 },
                    { AIM_SEND, AIM_SAYS_STAGED, true, false, 2 } },
    [IN_ENCODING] = { { AIM_DIGEST, AIM_ANY, false, false, 6 },
                      { AIM_CODE, AIM_ANY, false, false, 6 } },
    [IN_PUT] = { { AIM_RESERVE, AIM_PACK, false, false, 6 },
                 { AIM_CUT, AIM_PACK, false, false, 6 },
                 { AIM_DATASYNC, AIM_PACK, false, false, 6 },
                 { AIM_RENAME, AIM_PACK, false, false, 6 },
                 { AIM_RENAME, AIM_PACK, true, false, 6 } },
    [IN_MANIFEST] = { { AIM_SYNC, AIM_DATA_DIR, false, false, 2 },
                      { AIM_LINK, AIM_RANK_HELD, false, false, 2 },
                      { AIM_LINK, AIM_RANK_HELD, true, false, 2 },
                      { AIM_LINK, AIM_MANIFEST, false, false, 2 },
                      { AIM_LINK, AIM_MANIFEST, true, false, 2 } },
    [IN_PUBLISH] = { { AIM_LINK, AIM_INDEX, false, false, 1 },
                     { AIM_LINK, AIM_INDEX, true, false, 1 },
                     { AIM_LINK, AIM_COMMIT, false, false, 1 },
                     { AIM_LINK, AIM_COMMIT, true, false, 1 },
                     { AIM_SYNC, AIM_COMMITS_DIR, false, false, 1 },
                     { AIM_LINK, AIM_HELD, false, false, 1 },
                     { AIM_LINK, AIM_HELD, true, false, 1 } },
    [IN_RESOLVE] = { { AIM_OPEN, AIM_LAUNCHES, false, false, 3 },
                     { AIM_LINK, AIM_CLAIM, false, false, 1 },
                     { AIM_LINK, AIM_CLAIM, true, false, 1 },
                     { AIM_LINK, AIM_RESOLVED, false, false, 1 },
                     { AIM_LINK, AIM_RESOLVED, true, false, 1 },
                     { AIM_SEND, AIM_ANY, true, false, 4 } },
    [IN_LOAD] = { { AIM_OPEN, AIM_COMMIT, false, false, 1 },
                  { AIM_OPEN, AIM_INDEX, false, false, 1 },
                  { AIM_OPEN, AIM_PACK, false, false, 2 },
                  { AIM_DIGEST, AIM_ANY, false, false, 4 },
                  { AIM_SEND, AIM_ANY, false, false, 2 },
                  { AIM_SEND, AIM_ANY, true, false, 2 } },
};

/* Where a promise stands or falls, and what runs of this test have found; tried first. */
static const struct {
    unsigned victims; /* index */
    enum phase phase;
    struct aim_point point;
} first[] = {
    /* told staged, and both who could say so again are dead: the ledger came before the word */
    { 4, IN_STAGED, { AIM_SEND, AIM_SAYS_STAGED, true, false, 2 } },
    /* complete, and nobody is left who would commit it, or say that it is held */
    { 3, IN_PUBLISH, { AIM_LINK, AIM_COMMIT, false, false, 1 } },
    { 3, IN_PUBLISH, { AIM_LINK, AIM_COMMIT, true, false, 1 } },
    /* a restore that asked a fresh ckptd before it had the state's memory */
    { 3, IN_LOAD, { AIM_OPEN, AIM_INDEX, false, false, 1 } },
    /* a launch that died in its claim, and went on to shut out the next one */
    { 0, IN_RESOLVE, { AIM_OPEN, AIM_LAUNCHES, false, false, 2 } },
    /* a session's pidfd that the keeper had, and no ledger */
    { 1, IN_RESOLVE, { AIM_SEND, AIM_ANY, true, false, 1 } },
};

struct run {
    unsigned long long seed, rnd;
    long kills_wanted, kills, trials;
    const char *only_phase, *only_victims;
    long hits[VICTIMS][PHASES];
    long fds[2][2]; /* of a fresh worker: by --io, --codec; 0 = not known yet */
    long keeper_fds;
    unsigned io, codec;
};

/* -- ckptd ------------------------------------------------------------------------------- */

/* What the next ckptd is started with. */
static void draw_config(struct run *run)
{
    static const char *const io[] = { "threads", "auto" }, *const codec[] = { "stored", "zstd:1" };
    run->io = (unsigned)(test_rand(&run->rnd) % 2);
    run->codec = (unsigned)(test_rand(&run->rnd) % 2);
    kit.io = io[run->io];
    kit.codec = codec[run->codec];
}

/* What an idle ckptd holds is learned once for each way to start it. */
static void learn(struct run *run)
{
    struct probe worker, keeper;
    long *fds = &run->fds[run->io][run->codec];
    for (int i = 0; i < 40 && *fds == 0; i++) {
        kit_pause(10);
        CHECK(probe_process(kit_worker(), &worker) && probe_process(kit.keeper, &keeper));
        if (i == 39)
            *fds = worker.fds;
    }
    if (run->keeper_fds == 0)
        run->keeper_fds = keeper.fds;
}

static long temp_files(void)
{
    char path[sizeof(kit.store) + 8];
    snprintf(path, sizeof(path), "%s/.tmp", kit.store);
    return probe_entries(path);
}

/* All sessions are over soon, and then nothing of them is left. */
static void check_idle(const struct run *run)
{
    struct probe w = { 0 }, k = { 0 };
    long want = run->fds[run->io][run->codec], temps = 0;
    for (int i = 0; i < 2000; i++) {
        bool there = probe_process(kit_worker(), &w) && probe_process(kit.keeper, &k);
        temps = temp_files();
        if (there && w.memfds == 0 && k.memfds == 0 && w.fds == want && k.fds == run->keeper_fds &&
            w.rings <= RINGS_MAX && temps == 0)
            return;
        kit_pause(5);
    }
    fprintf(
        stderr,
        "left over: worker %ld descriptors (idle: %ld), %ld of shared memory; keeper %ld (%ld), "
        "%ld; %ld temporary files\n",
        w.fds, want, w.memfds, k.fds, run->keeper_fds, k.memfds, temps);
    probe_say_fds(kit_worker());
    probe_say_fds(kit.keeper);
    exit(1);
}

/* -- trials ------------------------------------------------------------------------------- */

static void draw(struct run *run, struct trial *t)
{
    const struct aim_point *p = points[t->phase];
    unsigned long long rnd = t->seed;
    uint64_t n = 0;
    while (n < POINTS_MAX && p[n].call != AIM_NOTHING)
        n++;
    do
        t->point = p[test_rand(&rnd) % n];
    while (t->point.call == AIM_CODE && run->codec == 0);
    t->large = t->phase == IN_COPYING || test_rand(&rnd) % 4 == 0;
    t->nth = 1 + (uint32_t)(test_rand(&rnd) % t->point.nth_max);
    if (!t->large && t->nth > 2)
        t->nth = 2;
    if (t->point.kind == AIM_SAYS_STAGED)
        t->nth = WORLD; /* the last rank is told */
    t->dead = 1 + (uint32_t)(test_rand(&rnd) % 3);
    t->trainer_last = test_rand(&rnd) % 2;
    t->pause_ms = (long)(test_rand(&rnd) % 3 * 10);
}

static void remove_job(const char *job)
{
    char command[192];
    snprintf(command, sizeof(command), "rm -rf %s/%s", kit.store, job);
    CHECK_EQ(system(command), 0);
}

/* point: NULL = one is drawn. */
static void try_one(struct run *run, size_t who, enum phase phase, const struct aim_point *point)
{
    struct trial t = { .phase = phase, .victims = victims[who].who };
    t.seed = test_rand(&run->rnd);
    snprintf(t.job, sizeof(t.job), "k%ld", run->trials);
    draw(run, &t);
    if (point) {
        t.point = *point;
        t.nth = point->nth_max;
        t.dead = 3;
    }
    fprintf(stderr,
            "trial %ld: %s in %s, call %u kind %u%s n %u, ranks %u%s, %s, --io %s --codec %s\n",
            run->trials, victims[who].name, phase_names[phase], t.point.call, t.point.kind,
            t.point.after ? " after" : "", t.nth, t.dead, t.trainer_last ? " last" : "",
            t.large ? "large" : "small", kit.io, kit.codec);
    if (t.victims & KEEPER)
        draw_config(run); /* for the ckptd that comes after it */
    run->kills += trial_run(&t);
    run->hits[who][phase]++;
    run->trials++;
    learn(run);
    check_idle(run);
    remove_job(t.job);
}

/* Every pair once, in an order of its own. */
static void pass(struct run *run)
{
    unsigned order[VICTIMS * PHASES], n = 0;
    for (unsigned i = 0; i < VICTIMS * PHASES; i++) {
        bool wanted =
            (!run->only_phase || strcmp(run->only_phase, phase_names[i % PHASES]) == 0) &&
            (!run->only_victims || strcmp(run->only_victims, victims[i / PHASES].name) == 0);
        if (wanted)
            order[n++] = i;
    }
    CHECK(n > 0);
    for (unsigned i = n; i > 1; i--) {
        unsigned k = (unsigned)(test_rand(&run->rnd) % i), kept = order[i - 1];
        order[i - 1] = order[k];
        order[k] = kept;
    }
    for (unsigned i = 0; i < n; i++)
        try_one(run, order[i] / PHASES, order[i] % PHASES, NULL);
}

/* -- the end ------------------------------------------------------------------------------- */

static void say_histogram(const struct run *run)
{
    bool all = !run->only_phase && !run->only_victims;
    printf("%-16s", "hits");
    for (int p = 0; p < PHASES; p++)
        printf("%9s", phase_names[p]);
    for (size_t v = 0; v < VICTIMS; v++) {
        printf("\n%-16s", victims[v].name);
        for (int p = 0; p < PHASES; p++)
            printf("%9ld", run->hits[v][p]);
    }
    printf("\n%-16s", "total");
    long least = HITS_MIN;
    for (int p = 0; p < PHASES; p++) {
        long total = 0;
        for (size_t v = 0; v < VICTIMS; v++)
            total += run->hits[v][p];
        least = total < least ? total : least;
        printf("%9ld", total);
    }
    printf("\n%ld trials, %ld kills\n", run->trials, run->kills);
    CHECK(!all || least >= HITS_MIN);
}

/* Names in `dir` that nobody should have left. */
static long strangers(const char *dir, const char *const *known, size_t count)
{
    long n = 0;
    DIR *d = opendir(dir);
    CHECK(d);
    for (const struct dirent *e; (e = readdir(d));) {
        bool is_known = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0;
        for (size_t i = 0; i < count; i++)
            is_known |= strcmp(e->d_name, known[i]) == 0;
        if (!is_known)
            fprintf(stderr, "left over: %s/%s\n", dir, e->d_name);
        n += !is_known;
    }
    closedir(d);
    return n;
}

static void check_nothing_left(void)
{
    static const char *const in_root[] = { "store", "log", "aim", "sock.lock", "sock.node" };
    static const char *const in_store[] = { "ckpt.repo", ".node", ".tmp" };
    long processes = probe_processes(kit.root), temps = temp_files();
    long files = strangers(kit.root, in_root, ARRAY_COUNT(in_root)) +
                 strangers(kit.store, in_store, ARRAY_COUNT(in_store));
    CHECK_EQ(waitpid(-1, NULL, WNOHANG), -1); /* no child */
    printf("left over: %ld processes, %ld temporary files, %ld other files, sockets\n", processes,
           temps, files);
    CHECK(processes == 0 && temps == 0 && files == 0);
}

static void parse(struct run *run, int argc, char **argv)
{
    const char *deep = getenv("CKPT_DEEP");
    run->kills_wanted = deep && deep[0] ? KILLS_DEEP : KILLS;
    run->seed = 20;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--kills") == 0)
            run->kills_wanted = strtol(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--seed") == 0)
            run->seed = strtoull(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--phase") == 0)
            run->only_phase = argv[i + 1];
        else if (strcmp(argv[i], "--victims") == 0)
            run->only_victims = argv[i + 1];
        else
            CHECK(!"usage: test_kills [--kills N] [--seed S] [--phase NAME] [--victims NAME]");
    }
    run->rnd = run->seed = test_seed(run->seed);
}

int main(int argc, char **argv)
{
    struct run run = { 0 };
    char aim[80];
    parse(&run, argc, argv);
    snprintf(aim, sizeof(aim), "/tmp/e2e-kill-%d.aim", (int)getpid());
    aim_make(aim);
    setenv("CKPT_TEST_AIM", aim, 1);
    setenv("CKPT_ARRIVAL_MS", "5000",
           1); /* a rank that was told otherwise is not waited for long */
    kit.preload = AIM_LIBRARY;
    draw_config(&run);
    kit_begin("kill");
    learn(&run);
    for (size_t i = 0; i < ARRAY_COUNT(first) && !run.only_phase && !run.only_victims; i++)
        try_one(&run, first[i].victims, first[i].phase, &first[i].point);
    while (run.kills < run.kills_wanted)
        pass(&run);
    CHECK_EQ(kit_stop(), 0);
    unlink(aim);
    check_nothing_left();
    say_histogram(&run);
    kit.kills = run.kills;
    kit.cases += run.trials;
    return kit_remove();
}
