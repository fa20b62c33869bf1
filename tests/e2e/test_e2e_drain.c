/* What goes on to other tiers, and comes back from them: real ckptd, real ranks, a second
 * directory in the place of a remote store.
 * (It covers tiers.c, control_drain.c and drain_jobs.c, too.) */
#include <dirent.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "e2e/kit.h"
#include "storage/repo/catalog.h"
#include "storage/repo/life.h"

#define ROWS    24000
#define KILLS   3
#define STREAMS 2
#define SLOT    (8 << 20)
static const struct kit_part parts[] = {
    { .name = "w", .dtype = CKPT_F32, .ndim = 2, .shape = { ROWS, 100 }, .how = KIT_ROWS },
    { .name = "bias", .dtype = CKPT_F32, .ndim = 1, .shape = { 500 }, .how = KIT_SAME },
    { .name = "rng", .object = true, .shape = { 64, 40 }, .scope = CKPT_OBJECT_SHARED },
};
#define PARTS ARRAY_COUNT(parts)

static char remote[96], local[96];

static void set_args(const char *const *args)
{
    memset(kit.more, 0, sizeof(kit.more));
    for (size_t i = 0; args && args[i]; i++)
        kit.more[i] = args[i];
}

static void restart(const char *const *args)
{
    CHECK_EQ(kit_stop(), 0);
    set_args(args);
    kit_start();
}

static void remove_tree(const char *path)
{
    char command[160];
    snprintf(command, sizeof(command), "rm -rf '%s'", path);
    CHECK_EQ(system(command), 0);
}

/* -- bodies of ranks ------------------------------------------------------------------ */

struct steps {
    uint64_t from, to;
    bool resumed;     /* there is a point, and it is `from - 1` */
    uint64_t planned; /* bit n: step n goes on; 0 = all do.  The others are NOT_PLANNED */
};

static void save_steps(struct kit_rank *r)
{
    const struct steps *s = r->arg;
    uint64_t ops[64];
    kit_open(r);
    kit_declare(r, parts, PARTS);
    CHECK_EQ(r->point.size != 0, s->resumed);
    if (s->resumed) {
        CHECK_EQ(r->point.step, s->from - 1);
        kit_restore(r);
    }
    for (uint64_t step = s->from; step <= s->to; step++) {
        KIT_OK(kit_save(r, step, &ops[step]));
        KIT_OK(ckpt_wait(r->c, ops[step], CKPT_LEVEL_LOCAL, 20000));
    }
    for (uint64_t step = s->from; step <= s->to; step++) {
        enum ckpt_status want =
            s->planned && !(s->planned >> step & 1) ? CKPT_NOT_PLANNED : CKPT_OK;
        enum ckpt_status st = ckpt_wait(r->c, ops[step], CKPT_LEVEL_REMOTE, 20000);
        if (st != want)
            fprintf(stderr, "step %d, wait for remote: %s\n", (int)step, ckpt_error());
        CHECK_EQ(st, want);
    }
}

static void run_steps(const char *job, uint32_t world, const struct steps *s)
{
    kit_run(job, world, save_steps, s);
}

/* -- looking ---------------------------------------------------------------------------- */

static bool is_held(const char *store, const char *job, uint64_t step)
{
    struct store *s;
    struct catalog c;
    bool held = false;
    if (store_open(store, NULL, &s, NULL) != CKPT_OK)
        return false;
    if (catalog_read(s, job, CATALOG_ALL, &c, NULL) == CKPT_OK) {
        for (size_t i = 0; i < c.count; i++)
            held |= c.entries[i].name.step == step && c.entries[i].held;
        catalog_fini(&c);
    }
    store_close(s);
    return held;
}

static void await_held(const char *store, const char *job, uint64_t step)
{
    for (int i = 0; i < 1500 && !is_held(store, job, step); i++)
        kit_pause(20);
    CHECK(is_held(store, job, step));
}

static void await_log(const char *text)
{
    for (int i = 0; i < 1500 && !kit_logged(text); i++)
        kit_pause(20);
    CHECK(kit_logged(text));
}

/* -- scenarios ------------------------------------------------------------------------ */

/* Saved here, held there, whole by every sum; and a node that has nothing but the URL goes
 * on from it. */
