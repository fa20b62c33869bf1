/* Reading the records of all launches of a job: what lineage.c decides over.
 *
 * Four listings say what there is (l/ c/ x/ h/); only records that are there are read. */
#include <stdio.h>

#include "storage/repo/launch.h"
#include "storage/repo/life.h"
#include "storage/repo/roster.h"

struct reading {
    struct store *s;
    const char *job;
    struct lineage *l;
    size_t cap;
    struct lineage_launch *launch; /* whose record is read */
    const struct roster *also;     /* what other tiers hold */
    struct ckpt_err *err;
};

static bool is_resolved(const struct launch_record *record)
{
    return strcmp(record->what, "resolved") == 0;
}

static bool is_bad(const struct launch_record *record)
{
    return strncmp(record->what, "bad-", 4) == 0;
}

static struct key record_key(const char *job, const struct launch_record *record)
{
    struct key key = key_launch(job, record->epoch);
    size_t len = strlen(key.text);
    snprintf(key.text + len, sizeof(key.text) - len, "%s", record->what);
    return key;
}

/* A damaged report must not keep a job from starting: it counts as not there.  (A damaged
 * `resolved` is another matter: without it the branch is not known.) */
static enum ckpt_status tolerate(enum ckpt_status st, const struct ckpt_err *why,
                                 struct ckpt_err *err)
{
    if (st == CKPT_OK || st == CKPT_NOT_FOUND || st == CKPT_CORRUPT)
        return CKPT_OK;
    return err_set(err, st, "%s", err_text(why));
}

static enum ckpt_status read_claim(struct reading *r, const struct key *key, const void *bytes,
                                   size_t len)
{
    struct lineage_launch *launch = r->launch;
    struct record_claim c;
    struct ckpt_err why = { 0 };
    enum ckpt_status st = record_claim_decode(bytes, len, key->text, &c, &why);
    if (st != CKPT_OK)
        return tolerate(st, &why, r->err);
    launch->claimed = true;
    memcpy(launch->token, c.token, sizeof(launch->token));
    memcpy(launch->nonce, c.nonce, sizeof(launch->nonce));
    launch->world = c.world;
    launch->time_ns = c.time_ns;
    return CKPT_OK;
}

static enum ckpt_status read_resolved(struct reading *r, const struct key *key, const void *bytes,
                                      size_t len)
{
    struct lineage_launch *launch = r->launch;
    struct record_resolved res;
    enum ckpt_status st = record_resolved_decode(bytes, len, key->text, &res, r->err);
    if (st != CKPT_OK)
        return st;
    launch->resolved = true;
    launch->kind = res.kind;
    launch->forced = res.forced;
    launch->stop = res.stop;
    launch->point = res.name;
    snprintf(launch->why, sizeof(launch->why), "%s", res.why);
    record_resolved_fini(&res);
    return CKPT_OK;
}

static enum ckpt_status read_step(struct reading *r, enum record_kind kind, const struct key *key,
                                  const void *bytes, size_t len)
{
    struct lineage_launch *launch = r->launch;
    struct record_step step;
    struct ckpt_err why = { 0 };
    enum ckpt_status st = record_step_decode(kind, bytes, len, key->text, &step, &why);
    if (st != CKPT_OK)
        return tolerate(st, &why, r->err);
    if (kind == RECORD_RESTORED) {
        launch->restored = true;
    } else { /* `resolved` sorts behind `progress`: finish_launches compares */
        launch->progressed = true;
        launch->progress_step = step.step;
    }
    return CKPT_OK;
}

