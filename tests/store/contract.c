/* The store contract, law by law.  Each law works under a prefix of its own. */
#include "store/contract.h"

#include <pthread.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>

#include "check.h"

#define BIG (UINT64_C(40) << 20)

static struct store *open_or_die(const struct contract *c, bool readonly)
{
    struct ckpt_err err = { 0 };
    struct store *s = NULL;
    if (c->open(c, readonly, &s, &err) != CKPT_OK) {
        fprintf(stderr, "%s: open: %s\n", c->name, err_text(&err));
        exit(1);
    }
    return s;
}

/* Bytes that differ at every position and between seeds. */
TEST_UNSEEN static void fill(void *to, size_t len, unsigned long long seed)
{
    unsigned char *p = to;
    for (size_t i = 0; i + 8 <= len; i += 8) {
        unsigned long long z = test_rand(&seed);
        memcpy(p + i, &z, 8);
    }
    for (size_t i = len & ~(size_t)7; i < len; i++)
        p[i] = (unsigned char)test_rand(&seed);
}

static bool is_all(const char *p, size_t len, char byte)
{
    return len == 0 || (p[0] == byte && memcmp(p, p + 1, len - 1) == 0);
}

static void *blocks(size_t len)
{
    void *p = aligned_alloc(4096, align_up(len + 1, 4096));
    CHECK(p);
    return p;
}

static enum ckpt_status put(struct store *s, const char *key, const void *bytes, size_t len)
{
    struct iovec iov = { .iov_base = (void *)(uintptr_t)bytes, .iov_len = len };
    return store_put(s, key, &iov, 1, 0, NULL);
}

static void check_holds(struct store *s, const char *key, const void *bytes, size_t len)
{
    void *got = NULL;
    size_t got_len = 0;
    CHECK_OK(store_get_all(s, key, len + 1, &got, &got_len, NULL));
    CHECK_EQ(got_len, len);
    CHECK(memcmp(got, bytes, len) == 0);
    free(got);
}

/* An object longer than any of its kind is damaged: no mistake of the caller. */
static void check_too_long(struct store *s, const char *key, size_t len)
{
    struct ckpt_err err = { 0 };
    void *got = NULL;
    size_t got_len = 0;
    if (len == 0)
        return;
    CHECK_EQ(store_get_all(s, key, len - 1, &got, &got_len, &err), CKPT_CORRUPT);
    CHECK(!got && strstr(err.text, key));
}

static int test_sizes(struct store *s)
{
    static const size_t sizes[] = {
        0,     1,     511,     4095,          4096,      4097,    65535,
        65536, 65537, 1 << 20, (1 << 20) + 1, 69632 + 3, 6 << 20, (6 << 20) + 5
    };
    int cases = 0;
    char *bytes = blocks((6 << 20) + 4096);
    fill(bytes, (6 << 20) + 4096, 1);
    for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        for (size_t shift = 0; shift <= 8; shift += 8, cases++) {
            CHECK_OK(put(s, "sizes/x", bytes + shift, sizes[i]));
            check_holds(s, "sizes/x", bytes + shift, sizes[i]);
            struct store_stat stat;
            CHECK_OK(store_stat(s, "sizes/x", &stat, NULL));
            CHECK_EQ(stat.bytes, sizes[i]);
        }
        check_too_long(s, "sizes/x", sizes[i]);
    }
    CHECK_OK(store_put(s, "sizes/none", NULL, 0, 0, NULL));
    check_holds(s, "sizes/none", "", 0);
    free(bytes);
    return cases + (int)ARRAY_COUNT(sizes);
}

