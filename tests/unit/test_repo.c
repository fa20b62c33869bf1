/* Opening a repository: absent, created, raced for, newer; listing in pages. */
#include <pthread.h>

#include "storage/repo/repo.h"
#include "storage/store/wrap.h"

#include "check.h"

static uint64_t cases;

static struct store *open_mem(const char *url)
{
    struct store *s;
    CHECK_OK(store_open(url, NULL, &s, NULL));
    return s;
}

static void test_open(void)
{
    struct store *s = open_mem("mem://repo");
    struct record_repo r, again;
    struct ckpt_err err = { 0 };
    CHECK_EQ(repo_open(s, false, &r, &err), CKPT_NOT_FOUND);
    CHECK(strstr(err_text(&err), "ckpt.repo"));
    CHECK_OK(repo_open(s, true, &r, NULL));
    CHECK_OK(repo_open(s, true, &again, NULL));
    CHECK(memcmp(r.uuid, again.uuid, sizeof(r.uuid)) == 0);
    CHECK_EQ(again.format, REPO_FORMAT);
    store_close(s);
    cases += 3;
}

static void test_newer_and_damaged(void)
{
    struct store *s = open_mem("mem://repo-newer");
    const struct key key = { KEY_REPO };
    struct record_repo r = { .format = REPO_FORMAT + 1 };
    struct ckpt_err err = { 0 };
    CLEANUP_BUF struct buf b = { 0 };
    record_repo_encode(&r, &b);
    CHECK_OK(repo_put(s, &key, &b, NULL));
    CHECK_EQ(repo_open(s, true, &r, &err), CKPT_UNSUPPORTED);
    CHECK(strstr(err_text(&err), "format"));
    b.data[b.len / 2] ^= 1;
    CHECK_OK(store_remove(s, KEY_REPO, NULL));
    CHECK_OK(repo_put(s, &key, &b, NULL));
    CHECK_EQ(repo_open(s, true, &r, NULL), CKPT_CORRUPT);
    struct buf failed = { .failed = true };
    CHECK_EQ(repo_put(s, &key, &failed, NULL), CKPT_NO_MEMORY);
    store_close(s);
    cases += 3;
}

struct racer {
    pthread_t thread;
    struct store *s;
    struct record_repo r;
    enum ckpt_status st;
};

static void *race(void *arg)
{
    struct racer *r = arg;
    r->st = repo_open(r->s, true, &r->r, NULL);
    return NULL;
}

static void test_race(void)
{
    struct racer racers[8];
    for (size_t i = 0; i < ARRAY_COUNT(racers); i++) {
        racers[i].s = open_mem("mem://repo-race");
        CHECK_EQ(pthread_create(&racers[i].thread, NULL, race, &racers[i]), 0);
    }
    for (size_t i = 0; i < ARRAY_COUNT(racers); i++) {
        CHECK_EQ(pthread_join(racers[i].thread, NULL), 0);
        CHECK_OK(racers[i].st);
        CHECK(memcmp(racers[i].r.uuid, racers[0].r.uuid, 16) == 0);
        store_close(racers[i].s);
        cases++;
    }
}

struct seen {
    unsigned count, stop_at;
    enum ckpt_status with;
};

static enum ckpt_status each(void *arg, const struct store_entry *e)
{
    struct seen *seen = arg;
    char want[32];
    snprintf(want, sizeof(want), "j/%05u", seen->count);
    CHECK_STR(e->key, want);
    return ++seen->count == seen->stop_at ? seen->with : CKPT_OK;
}

static void test_list(void)
{
    struct store *s = open_mem("mem://repo-list");
    for (unsigned i = 0; i < 700; i++) { /* several pages */
        char key[32];
        snprintf(key, sizeof(key), "j/%05u", i);
        CHECK_OK(store_put_record(s, key, "x", 1, NULL));
    }
    struct seen all = { 0 }, some = { .stop_at = 300, .with = CKPT_CANCELLED };
    struct seen bad = { .stop_at = 2, .with = CKPT_CORRUPT };
    CHECK_OK(repo_list(s, "j/", true, each, &all, NULL));
    CHECK_EQ(all.count, 700);
    CHECK_OK(repo_list(s, "j/", true, each, &some, NULL));
    CHECK_EQ(some.count, 300);
    CHECK_EQ(repo_list(s, "j/", true, each, &bad, NULL), CKPT_CORRUPT);
    CHECK_OK(repo_list(s, "nothing/", true, each, &bad, NULL));
    store_close(s);
    cases += 4;
}

static void test_probe(void)
{
    struct store *s = open_mem("mem://repo-probe");
    struct record_repo before, after;
    CHECK_EQ(repo_probe(s, NULL), CKPT_NOT_FOUND);
    CHECK_OK(repo_open(s, true, &before, NULL));
    CHECK_OK(repo_probe(s, NULL));
    CHECK_OK(repo_open(s, false, &after, NULL));
    CHECK(memcmp(before.uuid, after.uuid, sizeof(before.uuid)) == 0);
    s->readonly = true;
    CHECK_EQ(repo_probe(s, NULL), CKPT_DENIED);
    store_close(s);
    cases += 3;
}

/* A bit that flips on the way is read again; a store that gives wrong bytes twice is damaged. */
static void test_flipped(void)
{
    struct wrap_fault_rule rules[] = {
        { .kind = FAULT_FLIP, .op = 'g', .match = KEY_REPO, .nth = 1 },
        { .kind = FAULT_FLIP, .op = 'g', .match = KEY_REPO }
    };
    struct store *s = open_mem("mem://repo-flipped");
    struct record_repo before, after;
    CHECK_OK(repo_open(s, true, &before, NULL));
    for (size_t i = 0; i < ARRAY_COUNT(rules); i++) {
        struct wrap_fault_plan plan = { &rules[i], 1, .seed = 1 };
        struct ckpt_err err = { 0 };
        struct store *inner, *faulty;
        CHECK_OK(store_dup(s, &inner, NULL));
        CHECK_OK(wrap_fault(inner, &plan, &faulty, NULL));
        CHECK_EQ(repo_open(faulty, false, &after, &err), i == 0 ? CKPT_OK : CKPT_CORRUPT);
        CHECK(i == 0 || strstr(err.text, KEY_REPO));
        CHECK_EQ(plan.hits, i + 1);
        store_close(faulty);
    }
    store_close(s);
    cases += 2;
}

int main(void)
{
    test_open();
    test_flipped();
    test_probe();
    test_newer_and_damaged();
    test_race();
    test_list();
    TEST_CASES(cases);
    return 0;
}