static void there_and_back(void)
{
    const char *args[] = { "--remote", remote, NULL };
    restart(args);
    run_steps("there", 2, &(struct steps){ 1, 3, false, 0 });
    kit_look_into(remote);
    CHECK_EQ(kit_verify("there", 3), 3);
    kit_look_into(NULL);
    CHECK_EQ(kit_stop(), 0);
    remove_tree(kit.store);
    kit_start();
    run_steps("there", 2, &(struct steps){ 4, 5, true, 0 });
    kit_look_into(remote);
    CHECK_EQ(kit_verify("there", 5), 5);
    kit_look_into(NULL);
}

/* Only what the policy says; the others say so at once. */
static void policies(void)
{
    const char *every[] = { "--remote", remote, "--remote-policy", "every=2", NULL };
    const char *last[] = { "--remote", remote, "--remote-policy", "last", NULL };
    restart(every);
    run_steps("every", 1, &(struct steps){ 1, 4, false, 1 << 1 | 1 << 2 | 1 << 4 });
    CHECK(is_held(remote, "every", 4) && !is_held(remote, "every", 3));
    restart(last);
    run_steps("last", 1, &(struct steps){ 1, 3, false, 1 << 30 });
    await_held(remote, "last", 3);
    CHECK(!is_held(remote, "last", 2) && !is_held(remote, "last", 1));
    /* Without a tier there is nothing to wait for. */
    restart(NULL);
    run_steps("alone", 1, &(struct steps){ 1, 2, false, 1 << 30 });
    kit.cases += 4;
}

/* The worker dies between the commit and the word on what becomes of it: the next one says
 * it, also of what no scan finds (not planned, or there already). */
static void die_before_the_word(struct kit_rank *r)
{
    enum ckpt_status want = *(const enum ckpt_status *)r->arg;
    kit_open(r);
    kit_declare(r, parts, PARTS);
    for (uint64_t step = 1; step <= 6; step++) {
        uint64_t op;
        KIT_OK(kit_save(r, step, &op));
        KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 20000));
        if (want == CKPT_OK)
            kit_pause((long)step * 4);
        kit_kill(kit_worker(), SIGKILL);
        CHECK_EQ(ckpt_wait(r->c, op, CKPT_LEVEL_REMOTE, 20000), want);
    }
}

static void words_are_kept(void)
{
    const char *none[] = { "--remote", remote, "--remote-policy", "none", NULL };
    const char *all[] = { "--remote", remote, NULL };
    restart(none);
    kit_run("words", 1, die_before_the_word, &(enum ckpt_status){ CKPT_NOT_PLANNED });
    restart(all);
    kit_run("words2", 1, die_before_the_word, &(enum ckpt_status){ CKPT_OK });
}

/* Bad bytes here are taken from there, and mended behind the restore's back. */
static void mends(void)
{
    const char *args[] = { "--remote", remote, NULL };
    restart(args);
    run_steps("mend", 2, &(struct steps){ 1, 2, false, 0 });
    kit_damage("mend", 2);
    run_steps("mend", 2, &(struct steps){ 3, 3, true, 0 });
    await_log("checkpoint was repaired");
    CHECK_EQ(kit_verify("mend", 3), 3);
    kit.cases++;
}

static void await_refusals(int more)
{
    int before = kit_logged_times("cannot start");
    for (int i = 0; i < 1500 && kit_logged_times("cannot start") < before + more; i++)
        kit_pause(20);
    CHECK(kit_logged_times("cannot start") >= before + more);
}

/* Where the home was is nothing, and then an empty directory, as where nothing is mounted any more.
 * A worker that takes the sessions over makes neither that nor a repository of it. */
static void while_unmounted(struct kit_rank *r)
{
    const char *home = r->arg;
    char away[128];
    (void)snprintf(away, sizeof(away), "%s.away", home);
    kit_open(r);
    kit_declare(r, parts, PARTS);
    KIT_OK(kit_save_local(r, 1));
    CHECK_EQ(rename(home, away), 0);
    kit_kill(kit_worker(), SIGKILL);
    await_refusals(2);
    CHECK_EQ(mkdir(home, 0700), 0); /* still not there */
    await_refusals(2);
    CHECK_EQ(rmdir(home), 0); /* still empty */
    CHECK_EQ(rename(away, home), 0);
    KIT_OK(kit_save_local(r, 2));
}