/* Several ranks may report; digests that failed weigh more than what was out of reach. */
static enum ckpt_status read_bad(struct reading *r, const struct key *key, const void *bytes,
                                 size_t len)
{
    struct lineage_launch *launch = r->launch;
    struct record_bad bad;
    struct ckpt_err why = { 0 };
    enum ckpt_status st = record_bad_decode(bytes, len, key->text, &bad, &why);
    if (st != CKPT_OK)
        return tolerate(st, &why, r->err);
    if (launch->bad_count++ && (launch->corrupt || !bad.corrupt))
        return CKPT_OK;
    launch->corrupt = bad.corrupt;
    launch->bad_name = bad.name;
    snprintf(launch->bad_text, sizeof(launch->bad_text), "%s", bad.text);
    return CKPT_OK;
}

static enum ckpt_status read_record(struct reading *r, const struct launch_record *record)
{
    const char *what = record->what;
    struct key key = record_key(r->job, record);
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    enum ckpt_status st = record->bytes == UINT64_MAX
                              ? repo_get(r->s, &key, &bytes, &len, r->err)
                              : repo_get_listed(r->s, &key, record->bytes, &bytes, &len, r->err);
    if (is_resolved(record)) /* what was listed may be gone */
        r->launch->resolved = false;
    if (st != CKPT_OK)
        return st == CKPT_NOT_FOUND ? CKPT_OK : st;
    if (is_bad(record))
        return read_bad(r, &key, bytes, len);
    if (what[0] == 'c')
        return read_claim(r, &key, bytes, len);
    if (what[0] == 'p')
        return read_step(r, RECORD_PROGRESS, &key, bytes, len);
    if (is_resolved(record))
        return read_resolved(r, &key, bytes, len);
    return read_step(r, RECORD_RESTORED, &key, bytes, len);
}

static enum ckpt_status add_launch(struct reading *r, uint64_t epoch)
{
    struct lineage *l = r->l;
    if (l->launch_count && l->launches[l->launch_count - 1].epoch == epoch)
        return CKPT_OK;
    if (l->launch_count == r->cap) {
        size_t cap = r->cap ? 2 * r->cap : 16;
        struct lineage_launch *grown = realloc(l->launches, cap * sizeof(*grown));
        if (!grown)
            return err_set(r->err, CKPT_NO_MEMORY, "no memory for %zu launches", cap);
        l->launches = grown;
        r->cap = cap;
    }
    l->launches[l->launch_count++] = (struct lineage_launch){ .epoch = epoch };
    return CKPT_OK;
}

/* What there is, without a look at any record. */
static enum ckpt_status enter_launches(struct reading *r, const struct launch_index *x)
{
    struct lineage *l = r->l;
    enum ckpt_status st = CKPT_OK;
    for (size_t i = 0; i < x->count && st == CKPT_OK; i++) {
        st = add_launch(r, x->records[i].epoch);
        if (st == CKPT_OK)
            l->launches[l->launch_count - 1].resolved |= is_resolved(&x->records[i]);
    }
    l->resolved_from = l->reports_from = UINT64_MAX;
    return st;
}

/* Reads what was not read yet of launches from these epochs up. */
static enum ckpt_status read_from(struct reading *r, const struct launch_index *x,
                                  uint64_t resolved_from, uint64_t reports_from)
{
    struct lineage *l = r->l;
    enum ckpt_status st = CKPT_OK;
    for (size_t i = 0, k = 0; i < x->count && st == CKPT_OK; i++) {
        const struct launch_record *record = &x->records[i];
        bool report = !is_resolved(record) && !is_bad(record);
        while (l->launches[k].epoch != record->epoch)
            k++;
        r->launch = &l->launches[k];
        if (record->epoch >= (report ? reports_from : resolved_from) &&
            record->epoch < (report ? l->reports_from : l->resolved_from))
            st = read_record(r, record);
    }
    l->resolved_from = min_u64(l->resolved_from, resolved_from);
    l->reports_from = min_u64(l->reports_from, reports_from);
    for (size_t i = 0; i < l->launch_count; i++) {
        struct lineage_launch *launch = &l->launches[i];
        if (launch->kind == RESOLVED_POINT && launch->progress_step <= launch->point.step)
            launch->progressed = false; /* I5: beyond its resume point */
    }
    return st;
}

