/* See run_seen.h. */
#include "tools/run_seen.h"

#include <stdio.h>

#include "storage/repo/catalog.h"
#include "storage/repo/launch.h"

static bool of_token(const struct lineage_launch *l, const char *token)
{
    size_t n = strlen(token);
    return l->claimed && strncmp(l->token, token, n) == 0 &&
           (l->token[n] == 0 || l->token[n] == '.');
}

/* Any start of the run that `token` is of. */
static bool of_run(const struct lineage_launch *l, const char *token)
{
    const char *number = strrchr(token, '-');
    size_t n = number ? (size_t)(number + 1 - token) : 0;
    if (!l->claimed || n == 0 || strncmp(l->token, token, n) != 0)
        return false;
    size_t digits = strspn(l->token + n, "0123456789");
    return digits && (l->token[n + digits] == 0 || l->token[n + digits] == '.');
}

static const struct lineage_launch *launch_of(const struct lineage *l, uint64_t epoch)
{
    for (size_t i = 0; i < l->launch_count; i++)
        if (l->launches[i].epoch == epoch)
            return &l->launches[i];
    return NULL;
}

static enum ckpt_status has_token(struct store *s, const char *job, const char *token, bool *ret,
                                  struct ckpt_err *err)
{
    struct lineage l = { 0 };
    *ret = false;
    enum ckpt_status st = launch_claims(s, job, &l, err);
    for (size_t i = 0; st == CKPT_OK && i < l.launch_count && !*ret; i++)
        *ret = of_token(&l.launches[i], token);
    lineage_fini(&l);
    return st;
}

static enum ckpt_status find_job(struct store *s, const char *token, const char *first,
                                 char ret[CKPT_JOB_NAME_MAX + 1], struct ckpt_err *err)
{
    char **jobs = NULL;
    bool found = false;
    ret[0] = 0;
    enum ckpt_status st = CKPT_OK;
    if (*first)
        st = has_token(s, first, token, &found, err);
    if (found)
        snprintf(ret, CKPT_JOB_NAME_MAX + 1, "%s", first);
    if (found || st != CKPT_OK)
        return st;
    st = catalog_jobs(s, &jobs, err);
    for (char **job = jobs; st == CKPT_OK && *job && !found; job++) {
        st = has_token(s, *job, token, &found, err);
        if (found)
            snprintf(ret, CKPT_JOB_NAME_MAX + 1, "%s", *job);
    }
    catalog_jobs_free(jobs);
    return st;
}

/* True if a commit is there whose h/ is not: it may just be on its way, or its committer died, and
 * the next launch puts it. */
static bool may_come(const struct lineage *l)
{
    bool may = false;
    for (size_t i = 0; i < l->commit_count; i++) {
        const struct lineage_commit *c = &l->commits[i];
        may |= c->life == LIFE_LIVE && c->known && !c->restorable;
    }
    return may;
}

/* What the next launch would decide. */
static void look_ahead(const struct lineage *l, struct run_seen *ret)
{
    struct record_resolved next = { 0 };
    struct ckpt_err why = { 0 };
    enum ckpt_status st = lineage_pick_next(l, &next, &why);
    ret->stop = st == CKPT_OK ? next.stop : st == CKPT_REFUSED && !may_come(l);
    ret->has_next = st == CKPT_OK && next.kind == RESOLVED_POINT;
    ret->next = next.name;
    snprintf(ret->why, sizeof(ret->why), "%s", st == CKPT_OK ? next.why : err_text(&why));
    record_resolved_fini(&next);
}

enum ckpt_status run_seen_read(struct store *s, const char *token, const char *job,
                               struct run_seen *ret, struct ckpt_err *err)
{
    struct lineage l = { 0 };
    *ret = (struct run_seen){ 0 };
    enum ckpt_status st = find_job(s, token, job, ret->job, err);
    if (st != CKPT_OK || !ret->job[0])
        return st;
    st = launch_history(s, ret->job, &l, err);
    if (st != CKPT_OK)
        return st;
    for (size_t i = 0; i < l.commit_count; i++) {
        const struct ckpt_name *name = &l.commits[i].name;
        const struct lineage_launch *launch = launch_of(&l, name->epoch);
        if (!launch || !of_run(launch, token))
            continue;
        ret->saved = true;
        ret->highest = max_u64(ret->highest, name->step);
        if (!ret->committed && of_token(launch, token)) {
            ret->committed = true;
            ret->newest = *name;
        }
    }
    look_ahead(&l, ret);
    lineage_fini(&l);
    return CKPT_OK;
}
