/* The newest checkpoint of a job without reading its history, when nothing is unusual:
 *
 *     l/   listed as far as the newest launch that resolved, E   nobody of it reports anything bad
 *     h/   its first entry                                       a checkpoint of E
 *     x/   of that one                                           has no log: it was never deleted
 *
 * Then it is what lineage_pick takes: the highest step of the newest resolved launch that is
 * held and alive.  No launch can have died on it or found it damaged, since that would be one
 * that resolved later.  That `resolved` of E is no SUPERSEDED follows from the checkpoint (a
 * launch that was shut out saves nothing), and c/ from h/, which comes after it and goes before
 * it.  Anything else is left to those who read everything. */
#include "storage/repo/catalog.h"
#include "storage/repo/life.h"

struct newest_launch {
    size_t prefix_len;
    uint64_t epoch; /* of the newest `resolved` */
    bool resolved;  /* and nothing bad was reported down to it */
};

/* Keys come newest epoch first; within one, bad reports before `resolved`. */
static enum ckpt_status look_at_launch(void *arg, const struct store_entry *e)
{
    struct newest_launch *l = arg;
    const char *at = e->key + l->prefix_len;
    char digits[17];
    uint64_t epoch;
    if (strlen(at) < 18 || at[16] != '/')
        return CKPT_OK;
    memcpy(digits, at, 16);
    digits[16] = 0;
    if (!key_number_parse(digits, &epoch))
        return CKPT_OK;
    l->resolved = strcmp(at + 17, "resolved") == 0;
    l->epoch = epoch;
    return l->resolved || strncmp(at + 17, "bad-", 4) == 0 ? CKPT_CANCELLED : CKPT_OK;
}

/* The newest name under h/; false when there is none, or something else comes first. */
static enum ckpt_status first_held(struct store *s, const char *job, bool *ret_there,
                                   struct ckpt_name *ret, struct ckpt_err *err)
{
    struct key prefix = key_helds(job);
    CLEANUP_FREE struct store_entry *e = malloc(sizeof(*e));
    size_t count = 0;
    bool more;
    if (!e)
        return err_set(err, CKPT_NO_MEMORY, "no memory to list %s", prefix.text);
    enum ckpt_status st = store_list(s, prefix.text, false, "", e, 1, &count, &more, err);
    if (st != CKPT_OK)
        return st;
    const char *at = count ? e->key + strlen(prefix.text) : "";
    *ret_there = strlen(at) == NAME_TEXT - 1 && name_parse(at, NAME_TEXT - 1, ret);
    return CKPT_OK;
}

enum ckpt_status catalog_newest(struct store *s, const char *job, bool *ret_found,
                                struct ckpt_name *ret, struct ckpt_err *err)
{
    struct key launches = key_launches(job);
    struct newest_launch l = { .prefix_len = strlen(launches.text) };
    struct ckpt_name name = { 0 };
    bool there = false;
    *ret_found = false;
    enum ckpt_status st = repo_list(s, launches.text, false, look_at_launch, &l, err);
    if (st != CKPT_OK || !l.resolved)
        return st;
    st = first_held(s, job, &there, &name, err);
    if (st != CKPT_OK || !there || name.epoch != l.epoch)
        return st;
    enum life life = LIFE_GONE;
    uint64_t n = 0;
    struct ckpt_err why = { 0 };
    st = life_look(s, job, &name, false, &life, &n, NULL, &why);
    if (st != CKPT_OK) /* a damaged log is no failure: who reads everything passes over it */
        return st == CKPT_CORRUPT ? CKPT_OK : err_set(err, st, "%s", err_text(&why));
    *ret_found = life == LIFE_LIVE;
    if (*ret_found)
        *ret = name;
    return CKPT_OK;
}
