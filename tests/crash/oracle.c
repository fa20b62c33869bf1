/* Recovery after a power cut, and what it must find.  See oracle.h. */
#include "crash/oracle.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>

#include "crash/record_io.h"
#include "storage/repo/catalog.h"
#include "storage/repo/launch.h"
#include "storage/repo/life.h"
#include "storage/repo/life_copy.h"
#include "storage/repo/roster.h"
#include "storage/repo/scrub.h"

#define MUST(call)                                                                       \
    do {                                                                                 \
        struct ckpt_err err = { 0 };                                                     \
        enum ckpt_status must_ = (call);                                                 \
        if (must_ != CKPT_OK) {                                                          \
            fprintf(stderr, "%s: %s: %s: %s\n", oracle_where, #call, status_name(must_), \
                    err_text(&err));                                                     \
            exit(1);                                                                     \
        }                                                                                \
    } while (0)

#define LAST_STEP 1000

char oracle_where[512];
const char *const oracle_tokens[3] = { "first", "second", "third" };

struct ckpt_name oracle_name(int commit)
{
    return (struct ckpt_name){ .epoch = commit < ORACLE_COMMITS / 2 ? 1 : 2,
                               .step = 10 + (uint64_t)commit,
                               .attempt = 0xa0 + (uint64_t)commit };
}

void oracle_mark(enum oracle_mark_kind kind, int a, int b)
{
    recording_mark((int)kind << 16 | a << 8 | b);
}

void oracle_apply(struct oracle *o, int mark)
{
    int a = mark >> 8 & 0xff, b = mark & 0xff;
    switch ((enum oracle_mark_kind)(mark >> 16)) {
    case MARK_LIFE:
        o->life[a] = (enum oracle_life)b;
        break;
    case MARK_REPO:
        o->repo = true;
        break;
    case MARK_CLAIM:
        o->epoch = (uint64_t)a;
        o->token = b;
        break;
    case MARK_DAMAGED:
        o->damaged = a;
        break;
    case MARK_MENDED:
        o->damaged = -1;
        break;
    case MARK_PROGRESS:
        o->progress = a;
        break;
    }
}

void oracle_layout(struct kit_layout *l, uint32_t world)
{
    struct kit_model m = { 0 };
    kit_model_add(&m, "a.weight", CKPT_DTYPE_F32, 2, (const uint64_t[]){ 70, 300 });
    kit_model_add(&m, "b.bias", CKPT_DTYPE_BF16, 1, (const uint64_t[]){ 77 });
    kit_layout_rows(l, &m, world);
}

void oracle_save(struct store *s, const struct kit_layout *l, const struct ckpt_name *name)
{
    struct kit_save how = { .name = *name, .codec = { CODEC_STORED, 0 } };
    struct record_commit commit;
    for (uint32_t rank = 0; rank < l->world; rank++)
        MUST(kit_save_part(s, l, rank, &how, &err));
    MUST(publish(s, KIT_JOB, name, l->world, &commit, &err));
}

static void complain(const char *what, const struct ckpt_name *name)
{
    fprintf(stderr, "%s: %s (epoch %" PRIu64 ", step %" PRIu64 ")\n", oracle_where, what,
            name->epoch, name->step);
    exit(1);
}

static bool lives(const struct oracle *o, int commit)
{
    return o->life[commit] == ORACLE_LIVE || o->life[commit] == ORACLE_PARTS ||
           o->life[commit] == ORACLE_DROPPING || o->life[commit] == ORACLE_DROPPED;
}

static bool given_up(const struct oracle *o, int commit)
{
    return o->life[commit] == ORACLE_NEVER || o->life[commit] == ORACLE_FAILED ||
           o->life[commit] == ORACLE_ABORTED;
}

/* Resolving must choose nothing older than the newest acknowledged checkpoint. */
static void check_choice(const struct oracle *o, const struct record_resolved *r)
{
    for (int i = 0; i < ORACLE_COMMITS; i++) {
        struct ckpt_name name = oracle_name(i);
        if (given_up(o, i) && r->kind == RESOLVED_POINT && name_equal(&name, &r->name))
            complain("the launch resumes from what was given up", &name);
        if (!lives(o, i))
            continue;
        if (r->kind != RESOLVED_POINT || r->name.epoch < name.epoch ||
            (r->name.epoch == name.epoch && r->name.step < name.step))
            complain("the launch resumes from less than", &name);
    }
}

