/* A policy of what to keep, set while ckptd runs: what it names stays and the rest goes, while
 * ranks save, a drain copies, and readers restore; then gc frees the space in both stores.
 * (It covers prune_jobs.c, control_prune.c and control_reload.c, too.) */
#include <sys/wait.h>

#include "e2e/kit.h"
#include "storage/repo/life.h"
#include "storage/repo/publish.h"
#include "storage/repo/roster.h"

#define STEPS_MAX 128
#define ROUNDS    (12 / (TEST_TENTH > 1 ? 4 : 1)) /* of a reader */
#define LAST      3
#define EVERY     10

static const struct kit_part parts[] = {
    { .name = "w", .dtype = CKPT_F32, .ndim = 2, .shape = { 4000, 100 }, .how = KIT_ROWS },
    { .name = "bias", .dtype = CKPT_F32, .ndim = 1, .shape = { 500 }, .how = KIT_SAME },
};
static char remote[96], conf[96];
static uint64_t newest; /* step that was saved last */

/* -- bodies ------------------------------------------------------------------------------- */

struct steps {
    uint64_t from, to;
};

static void save_steps(struct kit_rank *r)
{
    const struct steps *s = r->arg;
    kit_open(r);
    kit_declare(r, parts, ARRAY_COUNT(parts));
    if (s->from > 1) {
        CHECK_EQ(r->point.step, s->from - 1);
        kit_restore(r);
    }
    for (uint64_t step = s->from; step <= s->to; step++)
        KIT_OK(kit_save_local(r, step));
}

/* Every byte of what is the newest just now, again and again. */
static void restore_often(struct kit_rank *r)
{
    for (int i = 0; i < ROUNDS; i++) {
        struct ckpt_open_opts o = kit_opts(r);
        o.mode = CKPT_READ;
        kit_open_with(r, &o);
        kit_declare(r, parts, ARRAY_COUNT(parts));
        CHECK(r->point.size != 0);
        kit_restore(r);
        kit_forget(r);
        kit_close(r);
    }
}

static void run_steps(const char *job, uint64_t from, uint64_t to)
{
    kit_run(job, 2, save_steps, &(struct steps){ from, to });
    newest = to;
}

/* -- settings ----------------------------------------------------------------------------- */

