/* Launches over a store: tokens, epochs, SUPERSEDED, deciding what was left, idempotence.
 * (It covers launch_decide.c, launch_history.c and launch_index.c too.) */
#include "storage/repo/launch.h"
#include "storage/repo/life.h"
#include "storage/repo/publish.h"
#include "unit/before_put.h"
#include "unit/history_fixture.h"

static struct launch_who who_is(const char *token, uint8_t nonce)
{
    return (
        struct launch_who){ .job = FX_JOB, .token = token, .world = FX_WORLD, .nonce = { nonce } };
}

static uint64_t claim(struct store *s, const char *token)
{
    struct launch_who who = who_is(token, 1);
    uint64_t epoch = 0;
    CHECK_OK(launch_claim(s, &who, &epoch, NULL));
    return epoch;
}

static struct record_resolved resolve(struct store *s, uint64_t epoch)
{
    struct lineage_wish wish = { 0 };
    struct record_resolved r;
    CHECK_OK(launch_resolve(s, FX_JOB, epoch, &wish, &r, NULL));
    CHECK_EQ(r.epoch, epoch);
    return r;
}

/* Resolves and says only where to. */
static uint64_t resolve_step(struct store *s, uint64_t epoch)
{
    struct record_resolved r = resolve(s, epoch);
    CHECK_EQ(r.kind, RESOLVED_POINT);
    record_resolved_fini(&r);
    return r.name.step;
}

static enum publish_state state_of(struct store *s, const struct ckpt_name *name)
{
    enum publish_state state;
    CHECK_OK(publish_look(s, FX_JOB, name, &state, NULL, NULL));
    return state;
}

/* 0: nobody claimed with it. */
static uint64_t find(struct store *s, const char *token)
{
    uint64_t floor = 0, epoch = 0;
    enum ckpt_status st = launch_find(s, FX_JOB, token, &floor, &epoch, NULL);
    CHECK(st == CKPT_OK || st == CKPT_NOT_FOUND);
    return epoch;
}

/* A node that looks for its launch again and again: what was looked at is not read again. */
static int test_finding(void)
{
    struct store *s = fx_open();
    uint64_t floor = 0, epoch = 99;
    CHECK_EQ(launch_find(s, FX_JOB, "x", &floor, &epoch, NULL), CKPT_NOT_FOUND);
    CHECK_EQ(floor, 0);
    for (char name[2] = "a"; name[0] <= 'f'; name[0]++)
        claim(s, name);
    CHECK_EQ(launch_find(s, FX_JOB, "x", &floor, &epoch, NULL), CKPT_NOT_FOUND);
    CHECK(floor == 6 && epoch == 99);
    CHECK_EQ(launch_find(s, FX_JOB, "f", &floor, &epoch, NULL), CKPT_NOT_FOUND);
    claim(s, "x");
    CHECK_OK(store_put_record(s, key_claim(FX_JOB, 8).text, "junk", 4, NULL));
    CHECK_OK(launch_find(s, FX_JOB, "x", &floor, &epoch, NULL));
    CHECK_EQ(epoch, 7);
    CHECK_EQ(find(s, "e"), 5); /* the last of those that are read */
    CHECK_EQ(find(s, "d"), 0);
    CHECK_EQ(launch_find(s, "../x", "x", &floor, &epoch, NULL), CKPT_BAD_NAME);
    store_close(s);
    return 9;
}