static void say_finding(void *arg, const struct scrub_finding *f)
{
    (void)arg;
    if (f->kind != SCRUB_EXTRA)
        fprintf(stderr, "%s: %s\n", f->key, f->text);
}

static bool is_there(struct store *s, struct key key)
{
    struct store_stat stat;
    enum ckpt_status st = store_stat(s, key.text, &stat, NULL);
    CHECK(st == CKPT_OK || st == CKPT_NOT_FOUND);
    return st == CKPT_OK;
}

static enum ckpt_status see_pack(void *arg, const struct store_entry *e)
{
    struct key_data_parts parts = { 0 };
    if (key_parse_data(strrchr(e->key, '/') + 1, &parts) == KEY_PACK)
        *(uint64_t *)arg |= UINT64_C(1) << parts.rank;
    return CKPT_OK;
}

/* Of which ranks packs are there, as bits. */
static uint64_t with_packs(struct store *s, const struct ckpt_name *name)
{
    uint64_t ranks = 0;
    for (unsigned h = 0; h < 16; h++)
        MUST(repo_list(s, key_data(KIT_JOB, h, name).text, false, see_pack, &ranks, &err));
    return ranks;
}

/* What was dropped is whole in the good store, and nothing says that it is whole here unless it is. */
static void check_dropped(struct store *s, struct store *good, const struct kit_layout *l,
                          const struct ckpt_name *name)
{
    struct load_stats stats = { 0 };
    struct store *tiers[] = { s, good };
    if (!good)
        complain("it was dropped, and there is no other store", name);
    MUST(kit_restore(tiers, 2, name, l, &stats, &err));
    if (is_there(s, key_held(KIT_JOB, name)))
        MUST(kit_restore(&s, 1, name, l, &stats, &err));
    uint64_t packs = with_packs(s, name);
    for (uint32_t rank = 0; rank < 2; rank++)
        if (is_there(s, key_rank_held(KIT_JOB, name, rank)) && !(packs >> rank & 1))
            complain("packs are said to be here that are not", name);
}

static void check_whole(struct store *s, struct store *good, const struct ckpt_name *name)
{
    struct kit_layout l;
    struct scrub_report report;
    struct load_stats stats = { 0 };
    const struct scrub_callbacks cb = { .finding = say_finding };
    oracle_layout(&l, 1);
    MUST(scrub_verify(s, KIT_JOB, name, CKPT_SLOT_BYTES_MAX, &cb, &report, &err));
    if (report.dropped)
        check_dropped(s, good, &l, name);
    else
        MUST(kit_restore(&s, 1, name, &l, &stats, &err));
    kit_layout_fini(&l);
}

uint64_t oracle_drop(struct store *home, struct store *good)
{
    const struct copy_place place = {
        .job = KIT_JOB, .home = home, .here = home, .tiers = &good, .tier_count = 1
    };
    struct keep_policy none = { 0 };
    struct prune_plan plan = { 0 };
    struct copy_report report = { 0 };
    CHECK_OK(keep_policy_parse("every=1000000", &none, NULL));
    MUST(copy_prune(&place, &none, &plan, &report, &err));
    prune_plan_fini(&plan);
    return report.dropped;
}

/* The next pass ends what a cut has cut short, and leaves nothing behind. */
static void drop_again(struct store *s, const struct oracle *o, struct store *good)
{
    bool any = false;
    for (int i = 0; i < ORACLE_COMMITS; i++)
        any |= o->life[i] == ORACLE_DROPPING || o->life[i] == ORACLE_DROPPED;
    if (!any)
        return;
    (void)oracle_drop(s, good);
    for (int i = 0; i < ORACLE_COMMITS; i++) {
        struct ckpt_name name = oracle_name(i);
        if (o->life[i] != ORACLE_DROPPING && o->life[i] != ORACLE_DROPPED)
            continue;
        if (is_there(s, key_held(KIT_JOB, &name)) || with_packs(s, &name))
            complain("data is left of what was dropped", &name);
        check_whole(s, good, &name);
    }
}