/* All of it. */
static enum ckpt_status list_and_read(struct reading *r)
{
    CLEANUP_INDEX struct launch_index x = { 0 };
    enum ckpt_status st = launch_list(r->s, r->job, &x, r->err);
    if (st == CKPT_OK)
        st = enter_launches(r, &x);
    return st == CKPT_OK ? read_from(r, &x, 0, 0) : st;
}

/* H3 for one store: a commit that is not GONE and everything of it lies here. */
static enum ckpt_status fill_commit(struct reading *r, const struct roster_entry *log, bool held,
                                    struct lineage_commit *c)
{
    struct ckpt_err why = { 0 };
    struct key key = { "" };
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    struct record_life life = { .life = LIFE_LIVE };
    enum ckpt_status st = CKPT_OK;
    if (log) {
        key = key_life(r->job, &c->name, false, log->n);
        st = repo_get(r->s, &key, &bytes, &len, r->err);
        if (st == CKPT_OK)
            st = record_life_decode(bytes, len, key.text, &life, &why);
        if (tolerate(st, &why, r->err) != CKPT_OK)
            return st;
    }
    c->known = true;
    c->life = life.life;
    c->restorable = held && st == CKPT_OK;
    c->unreadable = st == CKPT_CORRUPT;
    if (st == CKPT_NOT_FOUND) /* gc forgot it since it was listed */
        c->life = LIFE_GONE;
    else if (st == CKPT_CORRUPT)
        snprintf(c->why_not, sizeof(c->why_not), "damaged record %.100s", key.text);
    else if (!held)
        snprintf(c->why_not, sizeof(c->why_not), "its data is not complete in any store at hand");
    return CKPT_OK;
}

/* h/ beside a copy that was dropped, or is about to be, counts as nothing (D5). */
static enum ckpt_status held_here(struct reading *r, const struct launch_listings *at,
                                  const struct ckpt_name *name, bool *ret)
{
    enum life copy = LIFE_LIVE;
    struct ckpt_err why = { 0 };
    enum ckpt_status st = CKPT_OK;
    uint64_t n;
    *ret = roster_find(&at->helds, name);
    if (*ret && roster_find(&at->copies, name))
        st = life_look(r->s, r->job, name, true, &copy, &n, NULL, &why);
    *ret = *ret && st == CKPT_OK && copy == LIFE_LIVE;
    return tolerate(st, &why, r->err);
}

static enum ckpt_status join(struct reading *r, const struct launch_listings *at)
{
    const struct roster *commits = &at->commits;
    struct lineage *l = r->l;
    l->commits = calloc(commits->count + 1, sizeof(*l->commits));
    if (!l->commits)
        return err_set(r->err, CKPT_NO_MEMORY, "no memory for %zu checkpoints", commits->count);
    for (size_t i = 0; i < commits->count; i++) {
        const struct roster_entry *e = &commits->entries[i];
        if (roster_is_abort(e))
            continue;
        struct lineage_commit *c = &l->commits[l->commit_count];
        *c = (struct lineage_commit){ .name = e->name };
        bool held = false;
        enum ckpt_status st = held_here(r, at, &e->name, &held);
        held = held || (r->also && roster_find(r->also, &e->name));
        if (st == CKPT_OK)
            st = fill_commit(r, roster_find(&at->lives, &e->name), held, c);
        if (st != CKPT_OK)
            return st;
        if (c->life != LIFE_GONE)
            l->commit_count++;
    }
    return CKPT_OK;
}

enum ckpt_status launch_list_logs(struct store *home, const char *job, struct launch_listings *at,
                                  struct ckpt_err *err)
{
    enum ckpt_status st = at->logs ? CKPT_OK : roster_logs(home, job, &at->lives, &at->copies, err);
    at->logs = st == CKPT_OK;
    return st;
}

static enum ckpt_status read_lives(struct reading *r, struct launch_listings *at)
{
    enum ckpt_status st = launch_list_logs(r->s, r->job, at, r->err);
    return st == CKPT_OK ? join(r, at) : st;
}

