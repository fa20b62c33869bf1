/* From what people type, JOB@STEP~EPOCH, to a checkpoint's name; and the jobs of a store. */
#include <inttypes.h>
#include <stdio.h>

#include "storage/repo/catalog.h"
#include "storage/repo/launch.h"

/* ---- jobs ---- */

struct jobs {
    char **names;
    size_t count, cap;
    struct ckpt_err *err;
};

static enum ckpt_status job_each(void *arg, const struct store_entry *e)
{
    struct jobs *j = arg;
    char job[CKPT_JOB_NAME_MAX + 2];
    size_t len = strlen(e->key);
    if (e->stat.bytes != UINT64_MAX || len < 2 || len - 1 > CKPT_JOB_NAME_MAX)
        return CKPT_OK;
    memcpy(job, e->key, len - 1);
    job[len - 1] = 0;
    if (job_name_check(job, NULL) != CKPT_OK)
        return CKPT_OK;
    if (j->count + 1 >= j->cap) {
        size_t cap = j->cap ? 2 * j->cap : 16;
        char **grown = realloc(j->names, cap * sizeof(*grown));
        if (!grown)
            return err_set(j->err, CKPT_NO_MEMORY, "no memory for %zu jobs", cap);
        j->names = grown;
        j->cap = cap;
    }
    j->names[j->count] = strdup(job);
    if (!j->names[j->count])
        return err_set(j->err, CKPT_NO_MEMORY, "no memory for job %s", job);
    j->names[++j->count] = NULL;
    return CKPT_OK;
}

void catalog_jobs_free(char **jobs)
{
    for (char **j = jobs; j && *j; j++)
        free(*j);
    free(jobs);
}

enum ckpt_status catalog_jobs(struct store *s, char ***ret, struct ckpt_err *err)
{
    struct jobs j = { .cap = 16, .err = err };
    j.names = calloc(j.cap, sizeof(*j.names));
    if (!j.names)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the list of jobs");
    enum ckpt_status st = repo_list(s, "", true, job_each, &j, err);
    if (st != CKPT_OK) {
        catalog_jobs_free(j.names);
        return st;
    }
    *ret = j.names;
    return CKPT_OK;
}

/* ---- what people type ---- */

/* Decimal digits up to `end`; false for anything else or beyond 64 bits. */
static bool number(const char *at, const char *end, uint64_t *ret)
{
    uint64_t n = 0;
    if (at == end)
        return false;
    for (; at < end; at++)
        if (*at < '0' || *at > '9' || __builtin_mul_overflow(n, 10, &n) ||
            __builtin_add_overflow(n, (uint64_t)(*at - '0'), &n))
            return false;
    *ret = n;
    return true;
}

enum ckpt_status catalog_parse(const char *text, struct catalog_spec *ret, struct ckpt_err *err)
{
    struct catalog_spec spec = { 0 };
    const char *at = strchr(text, '@');
    size_t len = at ? (size_t)(at - text) : strlen(text);
    if (len > CKPT_JOB_NAME_MAX)
        return err_set(err, CKPT_BAD_NAME, "\"%.64s...\": a job name has at most %d characters",
                       text, CKPT_JOB_NAME_MAX);
    memcpy(spec.job, text, len);
    enum ckpt_status st = job_name_check(spec.job, err);
    if (st != CKPT_OK)
        return st;
    if (at && strcmp(at, "@latest") != 0) {
        const char *end = at + strlen(at), *tilde = strchr(at, '~');
        spec.has_step = true;
        spec.has_epoch = tilde != NULL;
        if (!number(at + 1, tilde ? tilde : end, &spec.step) ||
            (tilde && !number(tilde + 1, end, &spec.epoch)))
            return err_set(err, CKPT_INVALID,
                           "\"%s\": write JOB, JOB@latest, JOB@STEP or JOB@STEP~EPOCH", text);
    }
    *ret = spec;
    return CKPT_OK;
}

/* ---- finding ---- */

static bool fits(const struct lineage *l, const struct catalog_spec *spec,
                 const struct lineage_commit *c)
{
    if (spec->has_epoch)
        return c->name.epoch == spec->epoch;
    return lineage_on_branch(l, &c->name);
}

static const struct lineage_commit *find_step(const struct lineage *l,
                                              const struct catalog_spec *spec)
{
    const struct lineage_commit *deleted = NULL;
    for (size_t i = 0; i < l->commit_count; i++) {
        const struct lineage_commit *c = &l->commits[i];
        if (c->name.step != spec->step || !fits(l, spec, c))
            continue;
        if (c->life == LIFE_LIVE)
            return c;
        deleted = deleted ? deleted : c;
    }
    return deleted;
}