/* I2: a launch waits for its home: for a moment, and in vain. */
static void *comes_back(void *home)
{
    char away[128];
    (void)snprintf(away, sizeof(away), "%s.away", (const char *)home);
    for (int i = 0; i < 1500 && kit_logged_times("a launch waits for its home\" job=early") < 2;
         i++)
        kit_pause(20);
    CHECK_EQ(rename(away, home), 0);
    return NULL;
}

static void begins_before_home(struct kit_rank *r)
{
    struct kit_rank again = *r;
    struct ckpt_open_opts o = kit_opts(r);
    char away[128];
    pthread_t other;
    (void)snprintf(away, sizeof(away), "%s.away", (const char *)r->arg);
    (void)snprintf(again.token, sizeof(again.token), "%.60s.again", r->token);
    CHECK_EQ(rename(r->arg, away), 0);
    o.timeout_ms = 1500;
    KIT_FAILS(ckpt_open(&o, &r->c), CKPT_UNREACHABLE, "was renamed, replaced or unmounted");
    CHECK(strstr(ckpt_error(), kit.store));
    CHECK_EQ(kit_logged_times("a launch waits for its home\" job=early"), 1);
    CHECK_EQ(pthread_create(&other, NULL, comes_back, (void *)(uintptr_t)r->arg), 0);
    kit_open(&again);
    CHECK_EQ(pthread_join(other, NULL), 0);
    kit_declare(&again, parts, PARTS);
    KIT_OK(kit_save_local(&again, 1));
    kit_close(&again);
}

/* A disk of the node's own does not come back by itself. */
static void begins_without_disk(struct kit_rank *r)
{
    struct ckpt_open_opts o = kit_opts(r);
    char away[128];
    (void)snprintf(away, sizeof(away), "%s.away", kit.store);
    CHECK_EQ(rename(kit.store, away), 0);
    KIT_FAILS(ckpt_open(&o, &r->c), CKPT_UNREACHABLE, "was renamed, replaced or unmounted");
    CHECK(!kit_logged("a launch waits for its home\" job=diskless"));
    CHECK_EQ(rename(away, kit.store), 0);
}

/* Packs in the node's own tier, records in a shared directory, which gets the packs, too. */
static void home_elsewhere(void)
{
    char home[sizeof(kit.root) + 8], own[sizeof(kit.store)];
    const char *args[] = { "--local", local, NULL };
    const char *none[] = { "--local", local, "--remote-policy", "none", NULL };
    memcpy(own, kit.store, sizeof(own));
    (void)snprintf(home, sizeof(home), "%s/home", kit.root);
    snprintf(kit.store, sizeof(kit.store), "dir://%s?shared=1", home);
    restart(none);
    run_steps("apart", 2, &(struct steps){ 1, 2, false, 1 << 30 });
    CHECK(!is_held(home, "apart", 2) && is_held(local, "apart", 2) == 0);
    run_steps("apart", 2, &(struct steps){ 3, 3, true, 1 << 30 }); /* from the own tier */
    restart(args);
    run_steps("apart", 2, &(struct steps){ 4, 5, true, 0 });
    await_held(home, "apart", 1); /* the scan finds what lay there */
    CHECK_EQ(kit_verify("apart", 5), 5);
    kit_run("unmounted", 1, while_unmounted, home);
    kit_run("early", 1, begins_before_home, home);
    /* Damaged in the own tier: from the home, and mended. */
    memcpy(kit.store, local, sizeof(kit.store));
    kit_look_into(home);
    kit_damage("apart", 5);
    kit_look_into(NULL);
    snprintf(kit.store, sizeof(kit.store), "dir://%s?shared=1", home);
    run_steps("apart", 2, &(struct steps){ 6, 6, true, 0 });
    char mended[200];
    snprintf(mended, sizeof(mended),
             "checkpoint was repaired\" job=apart epoch=3 step=5 tier=\"%s\"", local);
    await_log(mended);
    /* The node's disk is lost. */
    CHECK_EQ(kit_stop(), 0);
    remove_tree(local);
    kit_start();
    run_steps("apart", 2, &(struct steps){ 7, 7, true, 0 });
    CHECK_EQ(kit_verify("apart", 7), 7);
    CHECK_EQ(kit_stop(), 0);
    memcpy(kit.store, own, sizeof(own));
    set_args(NULL);
    kit_start();
    kit_run("diskless", 1, begins_without_disk, NULL);
    kit.cases += 3;
}