static int test_tokens(void)
{
    struct store *s = fx_open();
    uint64_t epoch = 99;
    CHECK_EQ(find(s, "a"), 0);
    CHECK_EQ(claim(s, "a"), 1);
    CHECK_EQ(claim(s, "a"), 1); /* a retry of the same process */
    struct launch_who other = who_is("a", 2);
    struct ckpt_err err = { 0 };
    CHECK_EQ(launch_claim(s, &other, &epoch, &err), CKPT_LAUNCH_REUSED);
    CHECK(strstr(err.text, "\"a\"") && strstr(err.text, FX_JOB));
    CHECK_EQ(epoch, 99);
    CHECK_EQ(claim(s, "b"), 2);
    CHECK_EQ(claim(s, "a"), 1);
    CHECK_EQ(find(s, "b"), 2);
    /* A rollback inside the process: the next epoch, found again by a retry. */
    struct launch_who again = who_is("b", 1);
    again.after = 2;
    CHECK_OK(launch_claim(s, &again, &epoch, NULL));
    CHECK_EQ(epoch, 3);
    CHECK_OK(launch_claim(s, &again, &epoch, NULL));
    CHECK_EQ(epoch, 3);
    CHECK_EQ(claim(s, "b"), 3);
    CHECK_EQ(find(s, "b"), 3);
    /* Above all claims, also above those that left nothing else. */
    CHECK_EQ(claim(s, "c"), 4);
    struct launch_who none = who_is("", 1), bad = who_is("d", 1);
    CHECK_EQ(launch_claim(s, &none, &epoch, NULL), CKPT_NO_LAUNCH);
    bad.job = "../x";
    CHECK_EQ(launch_claim(s, &bad, &epoch, NULL), CKPT_BAD_NAME);
    store_close(s);
    return 14;
}

static int test_resolve(void)
{
    struct store *s = fx_open();
    uint64_t e1 = claim(s, "one");
    CHECK_EQ(launch_resolved(s, FX_JOB, e1, &(struct record_resolved){ 0 }, NULL), CKPT_NOT_FOUND);
    struct record_resolved r = resolve(s, e1);
    CHECK_EQ(r.kind, RESOLVED_NOTHING);
    CHECK_OK(launch_current(s, FX_JOB, e1, NULL));
    fx_commit(s, e1, 80);
    fx_commit(s, e1, 120);
    /* Its own `resolved` is found again, whatever happened since. */
    r = resolve(s, e1);
    CHECK_EQ(r.kind, RESOLVED_NOTHING);
    uint64_t e2 = claim(s, "two");
    CHECK_OK(launch_current(s, FX_JOB, e1, NULL)); /* a claim alone shuts nobody out */
    CHECK_EQ(resolve_step(s, e2), 120);
    CHECK_EQ(launch_current(s, FX_JOB, e1, NULL), CKPT_SUPERSEDED);
    CHECK_OK(launch_current(s, FX_JOB, e2, NULL));
    CHECK_OK(launch_resolved(s, FX_JOB, e2, &r, NULL));
    CHECK_EQ(r.name.step, 120);
    record_resolved_fini(&r);
    bool named;
    struct ckpt_name c80 = fx_name(e1, 80), c120 = fx_name(e1, 120);
    CHECK_OK(launch_names(s, FX_JOB, &c120, &named, NULL));
    CHECK(named);
    CHECK_OK(launch_names(s, FX_JOB, &c80, &named, NULL));
    CHECK(!named);
    /* Rolled back to 80, the job does not wake up in the abandoned branch. */
    uint64_t e3 = claim(s, "three");
    struct lineage_wish back = { .forced = true, .step = 80 };
    CHECK_OK(launch_resolve(s, FX_JOB, e3, &back, &r, NULL));
    CHECK(r.forced && r.name.step == 80);
    record_resolved_fini(&r);
    CHECK_EQ(resolve_step(s, claim(s, "four")), 80);
    fx_commit(s, e3, 90);
    fx_commit(s, e2, 500); /* a late one sorts behind */
    CHECK_EQ(resolve_step(s, claim(s, "five")), 90);
    store_close(s);
    return 15;
}