/* c/ first: what is committed later is not seen, what is deleted later is. */
static enum ckpt_status read_commits(struct reading *r, struct launch_listings *at)
{
    enum ckpt_status st = roster_commits(r->s, r->job, &at->commits, r->err);
    if (st == CKPT_OK)
        st = roster_helds(r->s, r->job, &at->helds, r->err);
    return st == CKPT_OK ? read_lives(r, at) : st;
}

void launch_listings_fini(struct launch_listings *l)
{
    roster_fini(&l->commits);
    roster_fini(&l->helds);
    roster_fini(&l->lives);
    roster_fini(&l->copies);
    l->logs = false;
}

/* ---- the branch alone ---- */

static enum ckpt_status read_listed(struct reading *r, struct lineage_launch *launch)
{
    const struct launch_record record = { .epoch = launch->epoch,
                                          .bytes = UINT64_MAX,
                                          .what = "resolved" };
    r->launch = launch;
    return read_record(r, &record);
}

/* From the newest launch to the head of the branch: the first with commits, or forced. */
static enum ckpt_status read_head(struct reading *r, struct lineage_launch **ret)
{
    struct lineage *l = r->l;
    *ret = NULL;
    for (size_t i = 0, c = 0; i < l->launch_count; i++) {
        struct lineage_launch *launch = &l->launches[i];
        enum ckpt_status st = launch->resolved ? read_listed(r, launch) : CKPT_OK;
        if (st != CKPT_OK)
            return st;
        while (c < l->commit_count && l->commits[c].name.epoch > launch->epoch)
            c++;
        bool saved = c < l->commit_count && l->commits[c].name.epoch == launch->epoch;
        if (!launch->resolved || launch->kind == RESOLVED_SUPERSEDED || !(saved || launch->forced))
            continue;
        *ret = launch;
        return CKPT_OK;
    }
    return CKPT_OK;
}

/* From there by resume points, each of a lower epoch, to the root. */
static enum ckpt_status read_branch(struct reading *r)
{
    struct lineage *l = r->l;
    struct lineage_launch *head, *end = l->launches + l->launch_count;
    enum ckpt_status st = read_head(r, &head);
    if (st != CKPT_OK || !head)
        return st;
    for (struct lineage_launch *at = head + 1; at < end; at++) {
        if (head->kind != RESOLVED_POINT || head->point.epoch >= head->epoch)
            return CKPT_OK;
        if (at->epoch != head->point.epoch || !at->resolved)
            continue;
        st = read_listed(r, at);
        if (st != CKPT_OK || !at->resolved)
            return st;
        head = at;
    }
    return CKPT_OK;
}

enum ckpt_status launch_branch_listed(struct store *home, const char *job, struct lineage *ret,
                                      struct launch_listings *ret_listings, struct ckpt_err *err)
{
    struct lineage l = { 0 };
    struct launch_listings at = { 0 };
    CLEANUP_INDEX struct launch_index x = { 0 };
    struct reading r = { .s = home, .job = job, .l = &l, .err = err };
    enum ckpt_status st = launch_list(home, job, &x, err);
    if (st == CKPT_OK)
        st = enter_launches(&r, &x);
    l.resolved_from = l.reports_from = 0; /* nobody asks for more than the branch */
    if (st == CKPT_OK)
        st = read_commits(&r, &at);
    if (st == CKPT_OK)
        st = read_branch(&r);
    if (st != CKPT_OK) {
        lineage_fini(&l);
        launch_listings_fini(&at);
        return st;
    }
    *ret = l;
    *ret_listings = at;
    return CKPT_OK;
}

enum ckpt_status launch_claims(struct store *home, const char *job, struct lineage *ret,
                               struct ckpt_err *err)
{
    struct lineage l = { 0 };
    struct reading r = { .s = home, .job = job, .l = &l, .err = err };
    enum ckpt_status st = list_and_read(&r);
    if (st != CKPT_OK) {
        lineage_fini(&l);
        return st;
    }
    *ret = l;
    return CKPT_OK;
}

