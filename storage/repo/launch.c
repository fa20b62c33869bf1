/* One launch in the job's history: claim an epoch, resolve it, report (rules I1-I6).
 *
 *   claim       put-if-absent of the next epoch; racing launches get different ones
 *   SUPERSEDED  put under every lower claimed epoch that has not resolved, so that none of
 *               them can resolve to something older after us
 *   decide      what lower epochs left undecided
 *   resolved    what we continue from; from here on the older launch's saves are refused
 *   LIVE        if that was DELETED, it is brought back; GONE: this open fails (D2)
 *
 * A death between any two of these leaves an epoch without `resolved`, which counts as
 * nothing. */
#include "storage/repo/launch.h"

#include <inttypes.h>
#include <stdio.h>

#include "storage/repo/adopt.h"
#include "storage/repo/launch_nodes.h"
#include "storage/repo/life.h"

/* ---- claim ---- */

/* The newest launch with this token; NULL if nobody claimed with it. */
static const struct lineage_launch *claim_of(const struct lineage *l, const char *token)
{
    for (size_t i = 0; i < l->launch_count; i++)
        if (l->launches[i].claimed && strcmp(l->launches[i].token, token) == 0)
            return &l->launches[i];
    return NULL;
}

static enum ckpt_status put_claim(struct store *home, const struct launch_who *who, uint64_t epoch,
                                  struct ckpt_err *err)
{
    struct record_claim c = { .epoch = epoch, .world = who->world, .time_ns = who->time_ns };
    struct key key = key_claim(who->job, epoch);
    CLEANUP_BUF struct buf b = { 0 };
    struct ckpt_err lost = { 0 };
    snprintf(c.token, sizeof(c.token), "%s", who->token);
    memcpy(c.nonce, who->nonce, sizeof(c.nonce));
    memcpy(c.node, who->node, sizeof(c.node));
    record_claim_encode(&c, key.text, &b);
    enum ckpt_status st = repo_put(home, &key, &b, &lost);
    if (st == CKPT_OK || st == CKPT_CONFLICT)
        return st;
    return err_set(err, st, "%s", err_text(&lost));
}

/* *ret: the epoch that the process was in is its own. */
static enum ckpt_status is_own(struct store *home, const struct launch_who *who, bool *ret,
                               struct ckpt_err *err)
{
    struct key key = key_claim(who->job, who->was);
    struct record_claim c;
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    enum ckpt_status st = repo_get(home, &key, &bytes, &len, err);
    *ret = st == CKPT_OK && record_claim_decode(bytes, len, key.text, &c, NULL) == CKPT_OK &&
           strcmp(c.token, who->token) == 0 && memcmp(c.nonce, who->nonce, sizeof(c.nonce)) == 0;
    return st == CKPT_NOT_FOUND ? CKPT_OK : st;
}

/* One try over the claims there are; CKPT_CONFLICT: another launch was faster. */
static enum ckpt_status claim_once(struct store *home, const struct launch_who *who,
                                   const struct lineage *l, uint64_t *ret_epoch,
                                   struct ckpt_err *err)
{
    const struct lineage_launch *mine = claim_of(l, who->token);
    bool own = false;
    if (!mine && who->was > who->after) {
        enum ckpt_status st = is_own(home, who, &own, err);
        if (st == CKPT_OK && own)
            *ret_epoch = who->was;
        if (st != CKPT_OK || own)
            return st;
    }
    if (mine && memcmp(mine->nonce, who->nonce, sizeof(mine->nonce)) != 0)
        return err_set(err, CKPT_LAUNCH_REUSED,
                       "launch id \"%s\" of job %s was used by another process (epoch %" PRIu64
                       "): give every start of the job an id of its own",
                       who->token, who->job, mine->epoch);
    if (mine && mine->epoch > who->after) {
        /* Its writer may have been killed before the claim was named for good. */
        enum ckpt_status st = store_sync(home, key_launch(who->job, mine->epoch).text, err);
        if (st == CKPT_OK)
            *ret_epoch = mine->epoch;
        return st;
    }
    uint64_t newest = l->launch_count ? l->launches[0].epoch : 0;
    if (newest >= UINT64_MAX - 1)
        return err_set(err, CKPT_LIMIT, "job %s has used up its epochs", who->job);
    enum ckpt_status st = put_claim(home, who, newest + 1, err);
    if (st == CKPT_OK)
        *ret_epoch = newest + 1;
    return st;
}

