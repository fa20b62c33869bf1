/* The catalog: what is listed, what it costs, and what people type.
 * (It covers catalog_find.c, catalog_newest.c and roster.c too.) */
#include "storage/repo/catalog.h"
#include "storage/repo/launch.h"
#include "storage/repo/publish.h"
#include "storage/repo/tags.h"
#include "storage/store/wrap.h"
#include "unit/history_fixture.h"

static void resolve(struct store *s, const char *token, uint64_t forced_step)
{
    struct launch_who who = { .job = FX_JOB, .token = token, .world = FX_WORLD };
    struct lineage_wish wish = { .forced = forced_step != 0, .step = forced_step };
    struct record_resolved r;
    uint64_t epoch;
    CHECK_OK(launch_claim(s, &who, &epoch, NULL));
    CHECK_OK(launch_resolve(s, FX_JOB, epoch, &wish, &r, NULL));
    record_resolved_fini(&r);
}

/* 1: 40 80 100(deleted) 120;  2, forced back to 80: 90, 110(aborted), 130(gone). */
static struct store *history(void)
{
    struct store *s = fx_open();
    struct record_abort why = { .status = CKPT_FULL, .rank = 1, .by_epoch = 2 };
    resolve(s, "one", 0);
    fx_commit(s, 1, 40);
    struct ckpt_name c80 = fx_commit(s, 1, 80), c100 = fx_commit(s, 1, 100),
                     aborted = fx_name(2, 110);
    fx_commit(s, 1, 120);
    resolve(s, "two", 80);
    struct ckpt_name c90 = fx_commit(s, 2, 90), gone = fx_commit(s, 2, 130);
    fx_life(s, &c100, 1, LIFE_DELETED, 1);
    fx_life(s, &gone, 1, LIFE_DELETED, 1);
    fx_life(s, &gone, 2, LIFE_GONE, 2);
    CHECK_OK(publish_abort(s, FX_JOB, &aborted, &why, NULL));
    fx_tag(s, &c80, "best", 1, true);
    fx_tag(s, &c80, "old", 1, true);
    fx_tag(s, &c80, "old", 2, false);
    fx_tag(s, &c90, "best", 1, true);
    fx_tag(s, &c90, "release", 1, true);
    return s;
}

static void to_text(const struct catalog *c, char *buf, size_t cap)
{
    buf[0] = 0;
    for (size_t i = 0; i < c->count; i++) {
        const struct catalog_entry *e = &c->entries[i];
        snprintf(buf + strlen(buf), cap - strlen(buf), "%s%" PRIu64 ".%" PRIu64 "%c%s%s",
                 i ? " " : "", e->name.epoch, e->name.step, "LDGA"[e->state],
                 e -> on_lineage ? "+" : "", e->held ? "h" : "");
        for (size_t t = 0; t < e->tag_count; t++)
            snprintf(buf + strlen(buf), cap - strlen(buf), "#%s", e->tags[t]);
    }
}