/* Every live checkpoint is whole, and those that must be live are. */
static void check_commits(struct store *s, const struct oracle *o, struct store *good,
                          const struct record_resolved *r, bool whole)
{
    struct catalog c = { 0 };
    bool live[ORACLE_COMMITS] = { false };
    MUST(catalog_read(s, KIT_JOB, CATALOG_ALL, &c, &err));
    for (size_t i = 0; i < c.count; i++) {
        if (c.entries[i].state != CATALOG_LIVE)
            continue;
        if (whole)
            check_whole(s, good, &c.entries[i].name);
        for (int k = 0; k < ORACLE_COMMITS; k++) {
            struct ckpt_name name = oracle_name(k);
            live[k] = live[k] || name_equal(&name, &c.entries[i].name);
        }
    }
    for (int k = 0; k < ORACLE_COMMITS; k++) {
        struct ckpt_name name = oracle_name(k);
        bool named = r->kind == RESOLVED_POINT && name_equal(&r->name, &name);
        if (lives(o, k) && !live[k])
            complain("an acknowledged checkpoint is lost", &name);
        if (given_up(o, k) && live[k])
            complain("what was given up is back", &name);
        bool deleted = o->life[k] == ORACLE_DELETED || o->life[k] == ORACLE_GOING;
        if (deleted && live[k] && !named)
            complain("what was deleted is back", &name);
    }
    catalog_fini(&c);
}

/* Deleted is not gone: what can be brought back must be whole.  What gc began to remove
 * cannot. */
static void check_undelete(struct store *s, const struct oracle *o, struct store *good)
{
    for (int i = 0; i < ORACLE_COMMITS; i++) {
        struct ckpt_name name = oracle_name(i);
        enum ckpt_status st = life_undelete(s, KIT_JOB, &name, "test", NULL);
        if (st == CKPT_OK)
            check_whole(s, good, &name);
        else if (o->life[i] == ORACLE_DELETED || lives(o, i))
            complain("cannot be brought back", &name);
    }
}

static void check_no_temporary(const char *dir)
{
    char path[1024];
    snprintf(path, sizeof(path), "%s/.tmp", dir);
    DIR *tmp = opendir(path);
    for (const struct dirent *e = tmp ? readdir(tmp) : NULL; e; e = readdir(tmp)) {
        if (e->d_name[0] == '.')
            continue;
        fprintf(stderr, "%s: the temporary file %s is left\n", oracle_where, e->d_name);
        exit(1);
    }
    if (tmp)
        closedir(tmp);
}

static void check_repo(struct store *s, const struct oracle *o)
{
    struct record_repo repo;
    struct ckpt_err why = { 0 };
    enum ckpt_status st = repo_open(s, false, &repo, &why);
    if (o->repo && st != CKPT_OK) {
        fprintf(stderr, "%s: the repository is lost: %s\n", oracle_where, err_text(&why));
        exit(1);
    }
    MUST(repo_open(s, true, &repo, &err));
}

static void check_held(struct store *s, const struct ckpt_name *name)
{
    struct key key = key_held(KIT_JOB, name);
    struct record_held held;
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    MUST(repo_get(s, &key, &bytes, &len, &err));
    MUST(record_held_decode(bytes, len, key.text, &held, &err));
}

static void check_failed(struct store *s, const struct ckpt_name *name)
{
    struct key key = key_manifest(KIT_JOB, name, 1);
    struct manifest_header h;
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    MUST(repo_get(s, &key, &bytes, &len, &err));
    MUST(manifest_header_decode(bytes, len, NULL, &h, &err));
    if (!(h.flags & MANIFEST_FLAG_FAILED))
        complain("rank 1 no longer says that it failed", name);
    manifest_header_fini(&h);
}

static void check_progress(struct store *s, const struct oracle *o)
{
    struct key key = key_progress(KIT_JOB, 1);
    struct record_step r;
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    if (o->progress == 0)
        return;
    MUST(repo_get(s, &key, &bytes, &len, &err));
    MUST(record_step_decode(RECORD_PROGRESS, bytes, len, key.text, &r, &err));
}

