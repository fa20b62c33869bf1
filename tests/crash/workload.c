/* The recorded workload.  See workload.h. */
#include "crash/workload.h"

#include <stdio.h>
#include <sys/stat.h>

#include "crash/record_io.h"
#include "storage/repo/launch.h"
#include "storage/repo/life.h"
#include "storage/repo/scrub.h"

static struct store *s;
static struct kit_layout layout;

static void launch(const char *token)
{
    struct launch_who who = { .job = KIT_JOB, .token = token, .world = 2, .nonce = { 1 } };
    struct lineage_wish wish = { 0 };
    struct record_resolved r = { 0 };
    uint64_t epoch;
    recording.phase = "launch";
    CHECK_OK(launch_claim(s, &who, &epoch, NULL));
    oracle_mark(MARK_CLAIM, (int)epoch, 0);
    CHECK_OK(launch_resolve(s, KIT_JOB, epoch, &wish, &r, NULL));
    record_resolved_fini(&r);
}

static void save(int commit)
{
    struct ckpt_name name = oracle_name(commit);
    recording.phase = "save";
    oracle_save(s, &layout, &name);
    oracle_mark(MARK_LIFE, commit, ORACLE_LIVE);
}

struct store *workload_record(const char *base)
{
    char disk[256], root[300];
    snprintf(disk, sizeof(disk), "%s/disk", base);
    snprintf(root, sizeof(root), "%s/store", disk);
    CHECK_EQ(mkdir(disk, 0777), 0);
    recording_start(disk);
    file_io_set_maker(record_maker);
    oracle_layout(&layout, 2);
    recording.phase = "open";
    CHECK_OK(store_open(root, &(struct store_options){ .create = true }, &s, NULL));
    struct record_repo repo;
    CHECK_OK(repo_open(s, true, &repo, NULL));
    oracle_mark(MARK_REPO, 0, 0);
    launch("first");
    save(0);
    save(1);
    store_close(s);
    file_io_set_maker(NULL);
    kit_layout_fini(&layout);
    return kit_store("mem://crash-good");
}