static int test_lists(void)
{
    static const struct {
        unsigned flags;
        const char *text;
    } cases[] = {
        { 0, "2.90L+h 1.80L+h 1.40L+h" },
        { CATALOG_TAGS, "2.90L+h#best#release 1.80L+h#best 1.40L+h" },
        { CATALOG_ALL, "2.130G 2.110A 2.90L+h 1.120Lh 1.100Dh 1.80L+h 1.40L+h" },
    };
    struct store *s = history();
    char text[512];
    struct catalog c;
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        CHECK_OK(catalog_read(s, FX_JOB, cases[i].flags, &c, NULL));
        to_text(&c, text, sizeof(text));
        CHECK_STR(text, cases[i].text);
        catalog_fini(&c);
    }
    const struct catalog_wish first = { .flags = CATALOG_ALL, .newest = 2 };
    CHECK_OK(catalog_read_some(s, FX_JOB, &first, &c, NULL));
    to_text(&c, text, sizeof(text));
    CHECK_STR(text, "2.130G 2.110A");
    catalog_fini(&c);
    /* GONE without c/ is still told of while its log stands. */
    struct ckpt_name gone = fx_name(2, 130), c90 = fx_name(2, 90), c80 = fx_name(1, 80);
    CHECK_OK(store_remove(s, key_commit(FX_JOB, &gone).text, NULL));
    CHECK_OK(catalog_read(s, FX_JOB, CATALOG_ALL | CATALOG_SIZES, &c, NULL));
    CHECK_EQ(c.count, 7);
    CHECK_EQ(c.entries[0].state, CATALOG_GONE);
    CHECK(c.entries[1].abort.status == CKPT_FULL && c.entries[1].abort.rank == 1);
    CHECK_EQ(c.entries[2].stored_bytes, 201); /* h/ says so */
    CHECK_EQ(c.entries[2].commit.raw_bytes, 90000);
    catalog_fini(&c);
    /* Without h/ the ranks' `.h` tell the size, without one of those it is unknown; a damaged
     * commit has no figures. */
    CHECK_OK(store_remove(s, key_held(FX_JOB, &c90).text, NULL));
    CHECK_OK(catalog_read(s, FX_JOB, CATALOG_SIZES, &c, NULL));
    CHECK_EQ(c.entries[0].stored_bytes, 201);
    CHECK(!c.entries[0].held);
    catalog_fini(&c);
    CHECK_OK(store_remove(s, key_rank_held(FX_JOB, &c90, 1).text, NULL));
    CHECK_OK(store_remove(s, key_commit(FX_JOB, &c80).text, NULL));
    char junk[300] = "junk";
    CHECK_OK(store_put_record(s, key_commit(FX_JOB, &c80).text, junk, sizeof(junk), NULL));
    CHECK_OK(catalog_read(s, FX_JOB, CATALOG_SIZES, &c, NULL));
    CHECK_EQ(c.count, 3);
    CHECK(c.entries[0].stored_bytes == UINT64_MAX && !c.entries[0].held);
    CHECK(c.entries[1].commit.world == 0 && c.entries[1].name.step == 80);
    catalog_fini(&c);
    bool tagged;
    struct ckpt_name c40 = fx_name(1, 40);
    CHECK_OK(tags_any(s, FX_JOB, &c80, &tagged, NULL));
    CHECK(tagged);
    CHECK_OK(tags_any(s, FX_JOB, &c40, &tagged, NULL));
    CHECK(!tagged);
    CHECK_OK(catalog_read(s, "nobody", CATALOG_ALL, &c, NULL));
    CHECK_EQ(c.count, 0);
    catalog_fini(&c);
    CHECK_EQ(catalog_read(s, "no/job", 0, &c, NULL), CKPT_BAD_NAME);
    store_close(s);
    return 14;
}

/* However many checkpoints there are: a handful of listings, one read a checkpoint. */
static int test_is_cheap(void)
{
    struct store *s = fx_open(), *inner, *counted;
    struct store_counts counts = { 0 };
    struct catalog c;
    resolve(s, "one", 0);
    for (uint64_t step = 1; step <= 100; step++)
        fx_commit(s, 1, step);
    CHECK_OK(store_dup(s, &inner, NULL));
    CHECK_OK(wrap_count(inner, &counts, &counted, NULL));
    CHECK_OK(catalog_read(counted, FX_JOB, CATALOG_TAGS, &c, NULL));
    CHECK_EQ(c.count, 100);
    CHECK(counts.lists <= 5);
    CHECK_EQ(counts.gets, 100 + 1); /* resolved */
    CHECK_EQ(counts.stats, 0);
    catalog_fini(&c);
    CHECK_OK(catalog_read(counted, FX_JOB, CATALOG_SIZES, &c, NULL));
    CHECK_EQ(counts.gets, 2 * (100 + 1) + 100); /* h/ */
    catalog_fini(&c);
    uint64_t gets = counts.gets;
    struct ckpt_name c7 = fx_name(1, 7);
    const struct catalog_wish few = { .flags = CATALOG_SIZES, .newest = 5 };
    CHECK_OK(catalog_read_some(counted, FX_JOB, &few, &c, NULL));
    CHECK_EQ(c.count, 5);
    CHECK(c.entries[0].name.step == 100 && c.entries[4].name.step == 96);
    CHECK_EQ(counts.gets - gets, 1 + 2 * 5);
    catalog_fini(&c);
    gets = counts.gets;
    const struct catalog_wish one = { .flags = CATALOG_ALL | CATALOG_SIZES, .only = &c7 };
    CHECK_OK(catalog_read_some(counted, FX_JOB, &one, &c, NULL));
    CHECK_EQ(c.count, 1);
    CHECK(c.entries[0].name.step == 7 && c.entries[0].on_lineage);
    CHECK_EQ(counts.gets - gets, 1 + 2);
    catalog_fini(&c);
    store_close(counted);
    store_close(s);
    return 5;
}

/* ---- the short ways say what the long ones do ---- */

struct world {
    struct store *s;
    unsigned long long rng;
    struct ckpt_name made[64];
    size_t count;
};

static unsigned pick(struct world *w, unsigned n)
{
    return (unsigned)(test_rand(&w->rng) % n);
}

static void add_superseded(struct world *w)
{
    char token[32];
    struct launch_who who = { .job = FX_JOB, .token = token, .world = FX_WORLD };
    uint64_t epoch;
    snprintf(token, sizeof(token), "shut out %llu", w->rng);
    CHECK_OK(launch_claim(w->s, &who, &epoch, NULL));
}