static int test_superseded(void)
{
    struct store *s = fx_open();
    uint64_t e1 = claim(s, "one"), e2 = claim(s, "two"), e3 = claim(s, "three");
    fx_commit(s, e1, 10);
    struct lineage_wish wish = { 0 };
    struct record_resolved r = { .epoch = 55 };
    /* Epoch 1 has commits but no `resolved`: it is no part of the lineage. */
    CHECK_EQ(launch_resolve(s, FX_JOB, e3, &wish, &r, NULL), CKPT_REFUSED);
    CHECK_EQ(r.epoch, 55);
    struct ckpt_err err = { 0 };
    CHECK_EQ(launch_resolve(s, FX_JOB, e2, &wish, &r, &err), CKPT_SUPERSEDED);
    CHECK_EQ(launch_resolve(s, FX_JOB, e1, &wish, &r, NULL), CKPT_SUPERSEDED);
    CHECK_OK(launch_resolved(s, FX_JOB, e2, &r, NULL));
    CHECK_EQ(r.kind, RESOLVED_SUPERSEDED);
    record_resolved_fini(&r);
    /* SUPERSEDED epochs are not the newest and shut nobody out. */
    CHECK_EQ(launch_newest(s, FX_JOB, &r, NULL), CKPT_NOT_FOUND);
    CHECK_OK(launch_current(s, FX_JOB, 0, NULL));
    wish.forced = wish.none = true;
    CHECK_OK(launch_resolve(s, FX_JOB, e3, &wish, &r, NULL));
    CHECK(r.kind == RESOLVED_NOTHING && r.forced);
    CHECK_EQ(launch_current(s, FX_JOB, e2, NULL), CKPT_SUPERSEDED);
    store_close(s);
    return 9;
}

static uint64_t claim_again(struct store *s, const char *token, uint64_t after)
{
    const struct launch_who who = {
        .job = FX_JOB, .token = token, .world = FX_WORLD, .after = after
    };
    uint64_t epoch;
    CHECK_OK(launch_claim(s, &who, &epoch, NULL));
    return epoch;
}

static enum ckpt_status go_back(struct store *s, uint64_t from, uint64_t to, const char *token,
                                uint64_t step)
{
    const struct lineage_wish wish = {
        .forced = true, .step = step, .has_epoch = true, .epoch = 1
    };
    const struct launch_reach reach = { .leaves = from, .token = token };
    struct record_resolved r;
    enum ckpt_status st = launch_resolve_with(s, FX_JOB, to, &wish, &reach, &r, NULL);
    if (st == CKPT_OK) {
        CHECK(r.kind == RESOLVED_POINT && r.name.step == step);
        record_resolved_fini(&r);
    }
    return st;
}

/* A launch goes back in itself, also twice; once a newer launch has resolved it does not take
 * the job away from that; a newer one that only claimed is shut out. */
static int test_goes_back(void)
{
    struct store *s = fx_open();
    uint64_t one = fx_resolve(s, "one");
    fx_commit(s, one, 10);
    fx_commit(s, one, 20);
    uint64_t two = claim_again(s, "one", one);
    CHECK_OK(go_back(s, one, two, "one", 10));
    fx_commit(s, two, 15);
    uint64_t dead = claim(s, "died"), three = claim_again(s, "one", two);
    CHECK_OK(go_back(s, two, three, "one", 10)); /* two is its own, the dead one is nothing */
    struct record_resolved r;
    CHECK_OK(launch_resolved(s, FX_JOB, dead, &r, NULL));
    CHECK_EQ(r.kind, RESOLVED_SUPERSEDED);
    record_resolved_fini(&r);
    uint64_t newer = fx_resolve(s, "newer");
    fx_commit(s, newer, 40);
    uint64_t late = claim_again(s, "one", three);
    CHECK(late > newer);
    CHECK_EQ(go_back(s, three, late, "one", 10), CKPT_SUPERSEDED);
    CHECK_EQ(go_back(s, three, late, "one", 10), CKPT_SUPERSEDED); /* asked again */
    CHECK_OK(launch_current(s, FX_JOB, newer, NULL));
    CHECK_EQ(launch_current(s, FX_JOB, three, NULL), CKPT_SUPERSEDED);
    CHECK_EQ(resolve_step(s, claim(s, "next")), 40);
    store_close(s);
    return 9;
}

/* A process whose daemon died finds the epoch it was in, behind however many newer claims; who
 * only says that it was there does not. */