enum ckpt_status launch_claim(struct store *home, const struct launch_who *who, uint64_t *ret_epoch,
                              struct ckpt_err *err)
{
    size_t len = strlen(who->token);
    if (len == 0 || len > RECORD_TOKEN_MAX)
        return err_set(err, CKPT_NO_LAUNCH, "a launch id has 1 to %d bytes, not %zu",
                       RECORD_TOKEN_MAX, len);
    enum ckpt_status st;
    do {
        CLEANUP_INDEX struct launch_index x = { 0 };
        struct lineage l = { 0 };
        st = launch_list(home, who->job, &x, err);
        if (st == CKPT_OK)
            st = launch_read_claims(home, who->job, &x, LAUNCH_OWN_CLAIMS, &l, err);
        if (st == CKPT_OK)
            st = claim_once(home, who, &l, ret_epoch, err);
        lineage_fini(&l);
    } while (st == CKPT_CONFLICT);
    return st;
}

struct finding {
    struct store *s;
    const char *job, *token;
    size_t prefix_len;
    unsigned looked;
    uint64_t floor, newest, found;
    bool any;
    struct ckpt_err *err;
};

/* Newest first; a damaged claim is nobody's. */
static enum ckpt_status find_each(void *arg, const struct store_entry *e)
{
    struct finding *f = arg;
    const char *at = e->key + f->prefix_len;
    char digits[17] = "";
    struct record_claim claim;
    uint64_t epoch;
    if (strlen(at) != 22 || strcmp(at + 16, "/claim") != 0)
        return CKPT_OK;
    memcpy(digits, at, 16);
    if (!key_number_parse(digits, &epoch))
        return CKPT_OK;
    if (epoch <= f->floor || f->looked++ == LAUNCH_FIND_CLAIMS)
        return CKPT_CANCELLED;
    f->newest = max_u64(f->newest, epoch);
    struct key key = key_claim(f->job, epoch);
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    enum ckpt_status st = repo_get_listed(f->s, &key, e->stat.bytes, &bytes, &len, f->err);
    if (st == CKPT_OK && record_claim_decode(bytes, len, key.text, &claim, NULL) == CKPT_OK &&
        strcmp(claim.token, f->token) == 0) {
        f->found = epoch;
        f->any = true;
        return CKPT_CANCELLED;
    }
    return st == CKPT_NOT_FOUND ? CKPT_OK : st;
}

enum ckpt_status launch_find(struct store *home, const char *job, const char *token,
                             uint64_t *floor, uint64_t *ret_epoch, struct ckpt_err *err)
{
    enum ckpt_status st = job_name_check(job, err);
    if (st != CKPT_OK)
        return st;
    struct key prefix = key_launches(job);
    struct finding f = { .s = home,
                         .job = job,
                         .token = token,
                         .prefix_len = strlen(prefix.text),
                         .floor = *floor,
                         .newest = *floor,
                         .err = err };
    st = repo_list(home, prefix.text, false, find_each, &f, err);
    if (st != CKPT_OK)
        return st;
    if (!f.any) {
        *floor = f.newest;
        return CKPT_NOT_FOUND;
    }
    *ret_epoch = f.found;
    return CKPT_OK;
}

/* ---- resolved ---- */

enum ckpt_status launch_resolved(struct store *home, const char *job, uint64_t epoch,
                                 struct record_resolved *ret, struct ckpt_err *err)
{
    struct key key = key_resolved(job, epoch);
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    enum ckpt_status st = repo_get(home, &key, &bytes, &len, err);
    return st == CKPT_OK ? record_resolved_decode(bytes, len, key.text, ret, err) : st;
}