static void begins_unasked(struct kit_rank *r)
{
    struct ckpt_open_opts o = kit_opts(r);
    KIT_FAILS(ckpt_open(&o, &r->c), CKPT_UNREACHABLE, "/proc/nowhere/store, which may have");
}

/* A tier that cannot be reached holds up nobody, and another one counts; but nobody begins a job
 * anew, unasked, that such a tier may know. */
static void one_is_gone(void)
{
    const char *args[] = { "--remote", "/proc/nowhere/store", "--remote", remote, NULL };
    setenv("CKPT_TIER_MS", "1200", 1); /* asked more than once, and given up */
    restart(args);
    kit_run("gone", 1, begins_unasked, NULL);
    unsetenv("CKPT_TIER_MS");
    setenv("CKPT_RESUME", "none", 1);
    run_steps("gone", 1, &(struct steps){ 1, 2, false, 0 });
    unsetenv("CKPT_RESUME");
    CHECK(kit_logged("another tier is left out"));
    run_steps("gone", 1, &(struct steps){ 3, 3, true, 0 });
    kit.cases++;
}

/* The tier comes when the launch has begun to ask for it. */
static void *comes(void *late)
{
    kit_pause(1500);
    CHECK_EQ(unlink(late), 0);
    CHECK_EQ(rename(remote, late), 0);
    return NULL;
}

static void begins_early(struct kit_rank *r)
{
    char late[sizeof(remote) + 8];
    (void)snprintf(late, sizeof(late), "%s.late", remote);
    pthread_t other;
    CHECK_EQ(pthread_create(&other, NULL, comes, late), 0);
    kit_open(r);
    kit_declare(r, parts, PARTS);
    CHECK_EQ(pthread_join(other, NULL), 0);
    CHECK_EQ(r->point.step, 2);
    kit_restore(r);
}

/* The home is new, and the tier that knows the job cannot be opened yet. */
static void one_is_late(void)
{
    char late[sizeof(remote) + 8], own[sizeof(kit.store)];
    const char *before[] = { "--remote", remote, NULL };
    const char *args[] = { "--remote", late, NULL };
    (void)snprintf(late, sizeof(late), "%s.late", remote);
    restart(before);
    run_steps("late", 1, &(struct steps){ 1, 2, false, 0 });
    await_held(remote, "late", 2);
    CHECK_EQ(kit_stop(), 0);
    CHECK_EQ(symlink("/proc/nowhere/store", late), 0);
    memcpy(own, kit.store, sizeof(own));
    (void)snprintf(kit.store, sizeof(kit.store), "%s/anew", kit.root);
    set_args(args);
    kit_start();
    kit_run("late", 1, begins_early, NULL);
    CHECK_EQ(kit_stop(), 0);
    CHECK_EQ(rename(late, remote), 0);
    memcpy(kit.store, own, sizeof(own));
    set_args(NULL);
    kit_start();
    kit.cases++;
}

/* -- slow and frozen ------------------------------------------------------------------ */

static char gate[96], hang[96], puts_log[96];

static void put_up(const char *barrier, bool up)
{
    if (!up) {
        CHECK_EQ(unlink(barrier), 0);
        return;
    }
    FILE *f = fopen(barrier, "we");
    CHECK(f);
    fclose(f);
}

static void freeze(bool frozen)
{
    put_up(gate, frozen);
}

/* Saves become local while the tier stands still, and remote when it is back. */
static void while_frozen(struct kit_rank *r)
{
    uint64_t ops[8];
    kit_open(r);
    kit_declare(r, parts, PARTS);
    KIT_OK(kit_save(r, 1, &ops[0]));
    KIT_OK(ckpt_wait(r->c, ops[0], CKPT_LEVEL_REMOTE, 20000));
    freeze(true);
    for (uint64_t i = 1; i < 8; i++) {
        KIT_OK(kit_save(r, 1 + i, &ops[i]));
        KIT_OK(ckpt_wait(r->c, ops[i], CKPT_LEVEL_LOCAL, 20000));
    }
    KIT_FAILS(ckpt_wait(r->c, ops[7], CKPT_LEVEL_REMOTE, 300), CKPT_TIMEOUT, "not yet remote");
    kit_kill(kit_worker(), SIGKILL); /* with packs on their way */
    KIT_OK(kit_save_local(r, 9));
    freeze(false);
    for (uint64_t i = 0; i < 8; i++)
        KIT_OK(ckpt_wait(r->c, ops[i], CKPT_LEVEL_REMOTE, 30000));
}

