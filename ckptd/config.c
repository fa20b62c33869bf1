/* From texts to settings: collect what each source says, weaker ones first (config_sources.c);
 * let the strongest stand; then look at all of it together. */
#include "ckptd/config.h"

#include <fnmatch.h>

#include "ckptd/config_keys.h"
#include "ckptd/config_sources.h"
#include "formats/sockpath.h"

/* -- what stands ---------------------------------------------------------------------------- */

/* Where several sources say something, only the strongest is left; of one that may not say it
 * twice, what it said last.  A section stands in the file: what is stronger than that is
 * stronger for its jobs, too. */
static void keep_strongest(struct config *c)
{
    size_t to = 0;
    for (size_t i = 0; i < c->value_count; i++) {
        const struct config_value v = c->values[i];
        bool beaten = false;
        for (size_t k = i + 1; k < c->value_count; k++) {
            const struct config_value *o = &c->values[k];
            bool again = !v.job && !(v.key->flags & CONFIG_REPEATS);
            beaten |= o->key == v.key && !o->job && (o->from > v.from || again);
        }
        if (!beaten)
            c->values[to++] = v;
    }
    c->value_count = to;
}

/* From values to fields.  All values have been tried: what fails now is too many of them. */
static void apply(struct loading *l)
{
    struct config *c = l->c;
    struct ckpt_err why = { 0 };
    c->listen_fd = -1;
    for (size_t i = 0; i < config_key_count; i++)
        if (config_keys[i].fallback &&
            config_keys[i].set(&config_keys[i], config_keys[i].fallback, c, NULL, &why) != CKPT_OK)
            (void)err_set(config_one_more(l->errors), CKPT_BUG, "default of %s: %s",
                          config_keys[i].name, err_text(&why));
    for (size_t i = 0; i < c->value_count; i++) {
        const struct config_value *v = &c->values[i];
        if (strcmp(v->key->name, "config") == 0)
            continue;
        why = (struct ckpt_err){ 0 };
        if (v->key->set(v->key, v->text, c, config_job_of(c, v->job), &why) != CKPT_OK)
            config_complain(l, v, &why);
    }
}

/* One spelling for private directories, so that two names of one place are found out. */
static enum ckpt_status same_place(const char *a, const char *b, bool *ret, struct ckpt_err *err)
{
    char one[4096], other[4096];
    enum ckpt_status st = sockpath_store(a, "", one, sizeof(one), err);
    if (st == CKPT_OK)
        st = sockpath_store(b, "", other, sizeof(other), err);
    if (st == CKPT_OK)
        *ret = strcmp(one, other) == 0;
    return st;
}

static enum ckpt_status check_remote(const struct config *c, size_t at, struct ckpt_err *err)
{
    const char *others[2 + CONFIG_REMOTES_MAX] = { c->store, c->local };
    size_t count = c->local ? 2 : 1;
    for (size_t i = 0; i < at; i++)
        others[count++] = c->remotes[i];
    for (size_t i = 0; i < count; i++) {
        bool same = false;
        enum ckpt_status st = same_place(others[i], c->remotes[at], &same, err);
        if (st != CKPT_OK)
            return st;
        if (same)
            return err_set(err, CKPT_INVALID, "remote %s is named twice, or is the store itself",
                           c->remotes[at]);
    }
    return CKPT_OK;
}

static void check_together(struct config *c, struct config_errors *errors)
{
    struct ckpt_err why = { 0 };
    bool same = false;
    enum ckpt_status st = CKPT_OK;
    if (!c->store || !c->store[0])
        st = err_set(&why, CKPT_INVALID,
                     "no store: give --store DIR or set CKPT_STORE (see --help)");
    if (st == CKPT_OK && c->local)
        st = same_place(c->store, c->local, &same, &why);
    if (same)
        c->local = NULL;
    for (size_t i = 0; st == CKPT_OK && i < c->remote_count; i++)
        st = check_remote(c, i, &why);
    if (st != CKPT_OK)
        (void)err_set(config_one_more(errors), st, "%s", err_text(&why));
    if (!c->remote_codec_given && c->codec == CODEC_STORED) {
        c->remote_codec = CODEC_ZSTD;
        c->remote_codec_level = 1;
    }
}

/* -- the whole ------------------------------------------------------------------------------ */