/* CKPT_CONFLICT without words: there is another. */
static enum ckpt_status put_resolved(struct store *home, const char *job, struct record_resolved *r,
                                     struct ckpt_err *err)
{
    struct key key = key_resolved(job, r->epoch);
    CLEANUP_BUF struct buf b = { 0 };
    struct ckpt_err lost = { 0 };
    enum ckpt_status st = store_now(home, &r->time_ns, err);
    if (st != CKPT_OK)
        return st;
    record_resolved_encode(r, key.text, &b);
    st = repo_put(home, &key, &b, &lost);
    if (st == CKPT_OK || st == CKPT_CONFLICT)
        return st;
    return err_set(err, st, "%s", err_text(&lost));
}

static enum ckpt_status superseded(const char *job, uint64_t epoch, struct ckpt_err *err)
{
    return err_set(err, CKPT_SUPERSEDED,
                   "launch %" PRIu64 " of job %s: a newer launch has taken over", epoch, job);
}

/* The next lower launch of which no `resolved` is listed. */
static bool next_unresolved(const struct launch_index *x, uint64_t *epoch)
{
    for (size_t i = 0, end; i < x->count; i = end) {
        uint64_t e = x->records[i].epoch;
        bool resolved = false;
        for (end = i; end < x->count && x->records[end].epoch == e; end++)
            resolved |= strcmp(x->records[end].what, "resolved") == 0;
        if (e < *epoch && !resolved) {
            *epoch = e;
            return true;
        }
    }
    return false;
}

/* Shuts out every lower epoch that was claimed and has not resolved.  Losing to its own
 * `resolved` is as good: it is in the index afterwards, and read.  *ret_any: so listings that
 * were taken before may be too old. */
static enum ckpt_status shut_out_lower(struct store *home, const char *job, uint64_t epoch,
                                       struct launch_index *x, bool *ret_any, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    *ret_any = false;
    for (uint64_t e = epoch; st == CKPT_OK && next_unresolved(x, &e);) {
        struct record_resolved r = { .epoch = e, .kind = RESOLVED_SUPERSEDED };
        snprintf(r.why, sizeof(r.why), "launch %" PRIu64 " took over before this one had resolved",
                 epoch);
        *ret_any = true;
        st = put_resolved(home, job, &r, err);
        if (st == CKPT_OK || st == CKPT_CONFLICT)
            st = launch_index_add(
                x, &(struct launch_record){ .epoch = e, .bytes = UINT64_MAX, .what = "resolved" },
                err);
    }
    return st;
}

/* What stands under the own epoch; CKPT_NOT_FOUND: nothing yet. */
static enum ckpt_status find_own(struct store *home, const char *job, uint64_t epoch,
                                 struct record_resolved *ret, struct ckpt_err *err)
{
    struct record_resolved r;
    enum ckpt_status st = launch_resolved(home, job, epoch, &r, err);
    if (st != CKPT_OK)
        return st;
    if (r.kind == RESOLVED_SUPERSEDED) {
        record_resolved_fini(&r);
        return superseded(job, epoch, err);
    }
    st = store_sync(home, key_launch(job, epoch).text, err); /* as with a claim found again */
    if (st != CKPT_OK) {
        record_resolved_fini(&r);
        return st;
    }
    *ret = r;
    return CKPT_OK;
}

/* What failed is no trouble of the home's, so that to ask it again is no use. */
static void note_elsewhere(const struct launch_reach *reach)
{
    if (reach->ret_elsewhere)
        *reach->ret_elsewhere = true;
}