/* put of any iovec, get of any ranges, is the identity. */
static int test_iovecs_and_ranges(struct store *s)
{
    enum { ROUNDS = TEST_COUNT(40), IOVS = 50, RANGES = 30, CAP = 3 << 20 };
    unsigned long long seed = test_seed(20261121);
    char *bytes = blocks(CAP), *got = blocks(CAP);
    fill(bytes, CAP, 2);
    for (int round = 0; round < ROUNDS; round++) {
        struct iovec iov[IOVS];
        int count = (int)(test_rand(&seed) % IOVS) + 1;
        size_t at = 0, len = 0;
        char *flat = blocks(CAP);
        for (int i = 0; i < count; i++) {
            size_t n = test_rand(&seed) % (test_rand(&seed) % 3 ? 9000 : 200000);
            if (test_rand(&seed) % 2)
                n = n / 4096 * 4096, at = align_up(at, 4096);
            if (at + n > CAP || len + n > CAP)
                n = 0, at = 0;
            iov[i] = (struct iovec){ bytes + at, n };
            memcpy(flat + len, bytes + at, n);
            at += n, len += n;
        }
        CHECK_OK(store_put(s, "ranges/x", iov, count, 0, NULL));
        check_holds(s, "ranges/x", flat, len);
        struct store_range ranges[RANGES];
        size_t n = test_rand(&seed) % RANGES, room = 0, filled = 0;
        for (; filled < n; filled++) {
            uint64_t off = test_rand(&seed) % (len + 1);
            if (test_rand(&seed) % 2)
                off = off / 4096 * 4096, room = align_up(room, 4096);
            uint64_t want = test_rand(&seed) % (len - off + 1);
            if (room + want > CAP)
                break;
            ranges[filled] = (struct store_range){ off, want, got + room };
            room += want;
        }
        memset(got, 0x55, CAP);
        CHECK_OK(store_get(s, "ranges/x", ranges, filled, NULL));
        for (size_t i = 0; i < filled; i++)
            CHECK(memcmp(ranges[i].base, flat + ranges[i].offset, ranges[i].bytes) == 0);
        CHECK(is_all(got + room, CAP - room, 0x55)); /* nothing beside the ranges is touched */
        free(flat);
    }
    free(bytes);
    free(got);
    return ROUNDS;
}

static int test_past_the_end(struct store *s)
{
    char got[64] = "untouched";
    CHECK_OK(put(s, "end/x", "0123456789", 10));
    static const struct {
        uint64_t offset, bytes;
        enum ckpt_status st;
    } cases[] = {
        { 0, 10, CKPT_OK },
        { 10, 0, CKPT_OK },
        { 9, 1, CKPT_OK },
        { 0, 11, CKPT_CORRUPT },
        { 10, 1, CKPT_CORRUPT },
        { 11, 0, CKPT_CORRUPT },
        { 9, 2, CKPT_CORRUPT },
        { UINT64_MAX, 2, CKPT_CORRUPT },
        { 5, UINT64_MAX, CKPT_CORRUPT },
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct store_range r = { cases[i].offset, cases[i].bytes, got };
        struct ckpt_err err = { 0 };
        CHECK_EQ(store_get(s, "end/x", &r, 1, &err), cases[i].st);
        CHECK(cases[i].st == CKPT_OK || strstr(err.text, "end/x"));
    }
    CHECK_OK(store_get(s, "end/x", NULL, 0, NULL));
    return ARRAY_COUNT(cases) + 1;
}

static int test_not_there(struct store *s)
{
    char b;
    struct store_range r = { 0, 1, &b };
    struct store_stat stat;
    struct ckpt_err err = { 0 };
    void *all;
    size_t len;
    CHECK_OK(put(s, "gone/dir/x", "x", 1));
    static const char *const keys[] = { "gone/y", "gone/dir", "none/at/all", "gone/dir/x/below" };
    for (size_t i = 0; i < ARRAY_COUNT(keys); i++) {
        memset(&err, 0, sizeof(err));
        CHECK_EQ(store_stat(s, keys[i], &stat, NULL), CKPT_NOT_FOUND);
        CHECK_EQ(store_get_all(s, keys[i], 9, &all, &len, NULL), CKPT_NOT_FOUND);
        if (strcmp(keys[i], "gone/dir/x/below") == 0)
            continue; /* an object as a directory: any error will do */
        CHECK_EQ(store_get(s, keys[i], &r, 1, &err), CKPT_NOT_FOUND);
        CHECK(strstr(err.text, keys[i]));
    }
    CHECK_EQ(store_get_all(s, "gone/dir/x", 0, &all, &len, NULL), CKPT_CORRUPT);
    CHECK_EQ(store_get(s, "gone/dir/x", &r, STORE_RANGES_MAX + 1, NULL), CKPT_LIMIT);
    struct iovec huge[2] = { { &b, SIZE_MAX }, { &b, 2 } };
    CHECK_EQ(store_put(s, "gone/huge", huge, 2, 0, NULL), CKPT_LIMIT);
    return 3 * (int)ARRAY_COUNT(keys) + 2;
}