/* H1: a launch goes on without a tier that does not answer, and says so.  What a near place
 * has is listed from there. */
static void launches_frozen(struct kit_rank *r)
{
    struct ckpt_list *list;
    kit_open(r);
    KIT_OK(ckpt_list(r->c, NULL, NULL, &list));
    CHECK_EQ(ckpt_list_count(list), PARTS);
    ckpt_list_free(list);
    kit_declare(r, parts, PARTS);
    CHECK_EQ(r->point.step, 9);
    kit_restore(r);
    KIT_OK(kit_save_local(r, 10));
}

static void frozen(void)
{
    const char *args[] = { "--remote", remote, NULL };
    restart(args);
    kit_run("frozen", 1, while_frozen, NULL);
    await_held(remote, "frozen", 9);
    kit_look_into(remote);
    CHECK_EQ(kit_verify("frozen", 9), 9);
    kit_look_into(NULL);
    setenv("CKPT_TIER_MS", "300", 1);
    restart(args);
    freeze(true);
    kit_run("frozen", 1, launches_frozen, NULL);
    CHECK_EQ(kit_logged_times("other tiers do not answer"), 1); /* of three rounds */
    freeze(false);
    await_held(remote, "frozen", 10);
    unsetenv("CKPT_TIER_MS");
    restart(args);
}

#define PLACES 8 /* of a session's saves under way */

/* Each save begins, but those for which there is no place. */
static void while_home_hangs(struct kit_rank *r)
{
    uint64_t ops[12];
    uint32_t begun = 0;
    kit_open(r);
    kit_declare(r, parts, PARTS);
    KIT_OK(kit_save_local(r, 1));
    put_up(hang, true);
    for (uint64_t step = 2; step < 14; step++) {
        enum ckpt_status st = kit_save(r, step, &ops[begun]);
        if (st == CKPT_OK)
            begun++;
        else
            CHECK_EQ(st, CKPT_BUSY);
    }
    CHECK_EQ(begun, PLACES);
    put_up(hang, false);
    for (uint32_t i = 0; i < begun; i++)
        KIT_OK(ckpt_wait(r->c, ops[i], CKPT_LEVEL_LOCAL, 30000));
    KIT_OK(kit_save_local(r, 14));
}

static void resumes_from_afar(struct kit_rank *r)
{
    kit_open(r);
    kit_declare(r, parts, PARTS);
    CHECK_EQ(r->point.size ? r->point.step : 0, 2);
    kit_restore(r);
}

/* I3: a new home that hangs when the launch begins, for longer than tiers are waited for.  It is no
 * fault of the tier, which knows the job. */
static void home_is_slow(void)
{
    const char *args[] = { "--remote", remote, NULL };
    struct kit_crowd w;
    restart(args);
    run_steps("slow", 1, &(struct steps){ 1, 2, false, 0 });
    await_held(remote, "slow", 2);
    CHECK_EQ(kit_stop(), 0);
    remove_tree(kit.store);
    setenv("CKPT_TIER_MS", "4000", 1);
    kit_start();
    unsetenv("CKPT_TIER_MS");
    put_up(hang, true);
    kit_ranks(&w, "slow", 1, resumes_from_afar, NULL);
    kit_pause(7000);
    put_up(hang, false);
    kit_wait(&w, 0);
    CHECK(!kit_logged("the launch goes on without them\" job=slow"));
    kit.cases++;
}

/* Without a place of its own a node has nothing to save to. */
static void while_disk_hangs(struct kit_rank *r)
{
    kit_open(r);
    kit_declare(r, parts, PARTS);
    KIT_OK(kit_save_local(r, 1));
    put_up(hang, true);
    kit_reach(r->board, 0);
    KIT_OK(kit_save_local(r, 2));
}

static void disk_hangs(void)
{
    struct kit_crowd w;
    restart(NULL);
    kit_ranks(&w, "disk", 1, while_disk_hangs, NULL);
    kit_await(w.board, 0, 1);
    kit_pause(6000); /* a home that others have would not have been waited for */
    put_up(hang, false);
    kit_wait(&w, 0);
    CHECK(!kit_logged("a save begins unasked\" job=disk"));
    CHECK_EQ(kit_verify("disk", 2), 2);
}

