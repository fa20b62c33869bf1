/* From texts to settings: collect what each source says, weaker ones first; let the strongest
 * stand; then look at all of it together. */
#include "ckptd/config.h"

#include <fnmatch.h>

#include "ckptd/config_file.h"
#include "ckptd/config_keys.h"
#include "formats/sockpath.h"

struct loading {
    const struct config_input *in;
    struct config *c;
    struct config *scratch; /* each value is tried there as it is read */
    struct config_errors *errors;
    const char *file; /* as it was named; NULL: none, or the default */
    bool named;
};

/* -- errors ------------------------------------------------------------------------------- */

/* Returns where to write one more; NULL: none are kept any more, or nobody asks. */
static struct ckpt_err *one_more(struct config_errors *e)
{
    if (!e)
        return NULL;
    struct ckpt_err *err = e->count < CONFIG_ERRORS_MAX ? &e->list[e->count] : NULL;
    if (err)
        *err = (struct ckpt_err){ 0 };
    e->count++;
    return err;
}

/* Where a value stands, as its reader would write it. */
static void place(const struct config *c, const struct config_value *v, char *ret, size_t cap)
{
    char env[64];
    config_key_env(v->key, env);
    if (v->from == CONFIG_FROM_FILE)
        snprintf(ret, cap, "%s:%u: %s", c->file, v->line, v->key->name);
    else if (v->from == CONFIG_FROM_ENV)
        snprintf(ret, cap, "%s", env);
    else
        snprintf(ret, cap, "--%s", v->key->name);
}

static void complain(struct loading *l, const struct config_value *v, const struct ckpt_err *why)
{
    char where[4200];
    place(l->c, v, where, sizeof(where));
    (void)err_set(one_more(l->errors), why->status, "%.600s %.400s", where, err_text(why));
}

static void complain_line(struct loading *l, unsigned line, const char *why)
{
    (void)err_set(one_more(l->errors), CKPT_INVALID, "%.600s:%u: %s", l->c->file, line, why);
}

/* -- collecting --------------------------------------------------------------------------- */

static struct config_job *job_of(struct config *c, const char *pattern)
{
    for (size_t i = 0; pattern && i < c->job_count; i++)
        if (strcmp(c->jobs[i].pattern, pattern) == 0)
            return &c->jobs[i];
    return NULL;
}

/* Tries the value, and remembers it. */
static void take(struct loading *l, const struct config_value *v)
{
    struct ckpt_err why = { 0 };
    struct config_job job = { 0 };
    if (!array_room((void **)&l->c->values, l->c->value_count, &l->c->value_cap,
                    sizeof(*l->c->values))) {
        (void)err_set(one_more(l->errors), CKPT_NO_MEMORY, "no memory for settings");
        return;
    }
    l->c->values[l->c->value_count++] = *v;
    if (v->key->flags & CONFIG_REPEATS)
        l->scratch->remote_count = 0; /* how many there are is seen at the end */
    if (v->key->set(v->key, v->text, l->scratch, v->job ? &job : NULL, &why) != CKPT_OK)
        complain(l, v, &why);
}

static void take_flags(struct loading *l)
{
    for (int i = 1; i < l->in->argc; i++) {
        const char *arg = strcmp(l->in->argv[i], "-h") == 0 ? "--help" : l->in->argv[i];
        bool dashes = strncmp(arg, "--", 2) == 0;
        size_t len = dashes ? strcspn(arg + 2, "=") : 0;
        const struct config_key *k = dashes ? config_key_find(arg + 2, len) : NULL;
        char near[80] = "";
        if (!k || (!k->argument && arg[2 + len] == '=')) {
            if (dashes && !k)
                config_key_nearest(arg + 2, near, sizeof(near));
            (void)err_set(one_more(l->errors), CKPT_INVALID,
                          "unknown option \"%.200s\"%s (see --help)", arg, near);
            continue;
        }
        const char *text = !k->argument ? "yes" : arg[2 + len] == '=' ? arg + 3 + len : NULL;
        if (!text && i + 1 < l->in->argc)
            text = l->in->argv[++i];
        if (!text) {
            (void)err_set(one_more(l->errors), CKPT_INVALID, "--%s needs a value (see --help)",
                          k->name);
            return;
        }
        take(l, &(struct config_value){ .key = k, .text = text, .from = CONFIG_FROM_FLAG });
    }
}