void config_free(struct config *c)
{
    if (!c)
        return;
    free(c->file);
    free(c->text);
    free(c->raw);
    free(c->values);
    free(c->jobs);
    free(c);
}

static enum ckpt_status finish(struct loading *l, struct config **ret)
{
    if (l->errors->count == 0)
        apply(l);
    if (l->errors->count == 0 && !l->c->help && !l->c->version && !l->c->example && !l->c->manual)
        check_together(l->c, l->errors);
    if (l->errors->count == 0) {
        *ret = l->c;
        return CKPT_OK;
    }
    config_free(l->c);
    return l->errors->list[0].status;
}

enum ckpt_status config_load(const struct config_input *in, struct config **ret,
                             struct config_errors *errors)
{
    CLEANUP_FREE struct config *scratch = calloc(1, sizeof(*scratch));
    struct loading l = { .in = in, .scratch = scratch, .errors = errors };
    errors->count = 0;
    l.c = calloc(1, sizeof(*l.c));
    if (!l.c || !scratch) {
        free(l.c);
        return err_set(config_one_more(errors), CKPT_NO_MEMORY, "no memory for settings");
    }
    config_collect(&l);
    keep_strongest(l.c);
    return finish(&l, ret);
}

/* -- again, while it runs -------------------------------------------------------------------- */

static bool same_job(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

/* What stands for the key there, values of one that repeats with blanks between them. */
static void text_of(const struct config *c, const struct config_key *k, const char *job, char *ret,
                    size_t cap)
{
    size_t len = 0;
    *ret = 0;
    for (size_t i = 0; i < c->value_count && len < cap; i++)
        if (c->values[i].key == k && same_job(c->values[i].job, job))
            len +=
                (size_t)snprintf(ret + len, cap - len, "%s%s", len ? " " : "", c->values[i].text);
    if (!*ret && !job)
        snprintf(ret, cap, "%s", k->fallback ? k->fallback : "");
}

static bool differ(const struct config *a, const struct config *b, const struct config_key *k,
                   const char *job)
{
    size_t i = 0, j = 0;
    for (;; i++, j++) {
        while (i < a->value_count && (a->values[i].key != k || !same_job(a->values[i].job, job)))
            i++;
        while (j < b->value_count && (b->values[j].key != k || !same_job(b->values[j].job, job)))
            j++;
        if (i == a->value_count || j == b->value_count)
            return i < a->value_count || j < b->value_count;
        if (strcmp(a->values[i].text, b->values[j].text) != 0)
            return true;
    }
}

struct comparing {
    const struct config *before, *after;
    void (*say)(void *arg, const struct config_change *c);
    void *arg;
};

static void compare(const struct comparing *d, const struct config_key *k, const char *job)
{
    struct config_change change = { .name = k->name, .job = job, .live = k->flags & CONFIG_LIVE };
    if (!differ(d->before, d->after, k, job))
        return;
    text_of(d->before, k, job, change.before, sizeof(change.before));
    text_of(d->after, k, job, change.after, sizeof(change.after));
    if (strcmp(change.before, change.after) != 0 ||
        strlen(change.after) + 1 == sizeof(change.after))
        d->say(d->arg, &change);
}

static void compare_all(const struct comparing *d)
{
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *k = &config_keys[i];
        if (k->flags & CONFIG_FLAG_ONLY)
            continue;
        compare(d, k, NULL);
        if (!(k->flags & CONFIG_PER_JOB))
            continue;
        for (size_t n = 0; n < d->after->job_count; n++)
            compare(d, k, d->after->jobs[n].pattern);
        for (size_t n = 0; n < d->before->job_count; n++) {
            bool still = false;
            for (size_t m = 0; m < d->after->job_count; m++)
                still |= strcmp(d->after->jobs[m].pattern, d->before->jobs[n].pattern) == 0;
            if (!still)
                compare(d, k, d->before->jobs[n].pattern);
        }
    }
}

