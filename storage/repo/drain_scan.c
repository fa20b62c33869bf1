/* Which checkpoints of a job are to go.  Listings say what there is, what is held, what was
 * deleted or dropped there, what has tags, what is begun and what lies here; a commit is read only
 * when it decides (every=), and then by one scan and not by each. */
#include "storage/repo/adopt.h"
#include "storage/repo/drain_impl.h"
#include "storage/repo/life.h"
#include "storage/repo/tags.h"

/* --- what was read before -------------------------------------------------------- */

static int order_ids(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct digest));
}

void drain_passed_begin(struct drain_passed *p, const struct policy *policy, size_t most)
{
    if (p->every_steps != policy->every_steps)
        p->count = 0;
    p->every_steps = policy->every_steps;
    p->sorted = p->count;
    p->most = most;
    for (size_t i = 0; i < p->count; i++)
        p->list[i].seen = false;
}

void drain_passed_end(struct drain_passed *p, bool whole)
{
    size_t kept = 0;
    for (size_t i = 0; i < p->count; i++)
        if (!whole || p->list[i].seen)
            p->list[kept++] = p->list[i];
    if (kept)
        qsort(p->list, kept, sizeof(*p->list), order_ids);
    p->count = p->sorted = kept;
}

void drain_passed_fini(struct drain_passed *p)
{
    free(p->list);
    *p = (struct drain_passed){ 0 };
}

static struct digest id_of(const struct drain *d)
{
    struct key key = key_commit(d->job, &d->name);
    return digest_of(key.text, strlen(key.text));
}

/* True if an earlier scan has passed it over. */
static bool passed_before(struct drain_passed *p, const struct digest *id)
{
    struct drain_pass *found =
        p && p->sorted ? bsearch(id, p->list, p->sorted, sizeof(*p->list), order_ids) : NULL;
    if (found)
        found->seen = true;
    return found;
}

/* What finds no room is read again by the next scan. */
static void pass_over(struct drain_passed *p, const struct digest *id)
{
    if (!p || p->count >= p->most)
        return;
    if (p->count == p->cap) {
        size_t cap = p->cap ? 2 * p->cap : 256;
        struct drain_pass *grown = realloc(p->list, cap * sizeof(*grown));
        if (!grown)
            return;
        p->list = grown;
        p->cap = cap;
    }
    p->list[p->count++] = (struct drain_pass){ .id = *id, .seen = true };
}

/* --- choosing -------------------------------------------------------------------- */

struct scan {
    const struct drain *d;
    struct roster commits, lives, held;
    struct roster copies; /* of which the tier's own copy was dropped, or is about to be */
    struct roster tagged; /* now or once; empty if the policy does not ask */
    bool apart;           /* packs lie in another store than commits: */
    struct roster here;   /* of which anything lies there */
    struct roster begun;  /* of which anything lies in the tier; empty if the policy takes all */
    struct ckpt_name *ret;
    size_t cap, count;
    bool more;
};

/* CKPT_NOT_PLANNED without words: not this one.  taken: whatever the commit says. */
static enum ckpt_status ask_commit(const struct drain *d, bool taken, struct ckpt_err *err)
{
    struct digest id = id_of(d);
    struct record_commit commit;
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    if (!taken && (!d->policy->every_steps || passed_before(d->passed, &id)))
        return CKPT_NOT_PLANNED;
    enum ckpt_status st = drain_read_commit(d, &commit, &bytes, &len, err);
    if (st == CKPT_OK && !taken && !policy_wants(d->policy, &commit, false, false)) {
        pass_over(d->passed, &id);
        return CKPT_NOT_PLANNED;
    }
    bool here = false;
    for (uint32_t rank = 0; st == CKPT_OK && !here && rank < commit.world; rank++)
        st = drain_is_there(d->sources[0], key_rank_held(d->job, &d->name, rank), &here, err);
    return st != CKPT_OK || here ? st : CKPT_NOT_PLANNED;
}

/* D5: the tier has dropped it for good, which one scan reads. */
static enum ckpt_status is_dropped(const struct scan *s, const struct ckpt_name *name, bool *ret,
                                   struct ckpt_err *err)
{
    const struct roster_entry *log = roster_find(&s->copies, name);
    enum life life;
    uint64_t n;
    *ret = false;
    if (!log)
        return CKPT_OK;
    struct key key = key_life(s->d->job, name, true, log->n);
    struct digest id = digest_of(key.text, strlen(key.text));
    *ret = passed_before(s->d->passed, &id);
    if (*ret)
        return CKPT_OK;
    enum ckpt_status st = life_look(s->d->to, s->d->job, name, true, &life, &n, NULL, err);
    *ret = st == CKPT_OK && life == LIFE_GONE;
    if (*ret && n == log->n)
        pass_over(s->d->passed, &id);
    return st;
}