static int test_comes_back(void)
{
    struct store *s = fx_open();
    uint64_t epoch, mine = claim(s, "mine");
    struct launch_who who = who_is("mine", 1);
    who.was = mine;
    for (int i = 0; i < 2 * LAUNCH_OWN_CLAIMS; i++)
        (void)claim(s, (const char *[]){ "a", "b", "c", "d" }[i]);
    CHECK_OK(launch_claim(s, &who, &epoch, NULL));
    CHECK_EQ(epoch, mine);
    who.nonce[3] = 1;
    CHECK_OK(launch_claim(s, &who, &epoch, NULL));
    CHECK(epoch > mine);
    who = who_is("other", 1);
    who.was = mine;
    CHECK_OK(launch_claim(s, &who, &epoch, NULL));
    CHECK(epoch > mine + 1);
    who.token = "third"; /* a home that was lost has no such claim */
    who.was = 99;
    CHECK_OK(launch_claim(s, &who, &epoch, NULL));
    CHECK(epoch > mine + 2);
    store_close(s);
    return 4;
}

/* A home that knows nothing of the job does not start it at the beginning while a tier that may
 * know could not be asked; unless that is what was asked for. */
static int test_unheard(void)
{
    struct store *s = fx_open();
    struct launch_reach reach = { .unheard = "s3://there/p" };
    struct lineage_wish wish = { 0 };
    struct record_resolved r;
    struct ckpt_err err = { 0 };
    uint64_t one = claim(s, "one");
    CHECK_EQ(launch_resolve_with(s, FX_JOB, one, &wish, &reach, &r, &err), CKPT_UNREACHABLE);
    CHECK(strstr(err.text, "s3://there/p") && strstr(err.text, "CKPT_RESUME"));
    CHECK_EQ(launch_resolved(s, FX_JOB, one, &r, NULL), CKPT_NOT_FOUND);
    wish.forced = wish.none = true;
    CHECK_OK(launch_resolve_with(s, FX_JOB, one, &wish, &reach, &r, NULL));
    CHECK_EQ(r.kind, RESOLVED_NOTHING);
    record_resolved_fini(&r);
    fx_commit(s, one, 10);
    wish.forced = wish.none = false;
    CHECK_OK(launch_resolve_with(s, FX_JOB, claim(s, "two"), &wish, &reach, &r, NULL));
    CHECK_EQ(r.name.step, 10); /* what is here is enough to go on from (H1) */
    record_resolved_fini(&r);
    store_close(s);
    return 4;
}

static void decide(struct store *s, uint64_t epoch)
{
    struct launch_listings at = { 0 };
    CHECK_OK(launch_decide(s, FX_JOB, epoch, &at, NULL));
    launch_listings_fini(&at);
}

/* A lower epoch that resolves between our claim and our reading is seen; what is left
 * undecided is decided. */
static int test_decides(void)
{
    struct store *s = fx_open();
    uint64_t e1 = claim(s, "one");
    struct record_resolved r = resolve(s, e1);
    struct ckpt_name complete = fx_name(e1, 10), half = fx_name(e1, 20), failed = fx_name(e1, 30),
                     no_held = fx_name(e1, 40), only_failed = fx_name(e1, 50),
                     without_0 = fx_name(e1, 55);
    fx_parts(s, &complete);
    CHECK_OK(fx_part(s, &half, 1, false, NULL));
    CHECK_OK(fx_part(s, &failed, 0, false, NULL));
    CHECK_OK(fx_part(s, &failed, 1, true, NULL));
    CHECK_OK(fx_part(s, &only_failed, 0, true, NULL));
    CHECK_OK(fx_part(s, &without_0, 1, true, NULL));
    fx_commit(s, e1, 40);
    CHECK_OK(store_remove(s, key_held(FX_JOB, &no_held).text, NULL));
    uint64_t e2 = claim(s, "two");
    struct ckpt_name mine = fx_name(e2, 60);
    fx_parts(s, &mine);
    decide(s, e2);
    CHECK_EQ(state_of(s, &complete), PUBLISH_COMMITTED);
    CHECK(fx_there(s, key_held(FX_JOB, &complete)));
    CHECK_EQ(state_of(s, &half), PUBLISH_UNDECIDED);
    CHECK_EQ(state_of(s, &failed), PUBLISH_ABORTED);
    CHECK_EQ(state_of(s, &only_failed), PUBLISH_ABORTED);
    CHECK_EQ(state_of(s, &without_0), PUBLISH_UNDECIDED); /* nobody looks for it */
    CHECK_EQ(state_of(s, &mine), PUBLISH_UNDECIDED);      /* not below its own epoch */
    CHECK(fx_there(s, key_held(FX_JOB, &no_held)));
    CHECK_EQ(resolve_step(s, e2), 40);
    /* What the old launch brings later is decided by the next. */
    CHECK_OK(fx_part(s, &half, 0, false, NULL));
    decide(s, claim(s, "three"));
    CHECK_EQ(state_of(s, &half), PUBLISH_COMMITTED);
    CHECK_EQ(state_of(s, &mine), PUBLISH_COMMITTED);
    record_resolved_fini(&r);
    store_close(s);
    return 10;
}