/* Of `c`, what needs a restart becomes as it is in `start`; its fields are made afresh. */
static enum ckpt_status hold_the_rest(struct loading *l, const struct config *start)
{
    struct config *c = l->c;
    struct config fresh = { .file = c->file,
                            .text = c->text,
                            .raw = c->raw,
                            .raw_len = c->raw_len,
                            .jobs = c->jobs,
                            .job_count = c->job_count,
                            .job_cap = c->job_cap };
    for (int old = 0; old < 2; old++) {
        const struct config *from = old ? start : c;
        for (size_t i = 0; i < from->value_count; i++) {
            bool live = from->values[i].key->flags & CONFIG_LIVE;
            if (live == (old == 1))
                continue;
            if (!array_room((void **)&fresh.values, fresh.value_count, &fresh.value_cap,
                            sizeof(*fresh.values))) {
                free(fresh.values);
                return err_set(config_one_more(l->errors), CKPT_NO_MEMORY,
                               "no memory for settings");
            }
            fresh.values[fresh.value_count++] = from->values[i];
        }
    }
    free(c->values);
    *c = fresh;
    return CKPT_OK;
}

enum ckpt_status config_reload(const struct config_input *in, const struct config *start,
                               const struct config *now,
                               void (*say)(void *arg, const struct config_change *c), void *arg,
                               struct config **ret, struct config_errors *errors)
{
    struct loading l = { .in = in, .errors = errors };
    struct config *c;
    enum ckpt_status st = config_load(in, &c, errors);
    if (st != CKPT_OK)
        return st;
    CLEANUP_FREE struct config_value *asked = NULL;
    l.c = c;
    struct config sources = *c; /* all that they say, also what will not be heeded */
    asked = calloc(c->value_count + 1, sizeof(*asked));
    if (asked)
        memcpy(asked, c->values, c->value_count * sizeof(*asked));
    sources.values = asked;
    if (now->file && !c->file) /* whoever moves it away for a moment means no other settings */
        st =
            err_set(config_one_more(errors), CKPT_NOT_FOUND, "%s is not there any more", now->file);
    else if (!asked)
        st = err_set(config_one_more(errors), CKPT_NO_MEMORY, "no memory for settings");
    else
        st = hold_the_rest(&l, start);
    if (st != CKPT_OK) {
        config_free(c);
        return st;
    }
    st = finish(&l, &c);
    if (st != CKPT_OK)
        return st;
    if (say)
        compare_all(
            &(struct comparing){ .before = now, .after = &sources, .say = say, .arg = arg });
    *ret = c;
    return CKPT_OK;
}

/* -- asking ---------------------------------------------------------------------------------- */

const struct keep_policy *config_keep(const struct config *c, const char *job,
                                      enum config_keep which)
{
    static const char *const names[CONFIG_KEEPS] = { "keep", "keep-store", "keep-local",
                                                     "keep-remote" };
    const struct keep_policy *p = &c->keep[which];
    for (size_t i = 0; i < c->value_count; i++) {
        const struct config_value *v = &c->values[i];
        if (!v->job || strcmp(v->key->name, names[which]) != 0 || fnmatch(v->job, job, 0) != 0)
            continue;
        for (size_t k = 0; k < c->job_count; k++)
            if (strcmp(c->jobs[k].pattern, v->job) == 0)
                p = &c->jobs[k].keep[which];
        break;
    }
    return p->count ? p : NULL;
}

bool config_drops(const struct config *c, const char *job)
{
    return config_keep(c, job, CONFIG_KEEP_STORE) || config_keep(c, job, CONFIG_KEEP_LOCAL) ||
           config_keep(c, job, CONFIG_KEEP_REMOTE);
}

static bool is_said(const struct config *c, const char *name)
{
    bool any = false;
    for (size_t i = 0; i < c->value_count; i++)
        any |= strcmp(c->values[i].key->name, name) == 0;
    return any;
}

void config_idle(const struct config *c,
                 void (*say)(void *arg, const char *where, const char *missing), void *arg)
{
    for (size_t i = 0; i < c->value_count; i++) {
        const struct config_value *v = &c->values[i];
        char where[4200];
        const char *needs = v->key->needs, *or_needs = v->key->or_needs;
        char missing[64];
        if (!needs || is_said(c, needs) || (or_needs && is_said(c, or_needs)))
            continue;
        snprintf(missing, sizeof(missing), "%s%s%s", needs, or_needs ? " or " : "",
                 or_needs ? or_needs : "");
        config_place(c, v, where, sizeof(where));
        say(arg, where, missing);
    }
}

bool config_keeps(const struct config *c)
{
    bool any = false;
    for (size_t which = 0; which < CONFIG_KEEPS; which++) {
        any |= c->keep[which].count > 0;
        for (size_t i = 0; i < c->job_count; i++)
            any |= c->jobs[i].keep[which].count > 0;
    }
    return any;
}