static enum ckpt_status pick_and_put(struct store *home, const char *job, uint64_t epoch,
                                     const struct lineage_wish *wish, const struct launch_index *x,
                                     struct launch_listings *at, const struct roster *also,
                                     const struct launch_reach *reach, struct record_resolved *ret,
                                     struct ckpt_err *err)
{
    const char *unheard = reach ? reach->unheard : NULL;
    struct lineage_wish mine = *wish;
    struct record_resolved r = { 0 };
    mine.below = epoch;
    enum ckpt_status st = launch_pick(home, job, x, at, also, &mine, &r, err);
    if (st == CKPT_OK && r.kind == RESOLVED_NOTHING && !r.forced && unheard) {
        note_elsewhere(reach);
        st = err_set(err, CKPT_UNREACHABLE,
                     "%s has no checkpoint of job %s, and %s, which may have, cannot be reached: "
                     "mend that, or set CKPT_RESUME to \"none\" to start at the beginning",
                     home->url, job, unheard);
    }
    if (st != CKPT_OK) {
        record_resolved_fini(&r);
        return st;
    }
    st = put_resolved(home, job, &r, err);
    if (st == CKPT_OK) {
        *ret = r;
        return CKPT_OK;
    }
    record_resolved_fini(&r);
    return st == CKPT_CONFLICT ? find_own(home, job, epoch, ret, err) : st;
}

/* *ret: somebody else's launch has resolved to this epoch. */
static enum ckpt_status is_others(struct store *home, const char *job, uint64_t epoch,
                                  const char *token, bool *ret, struct ckpt_err *err)
{
    struct record_resolved r;
    struct record_claim c;
    struct key key = key_claim(job, epoch);
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    enum ckpt_status st = launch_resolved(home, job, epoch, &r, err);
    *ret = false;
    if (st != CKPT_OK)
        return st == CKPT_NOT_FOUND ? CKPT_OK : st;
    bool shut_out = r.kind == RESOLVED_SUPERSEDED;
    record_resolved_fini(&r);
    if (shut_out)
        return CKPT_OK;
    st = repo_get(home, &key, &bytes, &len, err);
    if (st == CKPT_OK)
        st = record_claim_decode(bytes, len, key.text, &c, err);
    *ret = st == CKPT_NOT_FOUND || (st == CKPT_OK && strcmp(c.token, token) != 0);
    return st == CKPT_NOT_FOUND ? CKPT_OK : st;
}

/* A launch that was superseded does not take the job back by going back in it: its epochs are
 * the highest, but they are no newer start.  Every lower epoch is decided here, so who is not
 * found here has not resolved, and will not. */
static enum ckpt_status still_ours(struct store *home, const char *job, uint64_t epoch,
                                   const struct launch_reach *reach, const struct launch_index *x,
                                   struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    bool others = false;
    for (size_t i = 0; i < x->count && st == CKPT_OK && !others; i++) {
        const struct launch_record *record = &x->records[i];
        if (record->epoch > reach->leaves && record->epoch < epoch &&
            strcmp(record->what, "resolved") == 0)
            st = is_others(home, job, record->epoch, reach->token, &others, err);
    }
    if (st != CKPT_OK || !others)
        return st;
    struct record_resolved r = { .epoch = epoch, .kind = RESOLVED_SUPERSEDED };
    snprintf(r.why, sizeof(r.why), "it went back after a newer launch had taken over");
    st = put_resolved(home, job, &r, err);
    return st == CKPT_OK || st == CKPT_CONFLICT ? superseded(job, epoch, err) : st;
}

/* D2: whoever deleted it before we wrote `resolved` did not see us; whoever deletes it
 * from now on does. */
static enum ckpt_status bring_back(struct store *home, const char *job,
                                   const struct record_resolved *r, struct ckpt_err *err)
{
    struct ckpt_err why = { 0 };
    if (r->kind != RESOLVED_POINT)
        return CKPT_OK;
    enum ckpt_status st = life_undelete(home, job, &r->name, "a launch resumes from it", &why);
    if (st == CKPT_NOT_FOUND)
        return err_set(err, CKPT_REFUSED,
                       "step %" PRIu64 " of epoch %" PRIu64
                       " was removed for good while launch %" PRIu64
                       " resolved to it: start the job again",
                       r->name.step, r->name.epoch, r->epoch);
    return st == CKPT_OK ? CKPT_OK : err_set(err, st, "%s", err_text(&why));
}