/* A part whose pack lies in a tier of the node. */
static void part_apart(struct store *home, struct store *tier, const struct ckpt_name *name,
                       uint32_t rank)
{
    struct decl d = { 0 };
    struct manifest_header h = { .name = *name, .rank = rank, .world = FX_WORLD };
    const struct manifest_source from = { .d = &d };
    snprintf(h.job, sizeof(h.job), "%s", FX_JOB);
    CHECK_OK(decl_finish(&d, CKPT_SLOT_BYTES, NULL));
    CHECK_OK(save_settle(tier, &h, &from, 100, NULL));
    CHECK_OK(save_tell(home, &h, &from, NULL));
    decl_fini(&d);
}

/* The committer died, and packs are in a tier of the node alone: what the resolver commits it
 * resumes from. */
static int test_hold(void)
{
    struct store *home = fx_open(), *tier = fx_open();
    struct record_resolved r = resolve(home, claim(home, "one"));
    struct ckpt_name whole = fx_name(1, 10), partly = fx_name(1, 20), deleted = fx_name(1, 30);
    struct lineage_wish wish = { 0 };
    for (uint32_t rank = 0; rank < FX_WORLD; rank++) {
        part_apart(home, tier, &whole, rank);
        part_apart(home, rank ? home : tier, &partly, rank);
        part_apart(home, tier, &deleted, rank);
    }
    record_resolved_fini(&r);
    decide(home, 2);
    fx_life(home, &deleted, 1, LIFE_DELETED, 5);
    uint64_t e2 = claim(home, "two");
    const struct launch_reach reach = { .tier = tier };
    CHECK_OK(launch_resolve_with(home, FX_JOB, e2, &wish, &reach, &r, NULL));
    CHECK(r.kind == RESOLVED_POINT && name_equal(&r.name, &whole));
    record_resolved_fini(&r);
    CHECK(fx_there(tier, key_held(FX_JOB, &whole)));
    CHECK(!fx_there(home, key_held(FX_JOB, &whole)));
    CHECK(!fx_there(tier, key_held(FX_JOB, &partly)));
    CHECK(!fx_there(tier, key_held(FX_JOB, &deleted)));
    /* Undecided until the resolver comes. */
    struct ckpt_name late = fx_name(e2, 40);
    for (uint32_t rank = 0; rank < FX_WORLD; rank++)
        part_apart(home, tier, &late, rank);
    uint64_t e3 = claim(home, "three");
    wish.below = e3;
    CHECK_OK(launch_resolve_with(home, FX_JOB, e3, &wish, &reach, &r, NULL));
    CHECK(r.kind == RESOLVED_POINT && name_equal(&r.name, &late));
    record_resolved_fini(&r);
    store_close(home);
    store_close(tier);
    return 6;
}