enum ckpt_status launch_read_claims(struct store *home, const char *job,
                                    const struct launch_index *x, size_t most, struct lineage *ret,
                                    struct ckpt_err *err)
{
    struct lineage l = { 0 };
    struct reading r = { .s = home, .job = job, .l = &l, .err = err };
    enum ckpt_status st = CKPT_OK;
    for (size_t i = 0; i < x->count && st == CKPT_OK; i++) {
        st = add_launch(&r, x->records[i].epoch);
        if (st != CKPT_OK || l.launch_count > most || strcmp(x->records[i].what, "claim") != 0)
            continue;
        r.launch = &l.launches[l.launch_count - 1];
        st = read_record(&r, &x->records[i]);
    }
    if (st != CKPT_OK) {
        lineage_fini(&l);
        return st;
    }
    *ret = l;
    return CKPT_OK;
}

/* The epoch of the launch that is `more` further down than the last that was read. */
static uint64_t further_down(const struct lineage *l, uint64_t from)
{
    size_t read = 0;
    while (read < l->launch_count && l->launches[read].epoch >= from)
        read++;
    size_t next = 2 * read + 1;
    return next <= l->launch_count ? l->launches[next - 1].epoch : 0;
}

enum ckpt_status launch_pick(struct store *home, const char *job, const struct launch_index *x,
                             struct launch_listings *at, const struct roster *also,
                             const struct lineage_wish *wish, struct record_resolved *ret,
                             struct ckpt_err *err)
{
    struct lineage l = { 0 };
    struct lineage_need need = { 0 };
    struct reading r = { .s = home, .job = job, .l = &l, .also = also, .err = err };
    enum ckpt_status st = enter_launches(&r, x);
    if (st == CKPT_OK)
        st = read_lives(&r, at);
    while (st == CKPT_OK) {
        st = lineage_pick_part(&l, wish, &need, ret, err);
        if (st != CKPT_BUSY)
            break;
        uint64_t resolved_from =
            need.resolved_from < l.resolved_from
                ? min_u64(need.resolved_from, further_down(&l, l.resolved_from))
                : l.resolved_from;
        st = read_from(&r, x, resolved_from, min_u64(need.reports_from, l.reports_from));
    }
    lineage_fini(&l);
    return st;
}

static enum ckpt_status read_history(struct store *home, const char *job, const struct roster *also,
                                     struct lineage *ret, struct launch_listings *ret_listings,
                                     struct ckpt_err *err)
{
    struct lineage l = { 0 };
    struct launch_listings at = { 0 };
    enum ckpt_status st = launch_claims(home, job, &l, err);
    struct reading r = { .s = home, .job = job, .l = &l, .also = also, .err = err };
    if (st == CKPT_OK)
        st = read_commits(&r, &at);
    if (st != CKPT_OK) {
        lineage_fini(&l);
        launch_listings_fini(&at);
        return st;
    }
    *ret = l;
    *ret_listings = at;
    return CKPT_OK;
}

enum ckpt_status launch_history_listed(struct store *home, const char *job, struct lineage *ret,
                                       struct launch_listings *ret_listings, struct ckpt_err *err)
{
    return read_history(home, job, NULL, ret, ret_listings, err);
}

enum ckpt_status launch_history_with(struct store *home, const char *job, const struct roster *also,
                                     struct lineage *ret, struct ckpt_err *err)
{
    struct launch_listings at = { 0 };
    enum ckpt_status st = read_history(home, job, also, ret, &at, err);
    launch_listings_fini(&at);
    return st;
}

enum ckpt_status launch_history(struct store *home, const char *job, struct lineage *ret,
                                struct ckpt_err *err)
{
    return launch_history_with(home, job, NULL, ret, err);
}
