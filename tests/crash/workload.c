/* The recorded workloads.  See workload.h. */
#include "crash/workload.h"

#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

#include "crash/record_io.h"
#include "storage/repo/launch.h"
#include "storage/repo/life.h"
#include "storage/repo/life_copy.h"
#include "storage/repo/scrub.h"
#include "store/scratch.h"

#define LONG_NS INT64_C(3600000000000)

/* Commits of the workload (the first half is of epoch 1). */
enum {
    FIRST,
    SECOND,
    LONE, /* of one rank */
    THIRD,
    HALF,      /* one rank's part is missing */
    BROKEN,    /* one rank's part failed */
    GIVEN_UP,  /* aborted although all parts are there */
    UNDECIDED, /* all parts are there; the next launch commits it */
    ZOMBIE,    /* the same, but the next launch has resolved: gc gives it up */
    NEXT = ORACLE_COMMITS / 2,
    LAST,
    KEPT, /* the newest two stay in each store */
    KEPT_TOO,
};

static struct store *s;
static struct kit_layout layout, lone;
static bool deleting; /* the killed process had begun to delete FIRST */

static void life(int commit, enum oracle_life now)
{
    oracle_mark(MARK_LIFE, commit, (int)now);
}

/* ---- steps: each returns what a killed process sees ---- */

static enum ckpt_status open_store(const char *base)
{
    char root[300];
    struct record_repo repo;
    snprintf(root, sizeof(root), "%s/disk/store", base);
    recording.phase = "open";
    recording.asked[0] = 0;
    enum ckpt_status st = store_open(root, &(struct store_options){ .create = true }, &s, NULL);
    if (st != CKPT_OK)
        return st;
    s = record_sites(s);
    return repo_open(s, true, &repo, NULL);
}

static enum ckpt_status claim(int token, uint64_t *ret_epoch)
{
    struct launch_who who = {
        .job = KIT_JOB, .token = oracle_tokens[token], .world = 2, .nonce = { 1 }
    };
    recording.phase = "claim";
    enum ckpt_status st = launch_claim(s, &who, ret_epoch, NULL);
    if (st == CKPT_OK) {
        oracle_mark(MARK_REPO, 0, 0); /* the claim's directories are synced up to the root */
        oracle_mark(MARK_CLAIM, (int)*ret_epoch, token);
    }
    return st;
}

static enum ckpt_status resolve(uint64_t epoch)
{
    struct lineage_wish wish = { 0 };
    struct record_resolved r = { 0 };
    recording.phase = "resolve";
    enum ckpt_status st = launch_resolve(s, KIT_JOB, epoch, &wish, &r, NULL);
    if (st == CKPT_OK)
        record_resolved_fini(&r);
    return st;
}

static enum ckpt_status launch(int token, uint64_t *ret_epoch)
{
    enum ckpt_status st = claim(token, ret_epoch);
    return st == CKPT_OK ? resolve(*ret_epoch) : st;
}

static enum ckpt_status save_part(int commit, uint32_t rank)
{
    struct kit_save how = { .name = oracle_name(commit) };
    recording.phase = "save";
    return kit_save_part(s, commit == LONE ? &lone : &layout, rank, &how, NULL);
}

static enum ckpt_status save(int commit)
{
    struct ckpt_name name = oracle_name(commit);
    struct record_commit record;
    enum ckpt_status st = CKPT_OK;
    uint32_t world = commit == LONE ? 1 : layout.world;
    for (uint32_t rank = 0; rank < world && st == CKPT_OK; rank++)
        st = save_part(commit, rank);
    recording.phase = "publish";
    if (st == CKPT_OK)
        st = publish(s, KIT_JOB, &name, world, &record, NULL);
    if (st == CKPT_OK)
        life(commit, ORACLE_LIVE);
    return st;
}

/* ---- the whole workload ---- */

static void set_deleted(int commit, bool deleted)
{
    struct ckpt_name name = oracle_name(commit);
    recording.phase = deleted ? "delete" : "undelete";
    life(commit, ORACLE_MAY);
    CHECK_OK(deleted ? life_delete(s, KIT_JOB, &name, "test", NULL)
                     : life_undelete(s, KIT_JOB, &name, "test", NULL));
    life(commit, deleted ? ORACLE_DELETED : ORACLE_LIVE);
}

static struct life_gc_report gc(int64_t abort_keep_ns)
{
    struct life_gc_options o = { .abort_keep_ns = abort_keep_ns, .undecided = true };
    struct life_gc_report report = { 0 };
    recording.phase = abort_keep_ns ? "gc" : "gc that forgets";
    CHECK_OK(life_gc(s, KIT_JOB, &o, &report, NULL));
    return report;
}