static void take_env(struct loading *l)
{
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *k = &config_keys[i];
        char name[64];
        config_key_env(k, name);
        const char *text = k->flags & CONFIG_FLAG_ONLY ? NULL : l->in->getenv_(name);
        if (text && *text)
            take(l, &(struct config_value){ .key = k, .text = text, .from = CONFIG_FROM_ENV });
    }
}

/* -- the file ------------------------------------------------------------------------------ */

/* Words that a name of a secret has. */
static bool secret(const char *name)
{
    static const char *const words[] = { "secret",     "password", "access-key",
                                         "access_key", "token",    "credential" };
    for (size_t i = 0; i < ARRAY_COUNT(words); i++)
        if (strcasestr(name, words[i]))
            return true;
    return false;
}

/* Why the name cannot stand there; "" if it can. */
static void look_at_name(const struct config_line *line, const struct config_key *k, char *ret,
                         size_t cap)
{
    char near[80];
    *ret = 0;
    if (!k && secret(line->key)) {
        snprintf(ret, cap,
                 "no secrets here: credentials come from AWS_..., ~/.aws or the instance");
    } else if (!k) {
        config_key_nearest(line->key, near, sizeof(near));
        snprintf(ret, cap, "unknown setting \"%.60s\"%s", line->key, near);
    } else if (k->flags & CONFIG_FLAG_ONLY) {
        snprintf(ret, cap, "\"%s\" is no setting: give --%s to ckptd", k->name, k->name);
    } else if (line->job && !(k->flags & CONFIG_PER_JOB)) {
        snprintf(ret, cap, "\"%s\" is for all jobs: it stands before the first [job PATTERN]",
                 k->name);
    }
}

static unsigned stands_before(const struct config *c, const struct config_value *v)
{
    for (size_t i = 0; i < c->value_count; i++) {
        const struct config_value *o = &c->values[i];
        bool same = v->job ? o->job && strcmp(o->job, v->job) == 0 : !o->job;
        if (o->from == CONFIG_FROM_FILE && o->key == v->key && same)
            return o->line;
    }
    return 0;
}

static void take_section(struct loading *l, const struct config_line *line)
{
    struct config *c = l->c;
    if (job_of(c, line->job)) {
        complain_line(l, line->number, "this section stands twice");
    } else if (c->job_count == CONFIG_JOBS_MAX) {
        complain_line(l, line->number, "more than 64 sections");
    } else if (!array_room((void **)&c->jobs, c->job_count, &c->job_cap, sizeof(*c->jobs))) {
        (void)err_set(one_more(l->errors), CKPT_NO_MEMORY, "no memory for settings");
    } else {
        c->jobs[c->job_count++] = (struct config_job){ .pattern = line->job };
    }
}

static void take_line(struct loading *l, const struct config_line *line)
{
    char why[300];
    if (line->wrong) {
        complain_line(l, line->number, line->wrong);
        return;
    }
    if (!line->key) {
        take_section(l, line);
        return;
    }
    const struct config_key *k = config_key_find(line->key, strlen(line->key));
    look_at_name(line, k, why, sizeof(why));
    if (*why) {
        complain_line(l, line->number, why);
        return;
    }
    struct config_value v = { .key = k,
                              .text = line->value,
                              .from = CONFIG_FROM_FILE,
                              .line = line->number,
                              .job = line->job };
    unsigned before = k->flags & CONFIG_REPEATS ? 0 : stands_before(l->c, &v);
    if (before) {
        snprintf(why, sizeof(why), "\"%s\" stands in line %u already", k->name, before);
        complain_line(l, line->number, why);
        return;
    }
    take(l, &v);
}

/* The flags are looked at for it before anything is taken: the file comes first. */
static void find_file(struct loading *l)
{
    const struct config_input *in = l->in;
    const char *env = in->getenv_("CKPT_CONFIG");
    bool private_ = false;
    l->file = env && *env ? env : NULL;
    for (int i = 1; i < in->argc; i++) {
        if (strncmp(in->argv[i], "--config=", 9) == 0)
            l->file = in->argv[i] + 9;
        else if (strcmp(in->argv[i], "--config") == 0 && i + 1 < in->argc)
            l->file = in->argv[++i];
        private_ |= strcmp(in->argv[i], "--private") == 0;
    }
    l->named = l->file != NULL;
    if (!l->file && !private_)
        l->file = in->default_file ? in->default_file : CONFIG_FILE;
    if (l->file && strcmp(l->file, "none") == 0)
        l->file = NULL;
}