/* The same. */
static enum ckpt_status consider(const struct scan *s, const struct roster_entry *e, bool newest,
                                 struct ckpt_err *err)
{
    struct drain d = *s->d;
    struct ckpt_err why = { 0 };
    enum ckpt_status st = CKPT_OK;
    bool dropped = false;
    if (s->apart && !roster_find(&s->here, &e->name))
        return CKPT_NOT_PLANNED;
    d.name = e->name;
    st = is_dropped(s, &e->name, &dropped, err);
    if (st != CKPT_OK || dropped)
        return dropped ? CKPT_NOT_PLANNED : st;
    bool taken = !d.policy || policy_takes(d.policy, false, d.last && newest) ||
                 roster_find(&s->begun, &e->name);
    if (!taken && roster_find(&s->tagged, &e->name))
        st = tags_any(d.home, d.job, &e->name, &taken, &why);
    if (st == CKPT_OK)
        st = ask_commit(&d, taken, &why);
    if (st == CKPT_OK || st == CKPT_NOT_PLANNED)
        return st;
    if (st == CKPT_ABORTED || st == CKPT_CORRUPT)
        return CKPT_NOT_PLANNED;
    return err_set(err, st, "%s", err_text(&why));
}

static enum ckpt_status choose(struct scan *s, struct ckpt_err *err)
{
    bool newest = true;
    for (size_t i = 0; i < s->commits.count; i++) {
        const struct roster_entry *e = &s->commits.entries[i];
        enum life life = LIFE_LIVE;
        uint64_t n;
        enum ckpt_status st = CKPT_OK;
        if (roster_is_abort(e))
            continue;
        if (roster_find(&s->lives, &e->name))
            st = life_look(s->d->home, s->d->job, &e->name, false, &life, &n, NULL, err);
        if (st != CKPT_OK)
            return st;
        if (life != LIFE_LIVE)
            continue;
        bool candidate = !roster_find(&s->held, &e->name);
        st = candidate ? consider(s, e, newest, err) : CKPT_NOT_PLANNED;
        newest = false;
        if (st == CKPT_NOT_PLANNED)
            continue;
        if (st != CKPT_OK)
            return st;
        if (s->count == s->cap) {
            s->more = true;
            return CKPT_OK;
        }
        s->ret[s->count++] = e->name;
    }
    return CKPT_OK;
}

enum ckpt_status drain_scan(const struct drain *d, struct ckpt_name *ret, size_t cap,
                            size_t *ret_count, bool *ret_more, struct ckpt_err *err)
{
    struct scan s = { .d = d, .ret = ret, .cap = cap, .apart = d->sources[0] != d->home };
    struct roster *copies = d->to == d->home ? &s.copies : NULL;
    enum ckpt_status st = roster_commits(d->home, d->job, &s.commits, err);
    if (st == CKPT_OK)
        st = roster_logs(d->home, d->job, &s.lives, copies, err);
    if (st == CKPT_OK)
        st = roster_helds(d->to, d->job, &s.held, err);
    if (st == CKPT_OK && !copies)
        st = roster_copies(d->to, d->job, &s.copies, err);
    if (st == CKPT_OK && s.held.count > 0 && d->to != d->home)
        st = adopt_tags(d->home, d->to, d->job, err);
    if (st == CKPT_OK && d->policy && d->policy->tagged)
        st = roster_tagged(d->home, d->job, &s.tagged, err);
    if (st == CKPT_OK && d->policy && d->policy->some && d->to != d->home)
        st = roster_data(d->to, d->job, &s.begun, err);
    if (st == CKPT_OK && s.apart) /* behind c/: parts are there before their commit is */
        st = roster_data(d->sources[0], d->job, &s.here, err);
    if (st == CKPT_OK)
        st = choose(&s, err);
    roster_fini(&s.commits);
    roster_fini(&s.lives);
    roster_fini(&s.held);
    roster_fini(&s.copies);
    roster_fini(&s.tagged);
    roster_fini(&s.here);
    roster_fini(&s.begun);
    *ret_count = s.count;
    *ret_more = s.more;
    return st;
}