static void fail_attempt(void)
{
    struct ckpt_name name = oracle_name(BROKEN);
    struct kit_save how = { .name = name };
    struct manifest_header h;
    struct record_commit record;
    kit_header(&h, &layout, 1, &how);
    h.flags |= MANIFEST_FLAG_FAILED;
    h.fail_status = CKPT_FULL;
    CHECK_OK(save_part(BROKEN, 0));
    recording.phase = "failed part";
    CHECK_OK(save_failed(s, &h, NULL));
    life(BROKEN, ORACLE_FAILED);
    CHECK_EQ(publish(s, KIT_JOB, &name, 2, &record, NULL), CKPT_ABORTED);
    life(BROKEN, ORACLE_ABORTED);
}

static void save_all_parts(int commit)
{
    CHECK_OK(save_part(commit, 0));
    CHECK_OK(save_part(commit, 1));
}

static void give_up_attempt(void)
{
    struct ckpt_name name = oracle_name(GIVEN_UP);
    const struct record_abort why = { .status = CKPT_TIMEOUT, .rank = 1, .by_epoch = 1 };
    life(GIVEN_UP, ORACLE_MAY);
    save_all_parts(GIVEN_UP);
    recording.phase = "abort";
    CHECK_OK(publish_abort(s, KIT_JOB, &name, &why, NULL));
    life(GIVEN_UP, ORACLE_ABORTED);
}

static void first_launch(void)
{
    uint64_t epoch;
    CHECK_OK(launch(0, &epoch));
    CHECK_EQ(epoch, 1);
    for (int i = FIRST; i <= THIRD; i++)
        CHECK_OK(save(i));
    const struct record_step progress = { .epoch = 1, .step = 12 };
    recording.phase = "progress";
    CHECK_OK(launch_put_step(s, KIT_JOB, RECORD_PROGRESS, &progress, NULL));
    oracle_mark(MARK_PROGRESS, 12, 0);
    set_deleted(FIRST, true);
    set_deleted(FIRST, false);
    for (int i = FIRST; i <= LONE; i++)
        set_deleted(i, true);
    for (int i = FIRST; i <= LONE; i++)
        life(i, ORACLE_GOING);
    CHECK_EQ(gc(LONG_NS).collected, 3);
    for (int i = FIRST; i <= LONE; i++)
        life(i, ORACLE_NEVER);
    gc(0);
    life(HALF, ORACLE_NEVER);
    CHECK_OK(save_part(HALF, 0));
    life(BROKEN, ORACLE_NEVER);
    fail_attempt();
    give_up_attempt();
    save_all_parts(UNDECIDED);
    life(UNDECIDED, ORACLE_PARTS);
}

static void second_launch(void)
{
    uint64_t epoch;
    CHECK_OK(launch(1, &epoch));
    CHECK_EQ(epoch, 2);
    life(UNDECIDED, ORACLE_LIVE);
    save_all_parts(ZOMBIE);
    CHECK_OK(save(NEXT));
    CHECK_EQ(gc(LONG_NS).aborted, 2);
    life(ZOMBIE, ORACLE_ABORTED);
    life(HALF, ORACLE_ABORTED);
    for (int i = HALF; i <= ZOMBIE; i++)
        if (i != UNDECIDED)
            life(i, ORACLE_NEVER);
    gc(0);
}

/* ---- damage and repair ---- */

struct damaging {
    struct store *good;
    unsigned which, count; /* only object number `which` of the checkpoint, or all */
};
#define ALL  UINT_MAX
#define NONE (UINT_MAX - 1)

static void put(struct store *to, const char *key, const uint8_t *bytes, size_t len)
{
    struct iovec iov = { .iov_len = len };
    memcpy(&iov.iov_base, &bytes, sizeof(bytes));
    CHECK_OK(store_put(to, key, &iov, 1, 0, NULL));
}

static enum ckpt_status copy_and_damage(void *arg, const struct store_entry *e)
{
    struct damaging *d = arg;
    char name[NAME_TEXT];
    struct ckpt_name next = oracle_name(NEXT);
    CLEANUP_FREE uint8_t *bytes = NULL;
    size_t len;
    CHECK_OK(store_get_all(s, e->key, SIZE_MAX / 2, (void **)&bytes, &len, NULL));
    put(d->good, e->key, bytes, len);
    name_to_text(&next, name);
    if (!strstr(e->key, name))
        return CKPT_OK;
    if (d->count++ != d->which && d->which != ALL)
        return CKPT_OK;
    bytes[len / 2] ^= 1;
    put(s, e->key, bytes, len);
    return CKPT_OK;
}

/* Objects of one checkpoint are damaged on the disk, then mended from another store.
 * Returns how many objects it has. */
static unsigned repair(struct store *good, unsigned which)
{
    struct ckpt_name name = oracle_name(NEXT);
    struct scrub_report report;
    struct damaging d = { .good = good, .which = which };
    oracle_mark(MARK_DAMAGED, NEXT, 0);
    recording.phase = PHASE_DAMAGE;
    CHECK_OK(repo_list(s, KIT_JOB "/", false, copy_and_damage, &d, NULL));
    CHECK_OK(store_sync(s, "", NULL));
    recording.phase = "repair";
    CHECK_OK(scrub_repair(s, good, KIT_JOB, &name, NULL, &report, NULL));
    CHECK_EQ(report.repaired, which == ALL ? d.count : 1);
    oracle_mark(MARK_MENDED, 0, 0);
    return d.count;
}