/* What was acknowledged does not need another launch to be seen. */
static void check_commit(struct store *s, const struct oracle *o, int commit)
{
    struct ckpt_name name = oracle_name(commit);
    enum publish_state state = PUBLISH_UNDECIDED;
    if (o->life[commit] == ORACLE_FAILED)
        check_failed(s, &name);
    if (o->life[commit] == ORACLE_DROPPED && is_there(s, key_held(KIT_JOB, &name)))
        complain("what was dropped is said to be here", &name);
    if ((o->life[commit] != ORACLE_LIVE && o->life[commit] != ORACLE_ABORTED) ||
        commit == o->damaged)
        return;
    MUST(publish_look(s, KIT_JOB, &name, &state, NULL, &err));
    if (o->life[commit] == ORACLE_ABORTED) {
        if (state != PUBLISH_ABORTED)
            complain("before any launch, it is no longer aborted", &name);
        return;
    }
    if (state != PUBLISH_COMMITTED)
        complain("before any launch, there is no commit", &name);
    check_held(s, &name);
}

static void check_acknowledged(struct store *s, const struct oracle *o)
{
    uint64_t epoch = 0, floor = 0;
    if (o->epoch > 0)
        MUST(launch_find(s, KIT_JOB, oracle_tokens[o->token], &floor, &epoch, &err));
    if (epoch != o->epoch)
        complain("the token does not lead to its", &(struct ckpt_name){ .epoch = o->epoch });
    for (int i = 0; i < ORACLE_COMMITS; i++)
        check_commit(s, o, i);
    check_progress(s, o);
}

/* After gc, nothing is left that no later gc would find: h/ without c/ or a log. */
static void check_nothing_left(struct store *s)
{
    CLEANUP_ROSTER struct roster commits = { 0 }, helds = { 0 }, logs = { 0 };
    MUST(roster_commits(s, KIT_JOB, &commits, &err));
    MUST(roster_helds(s, KIT_JOB, &helds, &err));
    MUST(roster_lives(s, KIT_JOB, &logs, &err));
    for (size_t i = 0; i < helds.count; i++)
        if (!roster_find(&commits, &helds.entries[i].name) &&
            !roster_find(&logs, &helds.entries[i].name))
            complain("h/ is left without c/", &helds.entries[i].name);
}

void oracle_recover(const char *dir, const struct oracle *o, struct store *good)
{
    struct store *s;
    struct record_resolved r = { 0 };
    struct lineage_wish wish = { 0 };
    struct launch_who who = { .job = KIT_JOB, .token = "recovery", .world = 2, .nonce = { 9 } };
    uint64_t epoch = 0;
    file_io_set_maker(calm_maker);
    MUST(store_open(dir, &(struct store_options){ .io = "threads", .create = true }, &s, &err));
    check_no_temporary(dir);
    check_repo(s, o);
    check_acknowledged(s, o);
    MUST(launch_claim(s, &who, &epoch, &err));
    if (epoch <= o->epoch)
        complain("an epoch is claimed twice", &(struct ckpt_name){ .epoch = epoch });
    if (o->damaged >= 0) {
        struct ckpt_name name = oracle_name(o->damaged);
        struct scrub_report report;
        MUST(scrub_repair(s, good, KIT_JOB, &name, NULL, &report, &err));
    }
    MUST(launch_resolve(s, KIT_JOB, epoch, &wish, &r, &err));
    check_choice(o, &r);
    check_commits(s, o, good, &r, true);

    struct kit_layout l;
    struct ckpt_name next = { .epoch = epoch, .step = LAST_STEP, .attempt = 7 };
    struct life_gc_report report;
    struct life_gc_options gc = { .grace_ns = INT64_C(3600000000000),
                                  .abort_keep_ns = INT64_C(3600000000000),
                                  .undecided = true };
    oracle_layout(&l, 2);
    oracle_save(s, &l, &next);
    kit_layout_fini(&l);
    check_whole(s, NULL, &next);
    drop_again(s, o, good);
    MUST(life_gc(s, KIT_JOB, &gc, &report, &err));
    check_commits(s, o, good, &r, false);
    check_nothing_left(s);
    check_undelete(s, o, good);
    record_resolved_fini(&r);
    store_close(s);
    check_no_temporary(dir);
}