static int test_brings_back(void)
{
    struct store *s = fx_open();
    struct record_resolved r = resolve(s, claim(s, "one"));
    struct ckpt_name c = fx_commit(s, 1, 10);
    CHECK_EQ(resolve_step(s, claim(s, "two")), 10);
    fx_life(s, &c, 1, LIFE_DELETED, 5);
    CHECK_EQ(resolve_step(s, claim(s, "three")), 10);
    enum life life;
    uint64_t n;
    CHECK_OK(life_look(s, FX_JOB, &c, false, &life, &n, NULL, NULL));
    CHECK_EQ(life, LIFE_LIVE);
    CHECK_EQ(n, 2);
    /* The resolver died between `resolved` and LIVE: it does so when it comes again. */
    fx_life(s, &c, 3, LIFE_DELETED, 6);
    CHECK_EQ(resolve_step(s, 3), 10);
    CHECK_OK(life_look(s, FX_JOB, &c, false, &life, &n, NULL, NULL));
    CHECK(life == LIFE_LIVE && n == 4);
    /* GONE: its open fails, the next launch looks elsewhere. */
    fx_life(s, &c, 5, LIFE_GONE, 7);
    struct lineage_wish wish = { 0 };
    struct ckpt_err err = { 0 };
    CHECK_EQ(launch_resolve(s, FX_JOB, 3, &wish, &r, &err), CKPT_REFUSED);
    CHECK(strstr(err.text, "for good"));
    struct record_resolved fresh = resolve(s, claim(s, "four"));
    CHECK_EQ(fresh.kind, RESOLVED_NOTHING);
    record_resolved_fini(&fresh);
    store_close(s);
    return 8;
}

static int test_history_reads_reports(void)
{
    struct store *s = fx_open();
    struct record_resolved r = resolve(s, claim(s, "one"));
    struct ckpt_name c = fx_commit(s, 1, 10), gone = fx_commit(s, 1, 20),
                     deleted = fx_commit(s, 1, 30), away = fx_commit(s, 1, 40);
    struct ckpt_name aborted = fx_name(1, 50);
    fx_life(s, &gone, 1, LIFE_DELETED, 1);
    fx_life(s, &gone, 2, LIFE_GONE, 2);
    fx_life(s, &deleted, 1, LIFE_DELETED, 1);
    CHECK_OK(store_remove(s, key_held(FX_JOB, &away).text, NULL));
    CHECK_OK(
        publish_abort(s, FX_JOB, &aborted, &(struct record_abort){ .status = CKPT_FULL }, NULL));
    CHECK_OK(store_remove(s, key_rank_held(FX_JOB, &away, 0).text, NULL));
    CHECK_EQ(resolve_step(s, claim(s, "two")), 10);
    struct record_step step = { .epoch = 2, .step = 10 };
    CHECK_OK(launch_put_step(s, FX_JOB, RECORD_RESTORED, &step, NULL));
    CHECK_OK(launch_put_step(s, FX_JOB, RECORD_PROGRESS, &step, NULL));
    struct record_bad bad = { .epoch = 2, .rank = 0, .name = c, .text = "timed out" };
    CHECK_OK(launch_put_bad(s, FX_JOB, &bad, NULL));
    bad = (struct record_bad){ .epoch = 2, .rank = 1, .name = c, .corrupt = true, .text = "rot" };
    CHECK_OK(launch_put_bad(s, FX_JOB, &bad, NULL));
    bad.rank = 2;
    bad.corrupt = false;
    CHECK_OK(launch_put_bad(s, FX_JOB, &bad, NULL));
    struct lineage l;
    CHECK_OK(launch_history(s, FX_JOB, &l, NULL));
    CHECK_EQ(l.launch_count, 2);
    const struct lineage_launch *two = &l.launches[0];
    CHECK(two->epoch == 2 && two->claimed && two->resolved && two->restored);
    CHECK_STR(two->token, "two");
    CHECK(!two->progressed); /* step 10 is where it resumed: not beyond */
    CHECK_EQ(two->bad_count, 3);
    CHECK(two->corrupt && strcmp(two->bad_text, "rot") == 0);
    CHECK_EQ(l.commit_count, 3);
    CHECK_EQ(l.commits[0].name.step, 40);
    CHECK(l.commits[0].known && !l.commits[0].restorable && l.commits[0].why_not[0]);
    CHECK(l.commits[1].name.step == 30 && l.commits[1].life == LIFE_DELETED);
    CHECK(l.commits[2].restorable && l.commits[2].life == LIFE_LIVE);
    lineage_fini(&l);
    /* The first report of a key stands. */
    step.step = 99;
    CHECK_OK(launch_put_step(s, FX_JOB, RECORD_PROGRESS, &step, NULL));
    CHECK_OK(launch_history(s, FX_JOB, &l, NULL));
    CHECK_EQ(l.launches[0].progress_step, 10);
    lineage_fini(&l);
    /* Wrong digests: the next launch goes elsewhere, here: nowhere. */
    struct lineage_wish wish = { 0 };
    CHECK_EQ(launch_resolve(s, FX_JOB, claim(s, "three"), &wish, &r, NULL), CKPT_REFUSED);
    store_close(s);
    return 14;
}