static void home_hangs(void)
{
    const char *args[] = { "--local", local, NULL };
    restart(args);
    kit_run("hangs", 1, while_home_hangs, NULL);
    CHECK(kit_logged("the home does not answer: a save begins unasked"));
    for (uint64_t step = 1; step <= 1 + PLACES; step++)
        await_held(kit.store, "hangs", step);
    await_held(kit.store, "hangs", 14);
    CHECK_EQ(kit_verify("hangs", 14), PLACES + 2);
}

static const struct kit_part large[] = {
    { .name = "w", .dtype = CKPT_F32, .ndim = 2, .shape = { 120000, 100 }, .how = KIT_ROWS },
};

static void save_large(struct kit_rank *r)
{
    kit_open(r);
    kit_declare(r, large, 1);
    for (uint64_t step = 1; step <= *(const uint64_t *)r->arg; step++)
        KIT_OK(kit_save_local(r, step));
}

struct seen { /* packs that lay there whole at a kill */
    char name[128];
    ino_t ino;
};
static struct seen seen[256];
static size_t seen_count;

static uint64_t look_at_packs(const char *job, bool remember)
{
    char command[300], line[512];
    uint64_t bytes = 0;
    snprintf(command, sizeof(command), "find %s/%s/d -type f -printf '%%f %%i %%s\\n' 2>/dev/null",
             remote, job);
    FILE *f = popen(command, "re");
    CHECK(f);
    while (fgets(line, sizeof(line), f)) {
        struct seen s;
        unsigned long ino, size;
        CHECK_EQ(sscanf(line, "%127s %lu %lu", s.name, &ino, &size), 3);
        s.ino = ino;
        bytes += size;
        size_t i = 0;
        while (i < seen_count && strcmp(seen[i].name, s.name) != 0)
            i++;
        if (i < seen_count)
            CHECK_EQ(seen[i].ino, s.ino); /* not put again */
        else if (remember)
            seen[seen_count++] = s;
        CHECK(seen_count < ARRAY_COUNT(seen));
    }
    pclose(f);
    return bytes;
}

static uint64_t bytes_put(void)
{
    char line[64];
    uint64_t bytes = 0;
    FILE *f = fopen(puts_log, "re");
    while (f && fgets(line, sizeof(line), f))
        bytes += strtoull(line, NULL, 10);
    if (f)
        fclose(f);
    return bytes;
}

/* Both processes die three times with packs under way. */
static void killed(void)
{
    const char *args[] = { "--remote", remote,           "--remote-rate", "14M", "--remote-streams",
                           "2",        "--remote-codec", "copy",          NULL };
    restart(args);
    unlink(puts_log);
    const uint64_t steps = 1;
    kit_run("killed", 1, save_large, &steps);
    size_t before = 0;
    for (int i = 0; i < KILLS; i++) {
        pid_t worker = kit_worker();
        for (int t = 0; t < 1000 && seen_count <= before; t++) {
            kit_pause(5);
            look_at_packs("killed", true);
        }
        CHECK(seen_count > before);
        before = seen_count;
        kit_kill(kit.keeper, SIGKILL);
        kit_kill(worker, SIGKILL);
        CHECK_EQ(waitpid(kit.keeper, NULL, 0), kit.keeper);
        while (kill(worker, 0) == 0) /* reaped by init: it is no child of ours */
            kit_pause(2);
        look_at_packs("killed", true);
        CHECK(!is_held(remote, "killed", 1));
        kit_start();
    }
    await_held(remote, "killed", 1);
    uint64_t data = look_at_packs("killed", false), put = bytes_put();
    printf("%d objects of %llu bytes, %llu put, %d lay there at a kill\n", (int)seen_count,
           (unsigned long long)data, (unsigned long long)put, (int)before);
    CHECK(before >= KILLS);
    CHECK(put >= data);
    CHECK(put <= data + (uint64_t)KILLS * (STREAMS * (SLOT + 65536) + 65536));
    kit_look_into(remote);
    CHECK_EQ(kit_verify("killed", 1), 1);
    kit_look_into(NULL);
    kit.cases++;
}