static int test_if_absent(struct store *s)
{
    struct ckpt_err err = { 0 };
    char *big = blocks(3 << 20);
    fill(big, 3 << 20, 3);
    CHECK_OK(store_put_record(s, "rec/a/b/c", "one", 3, NULL));
    CHECK_OK(store_put_record(s, "rec/a/b/c", "one", 3, NULL));
    CHECK_EQ(store_put_record(s, "rec/a/b/c", "two", 3, &err), CKPT_CONFLICT);
    CHECK(strstr(err.text, "rec/a/b/c"));
    CHECK_EQ(store_put_record(s, "rec/a/b/c", "on", 2, NULL), CKPT_CONFLICT);
    CHECK_EQ(store_put_record(s, "rec/a/b/c", "one ", 4, NULL), CKPT_CONFLICT);
    CHECK_EQ(store_put_record(s, "rec/a/b/c", NULL, 0, NULL), CKPT_CONFLICT);
    check_holds(s, "rec/a/b/c", "one", 3);
    CHECK_OK(store_put_record(s, "rec/empty", NULL, 0, NULL));
    CHECK_OK(store_put_record(s, "rec/empty", NULL, 0, NULL));
    CHECK_OK(store_put_record(s, "rec/big", big, 3 << 20, NULL));
    CHECK_OK(store_put_record(s, "rec/big", big, 3 << 20, NULL));
    big[(3 << 20) - 1] ^= 1; /* the last byte of the last part */
    CHECK_EQ(store_put_record(s, "rec/big", big, 3 << 20, NULL), CKPT_CONFLICT);
    free(big);
    return 11;
}

struct racer {
    struct store *s;
    const char *key;
    char byte;
    enum ckpt_status st;
};

static void *race_main(void *arg)
{
    struct racer *r = arg;
    char bytes[100];
    memset(bytes, r->byte, sizeof(bytes));
    r->st = store_put_record(r->s, r->key, bytes, sizeof(bytes), NULL);
    return NULL;
}

/* 16 threads, one key: `alike` all succeed, otherwise exactly one. */
static void race(struct store *s, const char *key, bool alike)
{
    enum { N = 16 };
    struct racer racers[N];
    pthread_t threads[N];
    int won = 0;
    char held[100], winner = 0;
    for (int i = 0; i < N; i++) {
        racers[i] = (struct racer){ .key = key, .byte = alike ? 'A' : (char)('A' + i) };
        CHECK_OK(store_dup(s, &racers[i].s, NULL));
    }
    for (int i = 0; i < N; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, race_main, &racers[i]), 0);
    for (int i = 0; i < N; i++) {
        pthread_join(threads[i], NULL);
        CHECK(racers[i].st == CKPT_OK || racers[i].st == CKPT_CONFLICT);
        if (racers[i].st == CKPT_OK)
            won++, winner = racers[i].byte;
        store_close(racers[i].s);
    }
    CHECK_EQ(won, alike ? N : 1);
    memset(held, winner, sizeof(held));
    check_holds(s, key, held, sizeof(held));
}

static int test_racing_threads(struct store *s)
{
    char key[40];
    for (int i = 0; i < 6; i++) {
        snprintf(key, sizeof(key), "race/%d/x", i);
        race(s, key, i % 2);
    }
    return 6 * 16;
}

static int test_racing_processes(const struct contract *c, struct store *s)
{
    enum { N = 4, ROUNDS = TEST_COUNT(5) };
    if (!c->processes)
        return 0;
    for (int round = 0; round < ROUNDS; round++) {
        char key[40];
        pid_t pids[N];
        int won = 0;
        snprintf(key, sizeof(key), "procs/%d/x", round);
        for (int i = 0; i < N; i++) {
            pids[i] = fork();
            CHECK(pids[i] >= 0);
            if (pids[i] == 0) {
                struct racer r = { .s = open_or_die(c, false), .key = key, .byte = (char)(i + 1) };
                race_main(&r);
                _exit(r.st == CKPT_OK ? 0 : r.st == CKPT_CONFLICT ? 1 : 2);
            }
        }
        for (int i = 0; i < N; i++) {
            int status;
            CHECK(waitpid(pids[i], &status, 0) == pids[i] && WIFEXITED(status));
            CHECK(WEXITSTATUS(status) < 2);
            won += WEXITSTATUS(status) == 0;
        }
        CHECK_EQ(won, 1);
        struct store_stat stat;
        CHECK_OK(store_stat(s, key, &stat, NULL));
        CHECK_EQ(stat.bytes, 100);
    }
    return N * ROUNDS;
}