enum ckpt_status launch_resolve(struct store *home, const char *job, uint64_t epoch,
                                const struct lineage_wish *wish, struct record_resolved *ret,
                                struct ckpt_err *err)
{
    return launch_resolve_with(home, job, epoch, wish, NULL, ret, err);
}

/* *ret: all that can be restored beside what the home holds. */
static enum ckpt_status within_reach(struct store *home, const char *job,
                                     const struct launch_reach *reach,
                                     const struct launch_listings *at, struct roster *ret,
                                     struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    bool tier = false;
    if (reach && reach->tier)
        st = launch_hold(home, reach->tier, job, &at->commits, &tier, err);
    if (st == CKPT_OK && reach && reach->tier) {
        st = adopt_held(reach->tier, job, ret, err);
        tier = st != CKPT_OK;
    }
    if (tier)
        note_elsewhere(reach);
    return st == CKPT_OK && reach && reach->also ? roster_merge(ret, reach->also, err) : st;
}

/* What is listed first is older than what follows, so that nothing is missing between: the
 * launches, then what they have decided.  Unless a launch had to be shut out: it may have
 * resolved and committed since. */
static enum ckpt_status resolve_anew(struct store *home, const char *job, uint64_t epoch,
                                     const struct lineage_wish *wish,
                                     const struct launch_reach *reach, struct launch_index *x,
                                     struct record_resolved *ret, struct ckpt_err *err)
{
    CLEANUP_ROSTER struct roster also = { 0 };
    struct launch_listings at = { 0 };
    bool pending = false, shut = false;
    enum ckpt_status st = launch_decide(home, job, epoch, &at, err);
    if (st == CKPT_OK && reach && reach->nodes)
        st = launch_nodes_pending(job, reach->nodes, reach->also, &at, &pending, err);
    if (st == CKPT_OK && pending) {
        *reach->ret_pending = true;
    } else if (st == CKPT_OK) {
        st = shut_out_lower(home, job, epoch, x, &shut, err);
        if (st == CKPT_OK && reach && reach->leaves)
            st = still_ours(home, job, epoch, reach, x, err);
        if (st == CKPT_OK && shut) {
            launch_listings_fini(&at);
            st = launch_decide(home, job, epoch, &at, err);
        }
        if (st == CKPT_OK)
            st = within_reach(home, job, reach, &at, &also, err);
        if (st == CKPT_OK)
            st = pick_and_put(home, job, epoch, wish, x, &at, &also, reach, ret, err);
    }
    launch_listings_fini(&at);
    return st;
}

enum ckpt_status launch_resolve_with(struct store *home, const char *job, uint64_t epoch,
                                     const struct lineage_wish *wish,
                                     const struct launch_reach *reach, struct record_resolved *ret,
                                     struct ckpt_err *err)
{
    struct record_resolved r = { 0 };
    CLEANUP_INDEX struct launch_index anew = { 0 };
    struct launch_index *x = reach && reach->launches ? reach->launches : &anew;
    enum ckpt_status st = x == &anew ? launch_list(home, job, x, err) : CKPT_OK;
    if (st == CKPT_OK && launch_index_has(x, epoch, "resolved"))
        st = find_own(home, job, epoch, &r, err);
    else if (st == CKPT_OK)
        st = resolve_anew(home, job, epoch, wish, reach, x, &r, err);
    if (st != CKPT_OK)
        return st;
    st = bring_back(home, job, &r, err);
    if (st != CKPT_OK) {
        record_resolved_fini(&r);
        return st;
    }
    *ret = r;
    return CKPT_OK;
}

/* ---- the newest ---- */

struct newest {
    struct store *s;
    const char *job;
    size_t prefix_len;
    struct record_resolved found;
    bool any;
    struct ckpt_err *err;
};