static void take_file(struct loading *l)
{
    struct config *c = l->c;
    struct ckpt_err why = { 0 };
    size_t len = l->in->text_len;
    find_file(l);
    if (!l->file)
        return;
    enum ckpt_status st = CKPT_OK;
    if (l->in->text) {
        c->text = malloc(len + 1);
        if (c->text)
            memcpy(c->text, l->in->text, len);
    } else {
        st = config_file_read(l->file, &c->text, &len, &why);
    }
    if (st == CKPT_NOT_FOUND && !l->named)
        return;
    c->file = st == CKPT_OK ? strdup(l->file) : NULL;
    if (st != CKPT_OK || !c->text || !c->file) {
        (void)err_set(one_more(l->errors), st == CKPT_OK ? CKPT_NO_MEMORY : st,
                      "%s (--config none: no file)",
                      st == CKPT_OK ? "no memory for settings" : err_text(&why));
        return;
    }
    c->text[len] = 0;
    c->raw = malloc(len + 1); /* for whoever is to read the same */
    if (!c->raw) {
        (void)err_set(one_more(l->errors), CKPT_NO_MEMORY, "no memory for settings");
        return;
    }
    memcpy(c->raw, c->text, len + 1);
    c->raw_len = len;
    struct config_cursor at = { 0 };
    struct config_line line;
    while (config_file_next(c->text, len, &at, &line))
        take_line(l, &line);
}

/* -- what stands ---------------------------------------------------------------------------- */

/* Where several sources say something, only the strongest is left; of one that may not say it
 * twice, what it said last. */
static void keep_strongest(struct config *c)
{
    size_t to = 0;
    for (size_t i = 0; i < c->value_count; i++) {
        const struct config_value v = c->values[i];
        bool beaten = false;
        for (size_t k = i + 1; k < c->value_count && !v.job; k++) {
            const struct config_value *o = &c->values[k];
            beaten |= o->key == v.key && !o->job &&
                      (o->from > v.from || !(v.key->flags & CONFIG_REPEATS));
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
            (void)err_set(one_more(l->errors), CKPT_BUG, "default of %s: %s", config_keys[i].name,
                          err_text(&why));
    for (size_t i = 0; i < c->value_count; i++) {
        const struct config_value *v = &c->values[i];
        if (strcmp(v->key->name, "config") == 0)
            continue;
        why = (struct ckpt_err){ 0 };
        if (v->key->set(v->key, v->text, c, job_of(c, v->job), &why) != CKPT_OK)
            complain(l, v, &why);
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
        (void)err_set(one_more(errors), st, "%s", err_text(&why));
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
    if (l->errors->count == 0 && !l->c->help && !l->c->version && !l->c->example)
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
        return err_set(one_more(errors), CKPT_NO_MEMORY, "no memory for settings");
    }
    take_file(&l);
    take_env(&l);
    take_flags(&l);
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
                return err_set(one_more(l->errors), CKPT_NO_MEMORY, "no memory for settings");
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
        st = err_set(one_more(errors), CKPT_NOT_FOUND, "%s is not there any more", now->file);
    else if (!asked)
        st = err_set(one_more(errors), CKPT_NO_MEMORY, "no memory for settings");
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

const struct keep_policy *config_keep(const struct config *c, const char *job)
{
    const struct keep_policy *p = &c->keep;
    for (size_t i = 0; i < c->value_count; i++) {
        const struct config_value *v = &c->values[i];
        if (!v->job || fnmatch(v->job, job, 0) != 0)
            continue;
        for (size_t k = 0; k < c->job_count; k++)
            if (strcmp(c->jobs[k].pattern, v->job) == 0)
                p = &c->jobs[k].keep;
        break;
    }
    return p->count ? p : NULL;
}

bool config_keeps(const struct config *c)
{
    bool any = c->keep.count > 0;
    for (size_t i = 0; i < c->job_count; i++)
        any |= c->jobs[i].keep.count > 0;
    return any;
}