/* Steps go up within a launch; some saves lack h/, some were deleted, brought back, or gone. */
static void add_saves(struct world *w, uint64_t epoch)
{
    uint64_t step = 0;
    for (unsigned n = pick(w, 5); n && w->count < ARRAY_COUNT(w->made); n--) {
        step += 1 + pick(w, 20);
        struct ckpt_name name = w->made[w->count++] = fx_commit(w->s, epoch, step);
        if (pick(w, 5) == 0)
            CHECK_OK(store_remove(w->s, key_held(FX_JOB, &name).text, NULL));
        unsigned life = pick(w, 12);
        if (life < 3)
            fx_life(w->s, &name, 1, LIFE_DELETED, 1);
        if (life < 2)
            fx_life(w->s, &name, 2, life ? LIFE_LIVE : LIFE_GONE, 2);
    }
}

static void add_launch(struct world *w)
{
    struct launch_who who = { .job = FX_JOB, .world = FX_WORLD };
    struct lineage_wish wish = { 0 };
    struct record_resolved r;
    struct ckpt_err err = { 0 };
    char token[32];
    uint64_t epoch;
    if (pick(w, 6) == 0)
        add_superseded(w);
    snprintf(token, sizeof(token), "launch %llu", w->rng);
    who.token = token;
    if (w->count && pick(w, 3) == 0) {
        const struct ckpt_name *to = &w->made[pick(w, (unsigned)w->count)];
        wish = (struct lineage_wish){
            .forced = true, .step = to->step, .has_epoch = true, .epoch = to->epoch
        };
    }
    CHECK_OK(launch_claim(w->s, &who, &epoch, NULL));
    enum ckpt_status st = launch_resolve(w->s, FX_JOB, epoch, &wish, &r, &err);
    if (st != CKPT_OK) /* nothing to continue from, or that one is gone */
        return;
    if (r.kind == RESOLVED_POINT && pick(w, 3) == 0) {
        struct record_bad bad = {
            .epoch = epoch, .rank = pick(w, 2), .name = r.name, .corrupt = pick(w, 2)
        };
        CHECK_OK(launch_put_bad(w->s, FX_JOB, &bad, NULL));
    } else {
        if (r.kind == RESOLVED_POINT && pick(w, 2)) {
            struct record_step restored = { .epoch = epoch, .step = r.name.step };
            CHECK_OK(launch_put_step(w->s, FX_JOB, RECORD_RESTORED, &restored, NULL));
        }
        add_saves(w, epoch);
        if (w->count && pick(w, 8) == 0) { /* of whatever, its own ones too */
            struct record_bad bad = { .epoch = epoch, .name = w->made[w->count - 1] };
            bad.corrupt = true;
            CHECK_OK(launch_put_bad(w->s, FX_JOB, &bad, NULL));
        }
    }
    record_resolved_fini(&r);
}

/* 1 if the short way was enough. */
static size_t check_newest(struct world *w, const struct lineage *l)
{
    struct lineage_wish wish = { .below = UINT64_MAX };
    struct record_resolved next;
    struct ckpt_name name;
    bool found;
    CHECK_OK(catalog_newest(w->s, FX_JOB, &found, &name, NULL));
    if (found) {
        CHECK_OK(lineage_pick(l, &wish, &next, NULL));
        CHECK(next.kind == RESOLVED_POINT && name_equal(&next.name, &name));
        record_resolved_fini(&next);
    }
    return found;
}

static void check_branch(struct world *w, const struct lineage *l)
{
    struct lineage brief;
    struct launch_listings at;
    bool marks[ARRAY_COUNT(w->made) + 1], brief_marks[ARRAY_COUNT(w->made) + 1];
    CHECK_OK(launch_branch_listed(w->s, FX_JOB, &brief, &at, NULL));
    CHECK_EQ(brief.commit_count, l->commit_count);
    CHECK(lineage_mark_branch(l, marks) && lineage_mark_branch(&brief, brief_marks));
    for (size_t i = 0; i < l->commit_count; i++)
        CHECK(marks[i] == brief_marks[i] && brief.commits[i].life == l->commits[i].life);
    lineage_fini(&brief);
    launch_listings_fini(&at);
}

static int test_short_ways(void)
{
    unsigned long long seed = test_seed(20261122);
    size_t worlds = 150, looks = 0, found = 0;
    for (size_t i = 0; i < worlds; i++) {
        struct world w = { .s = fx_open(), .rng = seed + i };
        for (unsigned n = 1 + pick(&w, 12); n; n--) {
            struct lineage l;
            add_launch(&w);
            CHECK_OK(launch_history(w.s, FX_JOB, &l, NULL));
            found += check_newest(&w, &l);
            check_branch(&w, &l);
            lineage_fini(&l);
            looks++;
        }
        store_close(w.s);
    }
    printf("newest: %zu of %zu by the short way\n", found, looks);
    CHECK(found > looks / 4 && found < looks);
    return (int)looks;
}