static const char *const tree[] = {
    "ls/a",     "ls/a.b",    "ls/a.b.c", "ls/a0",     "ls/aa/x", "ls/aa/y/deep/er/z",
    "ls/aa0",   "ls/b-/1",   "ls/b/1",   "ls/b/10",   "ls/b/2",  "ls/b0",
    "ls/c/d/e", "ls/c/d/e0", "ls/c/d.x", "ls/~last",  "ls0",     "lr",
    "ls/UPPER", "ls/sp ace", "ls/aa!/x", "ls/aa/y.z",
};

static int by_string(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* What a listing must give, from the table above, without cleverness. */
static size_t model(const char *prefix, bool one_level, const char *after, char out[][80])
{
    const char *sorted[ARRAY_COUNT(tree)];
    memcpy(sorted, tree, sizeof(tree));
    size_t count = 0, len = strlen(prefix);
    char all[ARRAY_COUNT(tree)][80];
    const char *ptrs[ARRAY_COUNT(tree)];
    qsort(sorted, ARRAY_COUNT(tree), sizeof(sorted[0]), by_string);
    for (size_t i = 0; i < ARRAY_COUNT(tree); i++) {
        snprintf(all[i], sizeof(all[i]), "%s", sorted[i]);
        char *slash = strncmp(all[i], prefix, len) == 0 ? strchr(all[i] + len, '/') : NULL;
        if (one_level && slash)
            slash[1] = 0;
        ptrs[i] = all[i];
    }
    qsort(ptrs, ARRAY_COUNT(tree), sizeof(ptrs[0]), by_string);
    for (size_t i = 0; i < ARRAY_COUNT(tree); i++) {
        if (strncmp(ptrs[i], prefix, len) != 0 || strcmp(ptrs[i], after) <= 0)
            continue;
        if (count == 0 || strcmp(out[count - 1], ptrs[i]) != 0)
            snprintf(out[count++], 80, "%s", ptrs[i]);
    }
    return count;
}

static void check_listing(struct store *s, const char *prefix, bool one_level, const char *from,
                          size_t cap)
{
    static struct store_entry page[32];
    char want[ARRAY_COUNT(tree)][80], after[STORE_KEY_MAX + 1];
    size_t wanted = model(prefix, one_level, from, want), got = 0, count;
    bool more = true;
    snprintf(after, sizeof(after), "%s", from);
    while (more) {
        CHECK_OK(store_list(s, prefix, one_level, after, page, cap, &count, &more, NULL));
        CHECK(!more || count == cap);
        for (size_t i = 0; i < count; i++, got++) {
            CHECK(got < wanted);
            CHECK_STR(page[i].key, want[got]);
            bool folded = page[i].key[strlen(page[i].key) - 1] == '/';
            CHECK_EQ(page[i].stat.bytes, folded ? UINT64_MAX : strlen(page[i].key));
            snprintf(after, sizeof(after), "%s", page[i].key);
        }
    }
    CHECK_EQ(got, wanted);
}

static int test_list(struct store *s)
{
    static const char *const prefixes[] = {
        "ls/", "ls/aa/", "ls/c/d/", "ls/none/", "ls/a/", "ls/b/"
    };
    static const char *const afters[] = { "",         "ls/a",      "ls/aa/", "ls/aa/x", "ls/aa/y/",
                                          "ls/c/d/e", "ls/aa/zzz", "zzz",    "ls/b" };
    int cases = 0;
    for (size_t i = 0; i < ARRAY_COUNT(tree); i++) {
        CHECK_OK(put(s, tree[i], tree[i], strlen(tree[i])));
    }
    for (size_t p = 0; p < ARRAY_COUNT(prefixes); p++) {
        for (size_t a = 0; a < ARRAY_COUNT(afters); a++) {
            for (size_t cap = 1; cap <= 32; cap = cap * 2 + 1) {
                check_listing(s, prefixes[p], true, afters[a], cap);
                check_listing(s, prefixes[p], false, afters[a], cap);
                cases += 2;
            }
        }
    }
    return cases;
}

static int test_remove(struct store *s)
{
    struct store_entry page[4];
    size_t count;
    bool more;
    CHECK_OK(store_remove(s, "rm/never", NULL));
    CHECK_OK(put(s, "rm/d/e/x", "x", 1));
    CHECK_OK(put(s, "rm/d/y", "y", 1));
    CHECK_OK(store_remove(s, "rm/d", NULL)); /* no object: not removed */
    CHECK_OK(store_remove(s, "rm/d/e/x", NULL));
    CHECK_OK(store_remove(s, "rm/d/e/x", NULL));
    CHECK_OK(store_list(s, "rm/d/", true, "", page, 4, &count, &more, NULL));
    CHECK_EQ(count, 1); /* no prefix without objects */
    CHECK_STR(page[0].key, "rm/d/y");
    CHECK_OK(store_remove(s, "rm/d/y", NULL));
    CHECK_OK(store_list(s, "rm/", true, "", page, 4, &count, &more, NULL));
    CHECK_EQ(count, 0);
    CHECK_OK(store_put_record(s, "rm/d/e/x", "new", 3, NULL));
    check_holds(s, "rm/d/e/x", "new", 3);
    return 5;
}

static int test_sync(struct store *s)
{
    CHECK_OK(put(s, "sync/a/b/x", "x", 1));
    CHECK_OK(store_sync(s, "sync/a/b/", NULL));
    CHECK_OK(store_sync(s, "sync/", NULL));
    CHECK_OK(store_sync(s, "sync/not/there/", NULL));
    CHECK_OK(store_sync(s, "", NULL));
    CHECK_EQ(store_sync(s, "sync", NULL), CKPT_BAD_NAME);
    return 5;
}

static int test_hostile_keys(struct store *s)
{
    char lengthy[STORE_KEY_MAX + 2], part[STORE_PART_MAX + 2];
    memset(lengthy, 'k', sizeof(lengthy));
    for (size_t i = 100; i < sizeof(lengthy); i += 101)
        lengthy[i] = '/';
    lengthy[sizeof(lengthy) - 1] = 0;
    memset(part, 'p', sizeof(part));
    part[sizeof(part) - 1] = 0;
    const char *const keys[] = { "",      "/",           "/abs", "a/",     "a//b",  ".",
                                 "..",    "a/..",        "../a", "a/./b",  "a\\b",  "a\nb",
                                 "a\x7f", "caf\xc3\xa9", ".tmp", ".tmp/x", lengthy, part };
    struct store_stat stat;
    struct store_entry page[1];
    struct store_range none = { 0 };
    size_t count;
    bool more;
    for (size_t i = 0; i < ARRAY_COUNT(keys); i++) {
        struct ckpt_err err = { 0 };
        CHECK_EQ(put(s, keys[i], "x", 1), CKPT_BAD_NAME);
        CHECK_EQ(store_put_record(s, keys[i], "x", 1, &err), CKPT_BAD_NAME);
        CHECK(err.text[0]);
        CHECK_EQ(store_get(s, keys[i], &none, 1, NULL), CKPT_BAD_NAME);
        CHECK_EQ(store_stat(s, keys[i], &stat, NULL), CKPT_BAD_NAME);
        CHECK_EQ(store_remove(s, keys[i], NULL), CKPT_BAD_NAME);
    }
    CHECK_EQ(store_list(s, "../", false, "", page, 1, &count, &more, NULL), CKPT_BAD_NAME);
    CHECK_EQ(store_list(s, "a", false, "", page, 1, &count, &more, NULL), CKPT_BAD_NAME);
    lengthy[STORE_KEY_MAX] = 0; /* now just as long as allowed */
    lengthy[STORE_KEY_MAX - 1] = 'k';
    part[STORE_PART_MAX] = 0;
    CHECK_OK(store_put_record(s, lengthy, "x", 1, NULL));
    check_holds(s, lengthy, "x", 1);
    CHECK_OK(store_remove(s, lengthy, NULL));
    CHECK_OK(put(s, "keys/.hidden..x", "x", 1));
    CHECK_OK(put(s, part, "x", 1));
    CHECK_OK(store_remove(s, part, NULL));
    return 5 * (int)ARRAY_COUNT(keys) + 5;
}

static int test_large(struct store *s)
{
    char *body = blocks(BIG), *got = blocks(BIG + 8192), *edge = blocks(8192);
    static const size_t heads[] = { 4096, 5000, 0 };
    fill(body, BIG, 4);
    fill(edge, 8192, 5);
    for (size_t i = 0; i < ARRAY_COUNT(heads); i++) {
        size_t head = heads[i], tail = 777, len = head + BIG + tail;
        struct iovec iov[3] = { { edge, head }, { body, BIG }, { edge + 1, tail } };
        CHECK_OK(store_put(s, "large/x", iov, 3, 0, NULL));
        memset(got, 0, len);
        struct store_range all = { 0, len, got };
        CHECK_OK(store_get(s, "large/x", &all, 1, NULL));
        CHECK(memcmp(got, edge, head) == 0);
        CHECK(memcmp(got + head, body, BIG) == 0);
        CHECK(memcmp(got + head + BIG, edge + 1, tail) == 0);
        memset(got, 0, len);
        struct store_range parts[3] = { { head, BIG / 2, got },
                                        { head + BIG / 2, BIG / 2, got + BIG / 2 },
                                        { head + BIG, tail, got + BIG } };
        CHECK_OK(store_get(s, "large/x", parts, 3, NULL));
        CHECK(memcmp(got, body, BIG) == 0);
        CHECK(memcmp(got + BIG, edge + 1, tail) == 0);
    }
    free(body);
    free(got);
    free(edge);
    return 2 * ARRAY_COUNT(heads);
}

static int test_limits(struct store *s)
{
    static const struct {
        int64_t deadline_ns;
        bool cancel;
        enum ckpt_status st;
    } cases[] = { { 1, false, CKPT_TIMEOUT }, { 0, true, CKPT_CANCELLED } };
    struct store_stat stat;
    struct store_entry page[1];
    size_t count;
    bool more;
    int64_t now;
    char b;
    struct store_range r = { 0, 1, &b };
    CHECK_OK(put(s, "limits/x", "x", 1));
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        atomic_bool cancel = cases[i].cancel;
        struct ckpt_err err = { 0 };
        store_set_limits(s, cases[i].deadline_ns, &cancel);
        CHECK_EQ(put(s, "limits/y", "y", 1), cases[i].st);
        CHECK_EQ(store_put_record(s, "limits/y", "y", 1, &err), cases[i].st);
        CHECK(err.text[0]);
        CHECK_EQ(store_get(s, "limits/x", &r, 1, NULL), cases[i].st);
        CHECK_EQ(store_stat(s, "limits/x", &stat, NULL), cases[i].st);
        CHECK_EQ(store_list(s, "limits/", false, "", page, 1, &count, &more, NULL), cases[i].st);
        CHECK_EQ(store_remove(s, "limits/x", NULL), cases[i].st);
        CHECK_EQ(store_sync(s, "limits/", NULL), cases[i].st);
        CHECK_EQ(store_now(s, &now, NULL), cases[i].st);
        store_set_limits(s, 0, NULL);
        check_holds(s, "limits/x", "x", 1);
        CHECK_EQ(store_stat(s, "limits/y", &stat, NULL), CKPT_NOT_FOUND);
    }
    return 16;
}

