/* Tags: set, taken away, against deletion, at every point where a tagger or a deleter may
 * die. */
#include "storage/repo/launch.h"
#include "storage/repo/life.h"
#include "storage/repo/life_log.h"
#include "storage/repo/prune.h"
#include "storage/repo/tags.h"
#include "storage/store/wrap.h"
#include "unit/before_put.h"
#include "unit/history_fixture.h"

static bool any(struct store *s, const struct ckpt_name *name)
{
    bool tagged;
    CHECK_OK(tags_any(s, FX_JOB, name, &tagged, NULL));
    return tagged;
}

static enum life life_of(struct store *s, const struct ckpt_name *name)
{
    enum life life;
    uint64_t n;
    CHECK_OK(life_look(s, FX_JOB, name, false, &life, &n, NULL, NULL));
    return life;
}

static enum ckpt_status say(void *arg, const struct ckpt_name *name, const char *tag)
{
    char *text = arg;
    snprintf(text + strlen(text), 256 - strlen(text), "%s%" PRIu64 "%s", *text ? " " : "",
             name->step, tag);
    return CKPT_OK;
}

static int test_changes(void)
{
    struct store *s = fx_open();
    char text[256] = "";
    fx_resolve(s, "one");
    struct ckpt_name a = fx_commit(s, 1, 10), b = fx_commit(s, 1, 20), none = fx_name(1, 99);
    CHECK(!any(s, &a));
    CHECK_OK(tags_set(s, FX_JOB, &a, "x", NULL));
    CHECK_OK(tags_set(s, FX_JOB, &a, "x", NULL));
    CHECK_OK(tags_set(s, FX_JOB, &a, "y", NULL));
    CHECK_OK(tags_set(s, FX_JOB, &b, "x", NULL));
    CHECK_OK(tags_each(s, FX_JOB, NULL, say, text, NULL));
    CHECK_STR(text, "20x 10x 10y");
    CHECK_OK(tags_unset(s, FX_JOB, &a, "x", NULL));
    CHECK_EQ(tags_unset(s, FX_JOB, &a, "x", NULL), CKPT_NOT_FOUND);
    CHECK_EQ(tags_unset(s, FX_JOB, &a, "z", NULL), CKPT_NOT_FOUND);
    CHECK(any(s, &a)); /* y */
    CHECK_OK(tags_set(s, FX_JOB, &a, "x", NULL));
    *text = 0;
    CHECK_OK(tags_each(s, FX_JOB, &a, say, text, NULL));
    CHECK_STR(text, "10x 10y");
    /* Names that cannot be, checkpoints that are not. */
    CHECK_EQ(tags_set(s, FX_JOB, &a, "a/b", NULL), CKPT_BAD_NAME);
    CHECK_EQ(tags_set(s, FX_JOB, &a, "", NULL), CKPT_BAD_NAME);
    CHECK_EQ(tags_unset(s, FX_JOB, &a, "..", NULL), CKPT_BAD_NAME);
    CHECK_EQ(tags_set(s, FX_JOB, &none, "x", NULL), CKPT_NOT_FOUND);
    /* What is deleted must be undeleted first; what is GONE is not there. */
    CHECK_OK(tags_unset(s, FX_JOB, &a, "x", NULL));
    CHECK_OK(tags_unset(s, FX_JOB, &a, "y", NULL));
    fx_life(s, &a, 1, LIFE_DELETED, 1);
    CHECK_EQ(tags_set(s, FX_JOB, &a, "x", NULL), CKPT_REFUSED);
    CHECK(!any(s, &a));
    fx_life(s, &a, 2, LIFE_GONE, 1);
    CHECK_EQ(tags_set(s, FX_JOB, &a, "x", NULL), CKPT_NOT_FOUND);
    CHECK(!any(s, &a));
    store_close(s);
    return 17;
}

/* Puts an entry of the life log when the tag is put: somebody deletes meanwhile. */
static int test_deleted_meanwhile(enum life meanwhile)
{
    int cases = 0;
    for (uint64_t nth = 1;; nth++) {
        struct store *s = fx_open(), *inner, *faulty;
        fx_resolve(s, "one");
        struct ckpt_name a = fx_commit(s, 1, 10);
        fx_commit(s, 1, 20);
        struct wrap_fault_rule rule = { .kind = FAULT_LOST_REPLY, .status = CKPT_IO, .nth = nth };
        struct wrap_fault_plan plan = { .rules = &rule, .count = 1 };
        CHECK_OK(store_dup(s, &inner, NULL));
        CHECK_OK(wrap_fault(inner, &plan, &faulty, NULL));
        enum ckpt_status st = tags_set(faulty, FX_JOB, &a, "x", NULL);
        store_close(faulty);
        CHECK_EQ(st, plan.hits ? CKPT_IO : CKPT_OK);
        /* It died there; before its last look somebody deletes. */
        bool tagged = any(s, &a);
        fx_life(s, &a, 1, LIFE_DELETED, 1);
        if (meanwhile == LIFE_GONE)
            fx_life(s, &a, 2, LIFE_GONE, 1);
        /* Delete looks again: what has a tag is LIVE, if it can still be. */
        st = life_delete(s, FX_JOB, &a, "test", NULL);
        if (meanwhile == LIFE_GONE)
            CHECK_EQ(life_of(s, &a), LIFE_GONE);
        else
            CHECK_EQ(life_of(s, &a), tagged ? LIFE_LIVE : LIFE_DELETED);
        CHECK_EQ(st, meanwhile == LIFE_GONE || tagged ? CKPT_REFUSED : CKPT_OK);
        store_close(s);
        cases++;
        if (!plan.hits)
            break;
    }
    CHECK(cases > 4);
    return cases;
}

/* The checkpoint is tagged just before its DELETED is put. */
struct tagging {
    const struct ckpt_name *name;
    bool done;
};

static void somebody_tags(void *arg, struct store *under, const char *key)
{
    struct tagging *t = arg;
    if (t->done || !strstr(key, "/x/"))
        return;
    CHECK_OK(tags_set(under, FX_JOB, t->name, "x", NULL));
    t->done = true;
}

/* Delete and prune had looked at the tags before: they look again afterwards. */
static int test_tagged_meanwhile(bool by_prune)
{
    struct store *s = fx_open();
    fx_resolve(s, "one");
    struct ckpt_name a = fx_commit(s, 1, 10);
    fx_commit(s, 1, 20);
    struct tagging tagging = { .name = &a };
    struct store *meddled = before_put(s, somebody_tags, &tagging);
    if (by_prune) {
        struct keep_policy policy = { 0 };
        struct prune_options o = { .policy = &policy };
        struct prune_report r;
        CHECK_OK(keep_policy_parse("last=1", &policy, NULL));
        CHECK_OK(prune(meddled, FX_JOB, &o, &r, NULL));
        CHECK(r.spared == 1 && r.deleted == 0 && r.kept == 1);
    } else {
        CHECK_EQ(life_delete(meddled, FX_JOB, &a, "test", NULL), CKPT_REFUSED);
    }
    CHECK(tagging.done);
    CHECK_EQ(life_of(s, &a), LIFE_LIVE);
    CHECK(any(s, &a));
    store_close(meddled);
    store_close(s);
    return 1;
}

int main(void)
{
    TEST_CASES(test_changes() + test_deleted_meanwhile(LIFE_DELETED) +
               test_deleted_meanwhile(LIFE_GONE) + test_tagged_meanwhile(false) +
               test_tagged_meanwhile(true));
    return 0;
}
