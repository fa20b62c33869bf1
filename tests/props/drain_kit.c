/* A store that remembers puts; a drain by hand. */
#include "props/drain_kit.h"

#include "storage/repo/scrub.h"
#include "storage/store/wrap_pass.h"

struct tally_store {
    struct wrap wrap;
    struct tally *t;
};

bool tally_is_pack(const char *key)
{
    struct key_data_parts parts = { 0 };
    const char *d = strstr(key, "/d/"), *last = strrchr(key, '/');
    return d && key_parse_data(last + 1, &parts) == KEY_PACK;
}

static void remember(struct tally *t, const char *key, uint64_t bytes, bool named)
{
    size_t i = 0;
    while (i < t->count && strcmp(t->keys[i].key, key) != 0)
        i++;
    if (!t->keys)
        t->keys = calloc(TALLY_KEYS, sizeof(*t->keys));
    CHECK(i < TALLY_KEYS);
    if (i == t->count)
        snprintf(t->keys[t->count++].key, sizeof(t->keys[0].key), "%s", key);
    t->keys[i].puts++;
    t->keys[i].bytes += bytes;
    t->keys[i].named = named; /* records are at once */
    t->puts++;
    t->bytes += bytes;
}

/* The law of S1: what a record vouches for was named for good before.  `.h` and a manifest
 * vouch for their rank's packs, c/ and h/ for all. */
static void check_named(const struct tally *t, const char *key)
{
    struct key_data_parts record = { 0 };
    const char *last = strrchr(key, '/') + 1;
    bool part = strstr(key, "/d/") &&
                (key_parse_data(last, &record) == KEY_RANK_HELD || record.kind == KEY_MANIFEST);
    bool whole = strstr(key, "/c/") || strstr(key, "/h/");
    for (size_t i = 0; (part || whole) && i < t->count; i++) {
        struct key_data_parts at = { 0 };
        const char *name = strrchr(t->keys[i].key, '/') + 1;
        bool data = strstr(t->keys[i].key, "/d/") && key_parse_data(name, &at) != KEY_OTHER;
        if (!data || t->keys[i].named || (part && (at.kind != KEY_PACK || at.rank != record.rank)))
            continue;
        if (part ? strncmp(key, t->keys[i].key, (size_t)(last - key)) != 0
                 : !strstr(t->keys[i].key, last))
            continue; /* of another checkpoint */
        fprintf(stderr, "%s is put while %s may still be lost\n", key, t->keys[i].key);
        CHECK(t->keys[i].named);
    }
}

static enum ckpt_status tally_sync(struct store *s, const char *prefix, struct ckpt_err *err)
{
    struct tally *t = ((struct tally_store *)s)->t;
    enum ckpt_status st = wrap_pass_sync(s, prefix, err);
    for (size_t i = 0; st == CKPT_OK && i < t->count; i++)
        t->keys[i].named |= strncmp(t->keys[i].key, prefix, strlen(prefix)) == 0;
    return st;
}

static enum ckpt_status tally_put(struct store *s, const char *key, const struct iovec *iov,
                                  int count, unsigned flags, struct ckpt_err *err)
{
    struct tally *t = ((struct tally_store *)s)->t;
    if (t->before_put)
        t->before_put(t->arg, key);
    check_named(t, key);
    enum ckpt_status st = wrap_pass_put(s, key, iov, count, flags, err);
    if (st == CKPT_OK)
        remember(t, key, store_iov_bytes(iov, count), flags & STORE_IF_ABSENT);
    return st;
}

static const struct store_ops tally_ops = {
    .scheme = "tally",
    .put = tally_put,
    .get = wrap_pass_get,
    .stat = wrap_pass_stat,
    .list = wrap_pass_list,
    .remove = wrap_pass_remove,
    .sync = tally_sync,
    .now = wrap_pass_now,
    .to_text = wrap_pass_to_text,
    .close = wrap_pass_close,
};

struct store *tally_over(struct store *inner, struct tally *t)
{
    struct wrap *w;
    CHECK_OK(wrap_new(sizeof(struct tally_store), &tally_ops, inner, &w, NULL));
    ((struct tally_store *)w)->t = t;
    return &w->base;
}

void tally_fini(struct tally *t)
{
    free(t->keys);
    *t = (struct tally){ 0 };
}

size_t tally_more(const struct tally *t, const char *match, uint64_t most)
{
    size_t n = 0;
    for (size_t i = 0; i < t->count; i++)
        n += strstr(t->keys[i].key, match) && t->keys[i].puts > most;
    return n;
}

/* -- a drain --------------------------------------------------------------------------- */

static struct store *sources[1];

void drain_kit_init(struct drain_kit *k, struct store *from, struct store *to,
                    const struct ckpt_name *name)
{
    sources[0] = from;
    *k = (struct drain_kit){ .d = { .job = KIT_JOB,
                                    .name = *name,
                                    .home = from,
                                    .sources = sources,
                                    .source_count = 1,
                                    .to = to },
                             .w = drain_work_new(KIT_SLOT),
                             .steps = INT64_MAX };
    CHECK(k->w);
}

void drain_kit_fini(struct drain_kit *k)
{
    drain_work_free(k->w);
}

static bool out_of_steps(struct drain_kit *k)
{
    return k->steps-- <= 0;
}

static enum ckpt_status put_packs(struct drain_kit *k, struct drain_part *p, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    for (uint32_t i = 0; st == CKPT_OK && i < p->count; i++) {
        uint64_t bytes = 0;
        st = out_of_steps(k) ? CKPT_CANCELLED
                             : drain_pack(&k->d, k->w, p->rank, &p->packs[i], &bytes, err);
        p->there_bytes += bytes;
        k->packs += st == CKPT_OK;
    }
    return st;
}

enum ckpt_status drain_kit_drive(struct drain_kit *k, struct ckpt_err *err)
{
    struct record_commit commit;
    uint32_t rank = 0;
    enum ckpt_status st = out_of_steps(k) ? CKPT_CANCELLED : drain_open(&k->d, &commit, err);
    while (st == CKPT_OK) {
        struct drain_part p = { 0 };
        st = out_of_steps(k) ? CKPT_CANCELLED : drain_part(&k->d, commit.world, rank, &p, err);
        if (st == CKPT_OK && p.rank == commit.world)
            break;
        if (st == CKPT_OK)
            st = put_packs(k, &p, err);
        if (st == CKPT_OK)
            st =
                out_of_steps(k) ? CKPT_CANCELLED : drain_account(&k->d, p.rank, p.there_bytes, err);
        rank = p.rank + 1;
        free(p.packs);
    }
    if (st == CKPT_OK)
        st = out_of_steps(k) ? CKPT_CANCELLED : drain_finish(&k->d, &k->wait, err);
    return st;
}

enum ckpt_status drain_kit_verify(struct store *s, const char *job, const struct ckpt_name *name)
{
    struct scrub_report report = { 0 };
    struct ckpt_err err = { 0 };
    enum ckpt_status st = scrub_verify(s, job, name, CKPT_SLOT_BYTES_MAX, NULL, &report, &err);
    if (st != CKPT_OK)
        fprintf(stderr, "verify: %s: %s\n", status_name(st), err_text(&err));
    return st;
}