/* A damaged report counts as not there; a damaged `resolved` stops the open. */
static int test_damaged_records(void)
{
    struct store *s = fx_open();
    struct record_resolved r = resolve(s, claim(s, "one"));
    fx_commit(s, 1, 10);
    CHECK_OK(store_put_record(s, key_progress(FX_JOB, 1).text, "junk", 4, NULL));
    CHECK_OK(store_put_record(s, key_restored(FX_JOB, 1).text, "junk", 4, NULL));
    CHECK_OK(store_put_record(s, key_bad(FX_JOB, 1, 0).text, "junk", 4, NULL));
    CHECK_OK(store_put_record(s, key_claim(FX_JOB, 2).text, "junk", 4, NULL));
    CHECK_OK(store_put_record(s, FX_JOB "/l/what-is-this", "junk", 4, NULL));
    CHECK_EQ(claim(s, "two"), 3);
    CHECK_EQ(resolve_step(s, 3), 10);
    struct ckpt_name c = fx_name(1, 10);
    CHECK_OK(store_put_record(s, key_life(FX_JOB, &c, false, 1).text, "junk", 4, NULL));
    struct lineage l;
    CHECK_OK(launch_history(s, FX_JOB, &l, NULL));
    CHECK(!l.commits[0].restorable && strstr(l.commits[0].why_not, "damaged"));
    lineage_fini(&l);
    CHECK_OK(store_put_record(s, key_resolved(FX_JOB, 9).text, "junk", 4, NULL));
    CHECK_EQ(launch_history(s, FX_JOB, &l, NULL), CKPT_CORRUPT);
    CHECK_EQ(launch_current(s, FX_JOB, 3, NULL), CKPT_CORRUPT);
    record_resolved_fini(&r);
    store_close(s);
    return 7;
}

/* An older launch resolves and commits just before it is shut out. */
static void somebody_commits(void *arg, struct store *under, const char *key)
{
    bool *done = arg;
    if (*done || strcmp(key, key_resolved(FX_JOB, 2).text) != 0)
        return;
    *done = true;
    struct record_resolved r = resolve(under, 2);
    fx_commit(under, 2, 20);
    record_resolved_fini(&r);
}

/* What was listed before somebody had to be shut out is too old: he was faster. */
static int test_shut_out_late(void)
{
    bool done = false;
    struct store *s = fx_open(), *meddled = before_put(s, somebody_commits, &done);
    struct record_resolved r = resolve(s, claim(s, "one"));
    fx_commit(s, 1, 10);
    CHECK_EQ(claim(s, "two"), 2);
    uint64_t e3 = claim(s, "three");
    CHECK_EQ(resolve_step(meddled, e3), 20);
    CHECK(done);
    record_resolved_fini(&r);
    store_close(meddled);
    store_close(s);
    return 1;
}

int main(void)
{
    TEST_CASES(test_tokens() + test_resolve() + test_superseded() + test_decides() + test_hold() +
               test_brings_back() + test_history_reads_reports() + test_damaged_records() +
               test_finding() + test_shut_out_late() + test_goes_back() + test_comes_back() +
               test_unheard());
    return 0;
}