static int test_jobs(void)
{
    struct store *s = history();
    char **jobs;
    CHECK_OK(store_put_record(s, "another/l/x", "x", 1, NULL));
    CHECK_OK(store_put_record(s, "-no job/l/x", "x", 1, NULL));
    CHECK_OK(store_put_record(s, "ckpt.repo", "x", 1, NULL));
    CHECK_OK(catalog_jobs(s, &jobs, NULL));
    CHECK_STR(jobs[0], "another");
    CHECK_STR(jobs[1], FX_JOB);
    CHECK(!jobs[2]);
    catalog_jobs_free(jobs);
    catalog_jobs_free(NULL);
    store_close(s);
    return 3;
}

static const struct {
    const char *text;
    enum ckpt_status status;
    uint64_t epoch, step;
    const char *says;
} finds[] = {
    { "run-1", CKPT_OK, 2, 90, NULL },
    { "run-1@latest", CKPT_OK, 2, 90, NULL },
    { "run-1@80", CKPT_OK, 1, 80, NULL },
    { "run-1@120~1", CKPT_OK, 1, 120, NULL },
    { "run-1@100~1", CKPT_OK, 1, 100, NULL },
    { "run-1@0000000080", CKPT_OK, 1, 80, NULL },
    { "run-1@120", CKPT_NOT_FOUND, 0, 0, "another branch has it: 120~1" },
    { "run-1@100", CKPT_NOT_FOUND, 0, 0, "nearest is 90" },
    { "run-1@85", CKPT_NOT_FOUND, 0, 0, "nearest are 80 and 90" },
    { "run-1@1", CKPT_NOT_FOUND, 0, 0, "nearest is 40" },
    { "run-1@85~1", CKPT_NOT_FOUND, 0, 0, "nearest are 80 and 120" },
    { "run-1@130~2", CKPT_NOT_FOUND, 0, 0, "in epoch 2" },
    { "run-1@7~9", CKPT_NOT_FOUND, 0, 0, "in epoch 9" },
    { "run-2@7", CKPT_NOT_FOUND, 0, 0, "jobs here: run-1" },
    { "run-2", CKPT_NOT_FOUND, 0, 0, "jobs here: run-1" },
    { "run-1@", CKPT_INVALID, 0, 0, "JOB@STEP" },
    { "run-1@x", CKPT_INVALID, 0, 0, "JOB@STEP" },
    { "run-1@-1", CKPT_INVALID, 0, 0, "JOB@STEP" },
    { "run-1@1~", CKPT_INVALID, 0, 0, "JOB@STEP" },
    { "run-1@~1", CKPT_INVALID, 0, 0, "JOB@STEP" },
    { "run-1@1~2~3", CKPT_INVALID, 0, 0, "JOB@STEP" },
    { "run-1@18446744073709551616", CKPT_INVALID, 0, 0, "JOB@STEP" },
    { "run-1@18446744073709551615", CKPT_NOT_FOUND, 0, 0, "nearest is 90" },
    { "", CKPT_BAD_NAME, 0, 0, "" },
    { "@5", CKPT_BAD_NAME, 0, 0, "" },
    { "../x@5", CKPT_BAD_NAME, 0, 0, "" },
};

static int test_finds(void)
{
    struct store *s = history();
    for (size_t i = 0; i < ARRAY_COUNT(finds); i++) {
        struct catalog_spec spec = { 0 };
        struct ckpt_name name = { 0 };
        struct ckpt_err err = { 0 };
        enum ckpt_status st = catalog_parse(finds[i].text, &spec, &err);
        if (st == CKPT_OK)
            st = catalog_find(s, &spec, &name, &err);
        if (st != finds[i].status || (finds[i].says && !strstr(err.text, finds[i].says)))
            fprintf(stderr, "%s: %s\n", finds[i].text, err.text);
        CHECK_EQ(st, finds[i].status);
        CHECK_EQ(name.epoch, finds[i].epoch);
        CHECK_EQ(name.step, finds[i].step);
        CHECK(!finds[i].says || strstr(err.text, finds[i].says));
    }
    store_close(s);
    return ARRAY_COUNT(finds);
}

int main(void)
{
    char long_job[200];
    struct catalog_spec spec;
    memset(long_job, 'j', sizeof(long_job));
    long_job[sizeof(long_job) - 1] = 0;
    CHECK_EQ(catalog_parse(long_job, &spec, NULL), CKPT_BAD_NAME);
    TEST_CASES(test_lists() + test_is_cheap() + test_jobs() + test_finds() + test_short_ways() + 1);
    return 0;
}