static void repair_each(struct store *good)
{
    unsigned count = repair(good, ALL);
    CHECK(count >= 9);
    for (unsigned i = 0; i < count; i++)
        CHECK_EQ(repair(good, i), count);
}

/* ---- dropping ---- */

/* The home gives up its own copies of what the good store has. */
static void drop(struct store *good)
{
    static const int dropped[] = { THIRD, NEXT, LAST };
    struct damaging all = { .good = good, .which = NONE };
    CHECK_OK(repo_list(s, KIT_JOB "/", false, copy_and_damage, &all, NULL));
    for (size_t i = 0; i < ARRAY_COUNT(dropped); i++)
        life(dropped[i], ORACLE_DROPPING);
    recording.phase = "drop";
    CHECK_EQ(oracle_drop(s, good), ARRAY_COUNT(dropped));
    for (size_t i = 0; i < ARRAY_COUNT(dropped); i++)
        life(dropped[i], ORACLE_DROPPED);
}

static void begin(const char *base)
{
    char disk[256];
    snprintf(disk, sizeof(disk), "%s/disk", base);
    CHECK_EQ(mkdir(disk, 0777), 0);
    recording_start(disk);
    file_io_set_maker(record_maker);
    oracle_layout(&layout, 2);
    oracle_layout(&lone, 1);
}

static void end(void)
{
    store_close(s);
    s = NULL;
    file_io_set_maker(NULL);
    kit_layout_fini(&layout);
    kit_layout_fini(&lone);
}

struct store *workload_record(const char *base)
{
    struct store *good = kit_store("mem://crash-good");
    begin(base);
    CHECK_OK(open_store(base));
    oracle_mark(MARK_REPO, 0, 0);
    first_launch();
    second_launch();
    repair_each(good);
    store_close(s);
    CHECK_OK(open_store(base));
    CHECK_OK(save(LAST));
    CHECK_OK(save(KEPT));
    CHECK_OK(save(KEPT_TOO));
    drop(good);
    end();
    return good;
}

/* ---- two processes ---- */

static enum ckpt_status first_process(const char *base)
{
    uint64_t epoch;
    enum ckpt_status st = open_store(base);
    if (st == CKPT_OK)
        st = launch(0, &epoch);
    if (st == CKPT_OK)
        st = save(FIRST);
    if (st == CKPT_OK)
        st = save(SECOND);
    if (st != CKPT_OK)
        return st;
    struct ckpt_name name = oracle_name(FIRST);
    struct life_gc_report report;
    struct life_gc_options o = { .abort_keep_ns = LONG_NS };
    life(FIRST, ORACLE_MAY);
    deleting = true;
    recording.phase = "delete";
    st = life_delete(s, KIT_JOB, &name, "test", NULL);
    if (st == CKPT_OK)
        life(FIRST, ORACLE_GOING);
    recording.phase = "gc";
    return st == CKPT_OK ? life_gc(s, KIT_JOB, &o, &report, NULL) : st;
}

/* The first process may have died before its own claim. */
static enum ckpt_status claim_second(uint64_t *ret_epoch)
{
    enum ckpt_status st = claim(1, ret_epoch);
    return st == CKPT_OK && *ret_epoch == 1 ? claim(2, ret_epoch) : st;
}

/* What the first process began to publish, published again, is acknowledged. */
static void publish_again(void)
{
    struct ckpt_name name = oracle_name(FIRST);
    struct record_commit record;
    recording.phase = "publish again";
    if (!deleting && publish(s, KIT_JOB, &name, 2, &record, NULL) == CKPT_OK)
        life(FIRST, ORACLE_LIVE);
}

bool workload_record_killed(const char *base, size_t kill_at, size_t *ret_second)
{
    begin(base);
    recording.kill_at = kill_at;
    deleting = false;
    bool killed = first_process(base) != CKPT_OK;
    store_close(s);
    s = NULL;
    recording.kill_at = SIZE_MAX;
    *ret_second = recording.log.count;
    uint64_t epoch = 0;
    CHECK_OK(open_store(base));
    CHECK_OK(claim_second(&epoch));
    publish_again();
    CHECK_OK(resolve(epoch));
    gc(LONG_NS);
    oracle_mark(MARK_REPO, 0, 0); /* a cut here */
    CHECK_OK(save(NEXT));
    end();
    return killed;
}

void workload_forget(const char *base)
{
    char disk[256];
    snprintf(disk, sizeof(disk), "%s/disk", base);
    scratch_remove(disk);
    recording_fini();
}