static void *cancel_main(void *arg)
{
    nanosleep(&(struct timespec){ .tv_nsec = 3000000 }, NULL);
    atomic_store((atomic_bool *)arg, true);
    return NULL;
}

/* Cancelled in the middle, an object is whole or not there. */
static int test_cancel_in_flight(struct store *s)
{
    char *body = blocks(BIG);
    fill(body, BIG, 6);
    atomic_bool cancel = false;
    pthread_t thread;
    store_set_limits(s, 0, &cancel);
    CHECK_EQ(pthread_create(&thread, NULL, cancel_main, &cancel), 0);
    enum ckpt_status st = put(s, "cancel/x", body, BIG);
    pthread_join(thread, NULL);
    store_set_limits(s, 0, NULL);
    CHECK(st == CKPT_OK || st == CKPT_CANCELLED);
    struct store_stat stat;
    if (st == CKPT_OK)
        check_holds(s, "cancel/x", body, BIG);
    else if (store_stat(s, "cancel/x", &stat, NULL) == CKPT_OK)
        CHECK_EQ(stat.bytes, BIG); /* a wrapper was cancelled after the put */
    free(body);
    return 1;
}

static int test_readonly(const struct contract *c, struct store *s)
{
    CHECK_OK(put(s, "ro/x", "x", 1));
    struct store *ro = open_or_die(c, true), *dup;
    struct ckpt_err err = { 0 };
    CHECK_OK(store_dup(ro, &dup, NULL));
    check_holds(ro, "ro/x", "x", 1);
    CHECK_EQ(put(ro, "ro/y", "y", 1), CKPT_DENIED);
    CHECK_EQ(store_put_record(ro, "ro/x", "x", 1, &err), CKPT_DENIED);
    CHECK(strstr(err.text, "ro/x"));
    CHECK_EQ(store_remove(ro, "ro/x", NULL), CKPT_DENIED);
    CHECK_EQ(put(dup, "ro/y", "y", 1), CKPT_DENIED);
    check_holds(dup, "ro/x", "x", 1);
    store_close(dup);
    store_close(ro);
    return 6;
}