/* Steps that one could have meant: the nearest below and above, and the same step on
 * another branch. */
struct nearby {
    bool below, above, other;
    uint64_t step_below, step_above, other_epoch;
};

static struct nearby look_nearby(const struct lineage *l, const struct catalog_spec *spec)
{
    struct nearby n = { 0 };
    for (size_t i = 0; i < l->commit_count; i++) {
        const struct lineage_commit *c = &l->commits[i];
        uint64_t step = c->name.step;
        if (c->life != LIFE_LIVE)
            continue;
        if (!fits(l, spec, c)) {
            if (step == spec->step && !n.other) {
                n.other = true;
                n.other_epoch = c->name.epoch;
            }
        } else if (step < spec->step && (!n.below || step > n.step_below)) {
            n.below = true;
            n.step_below = step;
        } else if (step > spec->step && (!n.above || step < n.step_above)) {
            n.above = true;
            n.step_above = step;
        }
    }
    return n;
}

static enum ckpt_status step_not_found(const struct lineage *l, const struct catalog_spec *spec,
                                       struct ckpt_err *err)
{
    struct nearby n = look_nearby(l, spec);
    char where[64] = " on the newest lineage", near[96] = "", other[96] = "";
    if (spec->has_epoch)
        snprintf(where, sizeof(where), " in epoch %" PRIu64, spec->epoch);
    if (n.below && n.above)
        snprintf(near, sizeof(near), "; the nearest are %" PRIu64 " and %" PRIu64, n.step_below,
                 n.step_above);
    else if (n.below || n.above)
        snprintf(near, sizeof(near), "; the nearest is %" PRIu64,
                 n.below ? n.step_below : n.step_above);
    if (n.other)
        snprintf(other, sizeof(other), "; another branch has it: %" PRIu64 "~%" PRIu64, spec->step,
                 n.other_epoch);
    return err_set(err, CKPT_NOT_FOUND, "job %s has no checkpoint of step %" PRIu64 "%s%s%s",
                   spec->job, spec->step, where, near, other);
}

static enum ckpt_status job_not_found(struct store *s, const char *job, struct ckpt_err *err)
{
    char **jobs = NULL;
    char list[256] = "";
    size_t len = 0;
    enum ckpt_status st = catalog_jobs(s, &jobs, err);
    if (st != CKPT_OK)
        return st;
    for (char **j = jobs; *j && len + strlen(*j) + 3 < sizeof(list); j++)
        len += (size_t)snprintf(list + len, sizeof(list) - len, "%s%s", len ? ", " : "", *j);
    catalog_jobs_free(jobs);
    return err_set(err, CKPT_NOT_FOUND, "job %s has no checkpoint in %s%s%s", job, s->url,
                   len ? "; jobs here: " : "", list);
}

/* What a restore would take; the next launch may be refused where a reader is not told
 * why before it has asked. */
static enum ckpt_status find_latest(const struct lineage *l, struct ckpt_name *ret,
                                    struct ckpt_err *err)
{
    struct lineage_wish wish = { .below = UINT64_MAX };
    struct record_resolved next;
    struct ckpt_err why = { 0 };
    enum ckpt_status st = lineage_pick(l, &wish, &next, &why);
    if (st != CKPT_OK)
        return err_set(err, st == CKPT_REFUSED ? CKPT_NOT_FOUND : st, "%s", err_text(&why));
    *ret = next.name;
    record_resolved_fini(&next);
    return CKPT_OK;
}

enum ckpt_status catalog_find(struct store *s, const struct catalog_spec *spec,
                              struct ckpt_name *ret, struct ckpt_err *err)
{
    struct lineage l = { 0 };
    bool found = false;
    enum ckpt_status st = CKPT_OK;
    if (!spec->has_step)
        st = catalog_newest(s, spec->job, &found, ret, err);
    if (st == CKPT_OK && !found)
        st = launch_history(s, spec->job, &l, err);
    if (st != CKPT_OK || found)
        return st;
    if (!l.commit_count) {
        st = job_not_found(s, spec->job, err);
    } else if (!spec->has_step) {
        st = find_latest(&l, ret, err);
    } else {
        const struct lineage_commit *c = find_step(&l, spec);
        if (c)
            *ret = c->name;
        else
            st = step_not_found(&l, spec, err);
    }
    lineage_fini(&l);
    return st;
}