static void write_conf(const char *text)
{
    FILE *f = fopen(conf, "we");
    CHECK(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

static size_t times_logged(const char *text)
{
    char line[4096];
    size_t n = 0;
    FILE *f = fopen(kit.log, "re");
    CHECK(f);
    while (fgets(line, sizeof(line), f))
        n += strstr(line, text) != NULL;
    fclose(f);
    return n;
}

/* What is seen in the store may not have been said yet. */
static void await_log(const char *text)
{
    for (int i = 0; i < 1500 && !kit_logged(text); i++)
        kit_pause(20);
    CHECK(kit_logged(text));
}

static void set(const char *text)
{
    size_t before = times_logged("settings are in force");
    write_conf(text);
    kit_kill(kit.keeper, SIGHUP);
    for (int i = 0; i < 1500 && times_logged("settings are in force") == before; i++)
        kit_pause(20);
    CHECK(times_logged("settings are in force") > before);
}

/* -- what is there -------------------------------------------------------------------------- */

static bool wanted(uint64_t step)
{
    return step % EVERY == 0 || step + LAST > newest;
}

/* Each step of the job: is it alive in the store, and has it data? */
static void look(const char *url, const char *job, bool alive[STEPS_MAX], bool data[STEPS_MAX])
{
    struct store *s;
    struct roster commits, datas;
    CHECK_OK(store_open(url, NULL, &s, NULL));
    CHECK_OK(roster_commits(s, job, &commits, NULL));
    CHECK_OK(roster_data(s, job, &datas, NULL));
    memset(alive, 0, STEPS_MAX);
    memset(data, 0, STEPS_MAX);
    for (size_t i = 0; i < commits.count; i++) {
        const struct roster_entry *e = &commits.entries[i];
        enum life life;
        uint64_t n;
        CHECK(e->name.step < STEPS_MAX);
        CHECK_OK(life_look(s, job, &e->name, false, &life, &n, NULL, NULL));
        alive[e->name.step] |= !roster_is_abort(e) && life == LIFE_LIVE;
    }
    for (size_t i = 0; i < datas.count; i++)
        data[datas.entries[i].name.step] = true;
    roster_fini(&commits);
    roster_fini(&datas);
    store_close(s);
}

static size_t held_in(const char *url, const char *job)
{
    struct store *s;
    struct roster held;
    CHECK_OK(store_open(url, NULL, &s, NULL));
    CHECK_OK(roster_helds(s, job, &held, NULL));
    size_t n = held.count;
    roster_fini(&held);
    store_close(s);
    return n;
}

static void await_held(const char *url, const char *job, uint64_t step)
{
    bool there = false;
    for (int i = 0; i < 1500 && !there; i++) {
        struct store *s;
        struct roster held;
        kit_pause(20);
        CHECK_OK(store_open(url, NULL, &s, NULL));
        CHECK_OK(roster_helds(s, job, &held, NULL));
        for (size_t k = 0; k < held.count; k++)
            there = there || held.entries[k].name.step == step;
        roster_fini(&held);
        store_close(s);
    }
    CHECK(there);
}

/* At any time: what must stay is there. */
static void all_wanted_are_there(const char *job)
{
    bool alive[STEPS_MAX], data[STEPS_MAX];
    look(kit.store, job, alive, data);
    for (uint64_t step = 1; step <= newest; step++)
        CHECK(!wanted(step) || (alive[step] && data[step]));
}

/* True when nothing else is alive; gone: nor has data, in either store. */
static bool nothing_else(const char *job, bool gone)
{
    bool alive[STEPS_MAX], data[STEPS_MAX];
    for (int i = 0; i < (gone ? 2 : 1); i++) {
        look(i ? remote : kit.store, job, alive, data);
        for (uint64_t step = 1; step <= newest; step++)
            if (!wanted(step) && (alive[step] || (gone && data[step])))
                return false;
    }
    return true;
}

/* A pass may find the one or other on its way to the remote store, and leave it to the next; and
 * beside other work it takes its time. */
static void settle(const char *job, bool gone)
{
    bool done = nothing_else(job, gone);
    for (int more = 0; more < 20 && !done; more++) {
        run_steps(job, newest + 1, newest + 1);
        for (int i = 0; i < 50 + 50 * more && !done; i++) {
            kit_pause(20);
            done = nothing_else(job, gone);
        }
    }
    CHECK(done);
    all_wanted_are_there(job);
}

/* -- scenarios -------------------------------------------------------------------------------- */

static void kept_while_all_goes_on(void)
{
    struct kit_crowd saving, reading[2];
    char text[256];
    /* Nothing is said: all stay. */
    run_steps("keep", 1, 12);
    CHECK_EQ(kit_verify("keep", 12), 12);
    CHECK(!kit_logged("checkpoint deleted"));
    /* Now it is; the one section that fits counts. */
    snprintf(text, sizeof(text),
             "remote = %s\nkeep = last=2\n[job ke*p]\nkeep = last=%d,every=%d\n", remote, LAST,
             EVERY);
    set(text);
    kit_ranks(&saving, "keep", 2, save_steps, &(struct steps){ 13, 45 });
    for (int i = 0; i < 2; i++)
        kit_ranks(&reading[i], "keep", 1, restore_often, NULL);
    kit_wait(&saving, 0);
    newest = 45;
    for (int i = 0; i < 2; i++)
        kit_wait(&reading[i], 0);
    all_wanted_are_there("keep");
    settle("keep", false);
    await_log("checkpoint deleted\" job=keep epoch=1 step=1 why=\"no rule keeps it\" "
              "keep=\"last=3,every=10\" grace_s=259200");
    CHECK(!kit_logged("checkpoints collected"));
    kit.cases += 45;
}

/* With no grace the space comes back, in both stores; the worker dies in the midst. */
static void freed(void)
{
    char text[256];
    snprintf(text, sizeof(text),
             "remote = %s\ndelete-grace = 0s\n[job k*]\nkeep = last=%d,every=%d\n", remote, LAST,
             EVERY);
    set(text);
    run_steps("keep", newest + 1, newest + 1);
    kit_kill(kit_worker(), SIGKILL);
    settle("keep", true);
    kit_verify("keep", newest);
    await_held(remote, "keep", newest);
    kit_look_into(remote);
    kit_verify("keep", newest);
    kit_look_into(NULL);
    kit.cases += (long)newest;
}

/* At a byte a second nothing but the first pack gets there; another rate helps at once. */
static void faster(void)
{
    char text[256];
    snprintf(text, sizeof(text), "remote = %s\nremote-rate = 1\n", remote);
    set(text);
    run_steps("slow", 1, 3);
    kit_pause(700); /* time enough without the limit */
    CHECK(held_in(remote, "slow") < 3);
    snprintf(text, sizeof(text), "remote = %s\nremote-rate = 1G\n", remote);
    set(text);
    for (uint64_t step = 1; step <= 3; step++)
        await_held(remote, "slow", step);
    kit.cases += 3;
}

/* The tier does not answer: nothing is decided, training goes on, and it is said once. */
static void unknown(void)
{
    const char *args[] = { "--remote=/proc/nowhere/store", "--keep=last=2", "--delete-grace=0s" };
    CHECK_EQ(kit_stop(), 0);
    memset(kit.more, 0, sizeof(kit.more));
    memcpy(kit.more, args, sizeof(args));
    kit_start();
    setenv("CKPT_RESUME", "none", 1); /* or it would not begin: the tier may know the job */
    run_steps("blind", 1, 8);
    unsetenv("CKPT_RESUME");
    CHECK_EQ(kit_verify("blind", 8), 8);
    await_log("a job cannot be pruned");
    CHECK_EQ(times_logged("a job cannot be pruned"), 1);
    kit.cases += 8;
}

/* Whatever the policy says, two stay. */
static void at_least_two(void)
{
    const char *args[] = { "--keep=last=1", "--delete-grace=0s" };
    CHECK_EQ(kit_stop(), 0);
    memset(kit.more, 0, sizeof(kit.more));
    memcpy(kit.more, args, sizeof(args));
    kit_start();
    run_steps("two", 1, 9);
    bool alive[STEPS_MAX], data[STEPS_MAX], done = false;
    for (int i = 0; i < 1500 && !done; i++) {
        kit_pause(20);
        look(kit.store, "two", alive, data);
        done = true;
        for (uint64_t step = 1; step < 8; step++)
            done = done && !data[step] && !alive[step];
    }
    CHECK(done && data[8] && data[9] && alive[8] && alive[9]);
    CHECK_EQ(kit_verify("two", 9), 2);
    kit.cases += 9;
}

/* What a save of the first launch left in the node's directory that failed; it is step 99. */
static void leave_failed(const char *home, const char *local, const char *job)
{
    const struct ckpt_name name = { .epoch = 1, .step = 99, .attempt = 99 };
    const struct record_abort why = { .status = CKPT_ABORTED };
    const struct digest id = { { 1 } };
    const struct iovec iov = { .iov_base = (char[]){ "data" }, .iov_len = 4 };
    struct store *s;
    CHECK_OK(store_open(home, NULL, &s, NULL));
    CHECK_OK(publish_abort(s, job, &name, &why, NULL));
    store_close(s);
    CHECK_OK(store_open(local, NULL, &s, NULL));
    CHECK_OK(store_put(s, key_pack(job, &name, 0, 0, &id).text, &iov, 1, 0, NULL));
    store_close(s);
}

/* The node's own directory keeps the newest, the home all; readers go on meanwhile.  What failed
 * there is freed by itself, though nothing says what the home is to keep. */
static void own_directory(void)
{
    char local[104], home[104], own[sizeof(kit.store)];
    struct kit_crowd saving, reading;
    bool alive[STEPS_MAX], data[STEPS_MAX];
    snprintf(local, sizeof(local), "%.80s/local", kit.root);
    snprintf(home, sizeof(home), "%.80s/home", kit.root);
    const char *args[] = { "--local", local, "--keep-local=last=2", "--delete-grace=0s" };
    CHECK_EQ(kit_stop(), 0);
    memset(kit.more, 0, sizeof(kit.more));
    memcpy(kit.more, args, sizeof(args));
    memcpy(own, kit.store, sizeof(own));
    (void)snprintf(kit.store, sizeof(kit.store), "dir://%.70s?shared=1", home);
    kit_start();
    run_steps("apart", 1, 3);
    leave_failed(kit.store, local, "apart");
    kit_ranks(&saving, "apart", 2, save_steps, &(struct steps){ 4, 24 });
    kit_ranks(&reading, "apart", 1, restore_often, NULL);
    kit_wait(&saving, 0);
    kit_wait(&reading, 0);
    newest = 24;
    run_steps("apart", 25, 25);
    for (int i = 0; i < 1500; i++) {
        bool more = false;
        look(local, "apart", alive, data);
        for (uint64_t step = 1; step < 24; step++)
            more |= data[step];
        more |= data[99];
        if (!more && held_in(home, "apart") == 25)
            break;
        kit_pause(20);
    }
    for (uint64_t step = 1; step <= 25; step++) /* 24: it was resumed from */
        CHECK(data[step] == (step >= 24));
    CHECK(!data[99]);
    await_log("copy dropped\" job=apart epoch=1 step=1 ");
    CHECK_EQ(kit_verify("apart", 25), 25);
    run_steps("apart", 26, 26);
    CHECK_EQ(kit_stop(), 0);
    memcpy(kit.store, own, sizeof(own));
    memset(kit.more, 0, sizeof(kit.more));
    kit_start();
    kit.cases += 26;
}

/* Which steps have data there, of those up to the newest. */
static bool there_are(const char *url, const char *job, bool (*is)(uint64_t step))
{
    bool alive[STEPS_MAX], data[STEPS_MAX];
    look(url, job, alive, data);
    for (uint64_t step = 1; step <= newest; step++)
        if (data[step] != is(step) || alive[step] != is(step))
            return false;
    return true;
}

static bool every_one(uint64_t step)
{
    return step > 0;
}

enum { GO_ON = 2, END };

static void stay(const struct kit_rank *r, int stage)
{
    while (!atomic_load(&r->board->stage[stage]))
        kit_pause(10);
}

/* Trains until it is told to end: what comes to a remote store meanwhile is looked at there. */
static void save_and_stay(struct kit_rank *r)
{
    const struct steps *s = r->arg;
    save_steps(r);
    stay(r, GO_ON);
    for (uint64_t step = s->to + 1; step <= 2 * s->to && s->from == 1; step++)
        KIT_OK(kit_save_local(r, step));
    stay(r, END);
}

/* Both as they should be, and all in the home; then the ranks end. */
static void end_settled(struct kit_crowd *ranks, const char *job, const char *const urls[2])
{
    bool done = false;
    for (int i = 0; i < 6000 && !done; i++) {
        kit_pause(20);
        done = there_are(urls[0], job, wanted) && there_are(urls[1], job, wanted);
    }
    CHECK(done && there_are(kit.store, job, every_one));
    kit_reach(ranks->board, END);
    kit_wait(ranks, 0);
}

static void check_whole(const char *job, const char *const urls[2])
{
    size_t stay = 0;
    for (uint64_t step = 1; step <= newest; step++)
        stay += wanted(step);
    for (int i = 0; i < 2; i++) { /* all that it lists is whole */
        kit_look_into(urls[i]);
        CHECK_EQ(kit_verify(job, newest), stay);
    }
    kit_look_into(NULL);
    CHECK_EQ(kit_verify(job, newest), newest);
}

/* The home keeps all, two remote stores the newest and some; readers go on meanwhile, the worker
 * dies, and what was dropped is not sent again, neither by it nor by the next daemon. */
static void remotes(void)
{
    char one[120], two[120];
    struct kit_crowd saving, reading;
    (void)snprintf(one, sizeof(one), "--remote=dir://%.70s/one", kit.root);
    (void)snprintf(two, sizeof(two), "--remote=dir://%.70s/two", kit.root);
    const char *args[] = { one, two, "--keep-remote=last=3,every=10" };
    const char *const urls[] = { one + strlen("--remote="), two + strlen("--remote=") };
    CHECK_EQ(kit_stop(), 0);
    memset(kit.more, 0, sizeof(kit.more));
    memcpy(kit.more, args, sizeof(args));
    kit_start();
    newest = 24;
    kit_ranks(&saving, "far", 2, save_and_stay, &(struct steps){ 1, newest / 2 });
    await_log("save committed\" job=far");
    kit_ranks(&reading, "far", 1, restore_often, NULL);
    await_log("copy dropped\" job=far epoch=1 step=1 why=\"no rule keeps it\" "
              "keep=\"last=3,every=10\" tier=\"dir://");
    kit_kill(kit_worker(), SIGKILL);
    kit_reach(saving.board, GO_ON);
    end_settled(&saving, "far", urls);
    kit_wait(&reading, 0);
    CHECK_EQ(kit_stop(), 0);
    check_whole("far", urls);
    size_t dropped = times_logged("copy dropped\" job=far"),
           sent = times_logged("is in a remote tier\" job=far"),
           given_up = times_logged("is not sent on\" job=far");
    kit_start();
    newest = 25;
    kit_ranks(&saving, "far", 2, save_and_stay, &(struct steps){ newest, newest });
    kit_reach(saving.board, GO_ON);
    end_settled(&saving, "far", urls);
    for (int i = 0; i < 1500 && times_logged("copy dropped\" job=far") < dropped + 2; i++)
        kit_pause(20);
    CHECK_EQ(kit_stop(), 0);
    check_whole("far", urls);
    CHECK_EQ(times_logged("copy dropped\" job=far"), dropped + 2); /* 22 */
    CHECK_EQ(times_logged("is in a remote tier\" job=far"), sent + 2);
    CHECK_EQ(times_logged("is not sent on\" job=far"), given_up);
    kit_start();
    kit.cases += (long)newest;
}

/* Which steps are complete there, of those up to the newest. */
static bool helds_are(const char *url, const char *job, bool (*is)(uint64_t step))
{
    CLEANUP_ROSTER struct roster held = { 0 };
    bool there[STEPS_MAX] = { false };
    struct store *s;
    CHECK_OK(store_open(url, NULL, &s, NULL));
    CHECK_OK(roster_helds(s, job, &held, NULL));
    store_close(s);
    for (size_t i = 0; i < held.count; i++)
        there[held.entries[i].name.step] = true;
    for (uint64_t step = 1; step <= newest; step++)
        if (there[step] != is(step))
            return false;
    return true;
}

static void await_helds(const char *url, const char *job, bool (*is)(uint64_t step))
{
    bool done = false;
    for (int i = 0; i < 6000 && !done; i++) {
        kit_pause(20);
        done = helds_are(url, job, is);
    }
    CHECK(done);
}

/* The home keeps some, the node's own directory fewer, the remote store all; readers go on
 * meanwhile and the worker dies.  Nothing is sent to the home again, and a launch goes on from what
 * is in the remote store alone. */
static void home_keeps_few(void)
{
    char local[104], far[120], url[sizeof(kit.store)], sent[128];
    struct kit_crowd saving, reading;
    (void)snprintf(local, sizeof(local), "--local=%.80s/few-local", kit.root);
    (void)snprintf(far, sizeof(far), "--remote=dir://%.70s/few-far", kit.root);
    (void)snprintf(url, sizeof(url), "dir://%.70s/few?shared=1", kit.root);
    const char *args[] = { local, far, "--keep-local=last=2", "--keep-store=last=3,every=10" };
    const char *remote_url = far + strlen("--remote=");
    CHECK_EQ(kit_stop(), 0);
    memset(kit.more, 0, sizeof(kit.more));
    memcpy(kit.more, args, sizeof(args));
    memcpy(kit.store, url, sizeof(url));
    kit_start();
    newest = 24;
    kit_ranks(&saving, "few", 2, save_and_stay, &(struct steps){ 1, newest / 2 });
    await_log("save committed\" job=few");
    kit_ranks(&reading, "few", 1, restore_often, NULL);
    (void)snprintf(sent, sizeof(sent), "keep=\"last=3,every=10\" tier=\"%.90s", url);
    await_log(sent);
    kit_kill(kit_worker(), SIGKILL);
    kit_reach(saving.board, GO_ON);
    await_helds(remote_url, "few", every_one);
    await_helds(url, "few", wanted);
    kit_wait(&reading, 0);
    kit_reach(saving.board, END);
    kit_wait(&saving, 0);
    kit_look_into(remote_url);
    CHECK_EQ(kit_verify("few", newest), newest);
    kit_look_into(NULL);
    (void)snprintf(sent, sizeof(sent), "job=few epoch=1 step=5 tier=\"%.90s", url);
    size_t times = times_logged(sent);
    CHECK_EQ(kit_stop(), 0);
    kit_start();
    setenv("CKPT_RESUME", "5", 1);
    run_steps("few", 6, 8);
    unsetenv("CKPT_RESUME");
    CHECK_EQ(times_logged(sent), times);
    kit.cases += 24;
}

int main(void)
{
    char option[128];
    kit_begin("e2e-keep");
    snprintf(remote, sizeof(remote), "%.80s/remote", kit.root);
    snprintf(conf, sizeof(conf), "%.80s/ckptd.conf", kit.root);
    snprintf(option, sizeof(option), "--config=%s", conf);
    CHECK_EQ(kit_stop(), 0);
    char text[256];
    snprintf(text, sizeof(text), "remote = %s\n", remote);
    write_conf(text);
    kit.more[0] = option;
    kit_start();
    kept_while_all_goes_on();
    freed();
    faster();
    unknown();
    at_least_two();
    own_directory();
    remotes();
    home_keeps_few();
    return kit_end();
}