struct replacer {
    struct store *s;
    atomic_bool stop;
    size_t len;
};

static void *replace_main(void *arg)
{
    struct replacer *r = arg;
    char *bytes = blocks(r->len);
    for (int i = 0; !atomic_load(&r->stop); i++) {
        memset(bytes, 'a' + i % 26, r->len);
        CHECK_OK(put(r->s, "live/x", bytes, r->len));
    }
    free(bytes);
    return NULL;
}

/* One get reads one version, while another handle replaces it. */
static int test_one_version(struct store *s)
{
    enum { READS = 60 };
    struct replacer r = { .len = 5 << 16 };
    pthread_t thread;
    char *got = blocks(r.len);
    memset(got, 'a', r.len);
    CHECK_OK(put(s, "live/x", got, r.len));
    CHECK_OK(store_dup(s, &r.s, NULL));
    CHECK_EQ(pthread_create(&thread, NULL, replace_main, &r), 0);
    for (int i = 0; i < READS; i++) {
        struct store_range parts[2] = { { 0, 1 << 16, got },
                                        { 1 << 16, 4 << 16, got + (1 << 16) } };
        CHECK_OK(store_get(s, "live/x", parts, 2, NULL));
        CHECK(memcmp(got, got + 1, r.len - 1) == 0);
    }
    atomic_store(&r.stop, true);
    pthread_join(thread, NULL);
    store_close(r.s);
    free(got);
    return READS;
}