static enum ckpt_status newest_each(void *arg, const struct store_entry *e)
{
    struct newest *n = arg;
    const char *at = e->key + n->prefix_len;
    char digits[17];
    uint64_t epoch;
    if (strlen(at) < 17 || strcmp(at + 16, "/resolved") != 0)
        return CKPT_OK;
    memcpy(digits, at, 16);
    digits[16] = 0;
    if (!key_number_parse(digits, &epoch))
        return CKPT_OK;
    enum ckpt_status st = launch_resolved(n->s, n->job, epoch, &n->found, n->err);
    if (st != CKPT_OK)
        return st == CKPT_NOT_FOUND ? CKPT_OK : st;
    if (n->found.kind == RESOLVED_SUPERSEDED) {
        record_resolved_fini(&n->found);
        return CKPT_OK;
    }
    n->any = true;
    return CKPT_CANCELLED; /* newest first: enough */
}

enum ckpt_status launch_newest(struct store *home, const char *job, struct record_resolved *ret,
                               struct ckpt_err *err)
{
    struct key prefix = key_launches(job);
    struct newest n = { .s = home, .job = job, .prefix_len = strlen(prefix.text), .err = err };
    enum ckpt_status st = repo_list(home, prefix.text, false, newest_each, &n, err);
    if (st != CKPT_OK || !n.any) {
        if (n.any)
            record_resolved_fini(&n.found);
        return st == CKPT_OK ? CKPT_NOT_FOUND : st;
    }
    *ret = n.found;
    return CKPT_OK;
}

enum ckpt_status launch_names(struct store *home, const char *job, const struct ckpt_name *name,
                              bool *ret, struct ckpt_err *err)
{
    struct record_resolved r;
    enum ckpt_status st = launch_newest(home, job, &r, err);
    if (st != CKPT_OK && st != CKPT_NOT_FOUND)
        return st;
    *ret = st == CKPT_OK && r.kind == RESOLVED_POINT && name_equal(&r.name, name);
    if (st == CKPT_OK)
        record_resolved_fini(&r);
    return CKPT_OK;
}

enum ckpt_status launch_current(struct store *home, const char *job, uint64_t epoch,
                                struct ckpt_err *err)
{
    struct record_resolved r;
    enum ckpt_status st = launch_newest(home, job, &r, err);
    if (st == CKPT_NOT_FOUND)
        return CKPT_OK;
    if (st != CKPT_OK)
        return st;
    bool newer = r.epoch > epoch;
    record_resolved_fini(&r);
    return newer ? superseded(job, epoch, err) : CKPT_OK;
}

/* ---- reports ---- */

/* Reports are for whoever comes next; a second one of the same key changes nothing. */
static enum ckpt_status put_report(struct store *home, const struct key *key, const struct buf *b,
                                   struct ckpt_err *err)
{
    struct ckpt_err lost = { 0 };
    enum ckpt_status st = repo_put(home, key, b, &lost);
    if (st == CKPT_OK || st == CKPT_CONFLICT)
        return CKPT_OK;
    return err_set(err, st, "%s", err_text(&lost));
}

enum ckpt_status launch_put_step(struct store *home, const char *job, enum record_kind kind,
                                 const struct record_step *r, struct ckpt_err *err)
{
    struct key key =
        kind == RECORD_RESTORED ? key_restored(job, r->epoch) : key_progress(job, r->epoch);
    CLEANUP_BUF struct buf b = { 0 };
    record_step_encode(kind, r, key.text, &b);
    return put_report(home, &key, &b, err);
}

enum ckpt_status launch_put_bad(struct store *home, const char *job, const struct record_bad *r,
                                struct ckpt_err *err)
{
    struct key key = key_bad(job, r->epoch, r->rank);
    CLEANUP_BUF struct buf b = { 0 };
    record_bad_encode(r, key.text, &b);
    return put_report(home, &key, &b, err);
}