static void set(const char *conf, const char *more)
{
    FILE *f = fopen(conf, "we");
    CHECK(f);
    fprintf(f, "remote = %s\nremote-rate = 8M\nremote-codec = copy\n%s", remote, more);
    CHECK_EQ(fclose(f), 0);
}

/* H4: the policy changes when a part lies there, and the worker dies. */
static void dies_half_way(struct kit_rank *r)
{
    uint64_t op;
    kit_open(r);
    kit_declare(r, large, 1);
    KIT_OK(kit_save(r, 1, &op));
    KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 60000));
    for (int i = 0; i < 2000 && look_at_packs("half", false) == 0; i++)
        kit_pause(10);
    int before = kit_logged_times("settings are in force");
    set(r->arg, "remote-policy = none\n");
    kit_kill(kit.keeper, SIGHUP);
    for (int i = 0; i < 1500 && kit_logged_times("settings are in force") == before; i++)
        kit_pause(20);
    CHECK(look_at_packs("half", false) > 0 && !is_held(remote, "half", 1));
    kit_kill(kit_worker(), SIGKILL);
    KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_REMOTE, 60000));
}

static void begun_is_finished(void)
{
    char conf[96], option[128];
    const char *args[] = { option, NULL };
    (void)snprintf(conf, sizeof(conf), "%s/ckptd.conf", kit.root);
    (void)snprintf(option, sizeof(option), "--config=%s", conf);
    set(conf, "");
    restart(args);
    kit_run("half", 1, dies_half_way, conf);
    kit_look_into(remote);
    CHECK_EQ(kit_verify("half", 1), 1);
    kit_look_into(NULL);
    kit.cases++;
}

/* The first one takes long to arrive; those behind it do not. */
static void large_then_small(struct kit_rank *r)
{
    kit_open(r);
    kit_declare(r, large, 1);
    KIT_OK(kit_save_local(r, 1));
    kit_forget(r);
    kit_declare(r, parts, PARTS);
    for (uint64_t step = 2; step <= 3; step++)
        KIT_OK(kit_save_local(r, step));
}

/* What is deleted while it is on its way does not arrive; what comes behind it does. */
static void deleted(void)
{
    const char *args[] = { "--remote", remote,           "--remote-rate", "8M", "--remote-streams",
                           "2",        "--remote-codec", "copy",          NULL };
    struct ckpt_name name;
    restart(args);
    kit_run("deleted", 1, large_then_small, NULL);
    CHECK(!is_held(remote, "deleted", 1));
    struct store *s;
    CHECK_OK(store_open(kit.store, NULL, &s, NULL));
    struct catalog_spec spec = { .job = "deleted", .has_step = true, .step = 1 };
    CHECK_OK(catalog_find(s, &spec, &name, NULL));
    CHECK_OK(life_delete(s, "deleted", &name, "a test", NULL));
    store_close(s);
    await_log("checkpoint is not sent on\" job=deleted epoch=1 step=1");
    await_held(remote, "deleted", 3);
    CHECK(!is_held(remote, "deleted", 1));
    kit.cases++;
}

int main(void)
{
    kit_begin("drain");
    snprintf(remote, sizeof(remote), "%s/remote", kit.root);
    snprintf(local, sizeof(local), "%s/local", kit.root);
    snprintf(gate, sizeof(gate), "%s/gate", kit.root);
    snprintf(hang, sizeof(hang), "%s/hang", kit.root);
    snprintf(puts_log, sizeof(puts_log), "%s/puts", kit.root);
    there_and_back();
    policies();
    words_are_kept();
    mends();
    home_elsewhere();
    one_is_gone();
    one_is_late();
    deleted();
    begun_is_finished();
    if (GATE_LIBRARY[0]) {
        setenv("CKPT_TEST_TIER", remote, 1);
        setenv("CKPT_TEST_GATE", gate, 1);
        setenv("CKPT_TEST_PUTS", puts_log, 1);
        setenv("CKPT_TEST_HOME", kit.store, 1);
        setenv("CKPT_TEST_HANG", hang, 1);
        kit.preload = GATE_LIBRARY;
        kit.io = "threads";
        frozen();
        killed();
        home_is_slow();
        home_hangs();
        disk_hangs();
    } else {
        puts("SKIP: frozen, killed and a home that hangs: this build cannot preload");
    }
    return kit_end();
}