static void *churn_main(void *arg)
{
    struct racer *r = arg;
    char key[64];
    for (int i = 0; i < 40; i++) {
        snprintf(key, sizeof(key), "churn/%d/%d", i % 2, r->byte);
        CHECK_OK(store_put_record(r->s, key, &r->byte, 1, NULL));
        CHECK_OK(store_remove(r->s, key, NULL));
    }
    return NULL;
}

/* Directories come and go under the feet of others. */
static int test_churn(struct store *s)
{
    enum { N = 4 };
    struct racer r[N];
    pthread_t threads[N];
    for (int i = 0; i < N; i++) {
        r[i] = (struct racer){ .byte = (char)i };
        CHECK_OK(store_dup(s, &r[i].s, NULL));
        CHECK_EQ(pthread_create(&threads[i], NULL, churn_main, &r[i]), 0);
    }
    for (int i = 0; i < N; i++) {
        pthread_join(threads[i], NULL);
        store_close(r[i].s);
    }
    return N * 40;
}

static int test_clock_and_text(const struct contract *c, struct store *s)
{
    const int64_t hour = INT64_C(3600) * 1000000000;
    struct store_stat stat;
    int64_t now;
    char text[256] = "";
    CHECK_OK(put(s, "clock/x", "x", 1));
    CHECK_OK(store_stat(s, "clock/x", &stat, NULL));
    CHECK_OK(store_now(s, &now, NULL));
    CHECK(stat.mtime_ns > now - hour && stat.mtime_ns < now + hour);
    store_to_text(s, text, sizeof(text));
    CHECK(strlen(text) > 4);
    store_to_text(s, text, 5);
    CHECK(strlen(text) < 5);
    struct store *again = open_or_die(c, false);
    check_holds(again, "clock/x", "x", 1);
    store_close(again);
    store_close(NULL);
    return 4;
}

int contract_run(const struct contract *c)
{
    struct store *s = open_or_die(c, false);
    int cases = test_sizes(s) + test_iovecs_and_ranges(s) + test_past_the_end(s) +
                test_not_there(s) + test_if_absent(s) + test_racing_threads(s) +
                test_racing_processes(c, s) + test_list(s) + test_remove(s) + test_sync(s) +
                test_hostile_keys(s) + test_large(s) + test_limits(s) + test_cancel_in_flight(s) +
                test_readonly(c, s) + test_one_version(s) + test_churn(s) +
                test_clock_and_text(c, s);
    store_close(s);
    printf("%s: %d cases\n", c->name, cases);
    return cases;
}
