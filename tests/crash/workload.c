/* The recorded workloads.  See workload.h. */
#include "crash/workload.h"

#include <stdio.h>
#include <sys/stat.h>

#include "crash/record_io.h"
#include "storage/repo/launch.h"
#include "storage/repo/life.h"
#include "storage/repo/scrub.h"
#include "store/scratch.h"

#define LONG_NS INT64_C(3600000000000)

/* Commits of the workload (the first half is of epoch 1). */
enum {
    FIRST,
    SECOND,
    THIRD,
    HALF,      /* one rank's part is missing */
    BROKEN,    /* one rank's part failed */
    GIVEN_UP,  /* aborted although all parts are there */
    UNDECIDED, /* all parts are there; the next launch commits it */
    NEXT = ORACLE_COMMITS / 2,
    LAST,
};

static struct store *s;
static struct kit_layout layout;
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
    enum ckpt_status st = store_open(root, &(struct store_options){ .create = true }, &s, NULL);
    if (st == CKPT_OK)
        st = repo_open(s, true, &repo, NULL);
    return st;
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
    return kit_save_part(s, &layout, rank, &how, NULL);
}

static enum ckpt_status save(int commit)
{
    struct ckpt_name name = oracle_name(commit);
    struct record_commit record;
    enum ckpt_status st = CKPT_OK;
    for (uint32_t rank = 0; rank < layout.world && st == CKPT_OK; rank++)
        st = save_part(commit, rank);
    recording.phase = "publish";
    if (st == CKPT_OK)
        st = publish(s, KIT_JOB, &name, layout.world, &record, NULL);
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
    CHECK_EQ(publish(s, KIT_JOB, &name, 2, &record, NULL), CKPT_ABORTED);
}

static void give_up_attempt(void)
{
    struct ckpt_name name = oracle_name(GIVEN_UP);
    const struct record_abort why = { .status = CKPT_TIMEOUT, .rank = 1, .by_epoch = 1 };
    life(GIVEN_UP, ORACLE_MAY);
    for (uint32_t rank = 0; rank < 2; rank++)
        CHECK_OK(save_part(GIVEN_UP, rank));
    recording.phase = "abort";
    CHECK_OK(publish_abort(s, KIT_JOB, &name, &why, NULL));
    life(GIVEN_UP, ORACLE_NEVER);
}

static void first_launch(void)
{
    uint64_t epoch;
    CHECK_OK(launch(0, &epoch));
    CHECK_EQ(epoch, 1);
    for (int i = FIRST; i <= THIRD; i++)
        CHECK_OK(save(i));
    const struct record_step progress = { .epoch = 1, .step = 12 };
    CHECK_OK(launch_put_step(s, KIT_JOB, RECORD_PROGRESS, &progress, NULL));
    set_deleted(FIRST, true);
    set_deleted(FIRST, false);
    set_deleted(FIRST, true);
    set_deleted(SECOND, true);
    CHECK_EQ(gc(LONG_NS).collected, 2);
    life(FIRST, ORACLE_NEVER);
    life(SECOND, ORACLE_NEVER);
    gc(0);
    life(HALF, ORACLE_NEVER);
    CHECK_OK(save_part(HALF, 0));
    life(BROKEN, ORACLE_NEVER);
    fail_attempt();
    give_up_attempt();
    CHECK_OK(save_part(UNDECIDED, 0));
    CHECK_OK(save_part(UNDECIDED, 1));
}

static void second_launch(void)
{
    uint64_t epoch;
    CHECK_OK(launch(1, &epoch));
    CHECK_EQ(epoch, 2);
    life(UNDECIDED, ORACLE_LIVE);
    CHECK_OK(save(NEXT));
    CHECK_EQ(gc(LONG_NS).aborted, 1);
    gc(0);
}

/* ---- damage and repair ---- */

struct damaging {
    struct store *good;
    unsigned count;
};

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
    bytes[len / 2] ^= 1;
    put(s, e->key, bytes, len);
    d->count++;
    return CKPT_OK;
}

/* Every object of one checkpoint is damaged, then mended from another store. */
static void repair(struct store *good)
{
    struct ckpt_name name = oracle_name(NEXT);
    struct scrub_report report;
    struct damaging d = { .good = good };
    oracle_mark(MARK_DAMAGED, NEXT, 0);
    recording.phase = "damage";
    CHECK_OK(repo_list(s, KIT_JOB "/", false, copy_and_damage, &d, NULL));
    recording.phase = "repair";
    CHECK_OK(scrub_repair(s, good, KIT_JOB, &name, NULL, &report, NULL));
    CHECK_EQ(report.repaired, d.count);
    CHECK(d.count >= 9);
    oracle_mark(MARK_MENDED, 0, 0);
}

static void begin(const char *base)
{
    char disk[256];
    snprintf(disk, sizeof(disk), "%s/disk", base);
    CHECK_EQ(mkdir(disk, 0777), 0);
    recording_start(disk);
    file_io_set_maker(record_maker);
    oracle_layout(&layout, 2);
}

static void end(void)
{
    store_close(s);
    s = NULL;
    file_io_set_maker(NULL);
    kit_layout_fini(&layout);
}

struct store *workload_record(const char *base)
{
    struct store *good = kit_store("mem://crash-good");
    begin(base);
    CHECK_OK(open_store(base));
    oracle_mark(MARK_REPO, 0, 0);
    first_launch();
    second_launch();
    repair(good);
    store_close(s);
    CHECK_OK(open_store(base));
    CHECK_OK(save(LAST));
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
    st = life_delete(s, KIT_JOB, &name, "test", NULL);
    if (st == CKPT_OK)
        life(FIRST, ORACLE_DELETED);
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
