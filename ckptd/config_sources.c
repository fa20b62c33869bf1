/* What file, environment and flags say, each value tried as it is read. */
#include "ckptd/config_sources.h"

#include "ckptd/config_file.h"
#include "ckptd/config_keys.h"

/* -- errors ------------------------------------------------------------------------------- */

struct ckpt_err *config_one_more(struct config_errors *e)
{
    struct ckpt_err *err = e->count < CONFIG_ERRORS_MAX ? &e->list[e->count] : NULL;
    if (err)
        *err = (struct ckpt_err){ 0 };
    e->count++;
    return err;
}

void config_place(const struct config *c, const struct config_value *v, char *ret, size_t cap)
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

void config_complain(struct loading *l, const struct config_value *v, const struct ckpt_err *why)
{
    char where[4200];
    config_place(l->c, v, where, sizeof(where));
    (void)err_set(config_one_more(l->errors), why->status, "%.600s %.400s", where, err_text(why));
}

static void complain_line(struct loading *l, unsigned line, const char *why)
{
    (void)err_set(config_one_more(l->errors), CKPT_INVALID, "%.600s:%u: %s", l->c->file, line, why);
}

/* -- collecting --------------------------------------------------------------------------- */

struct config_job *config_job_of(struct config *c, const char *pattern)
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
        (void)err_set(config_one_more(l->errors), CKPT_NO_MEMORY, "no memory for settings");
        return;
    }
    l->c->values[l->c->value_count++] = *v;
    if (v->key->flags & CONFIG_REPEATS)
        l->scratch->remote_count = 0; /* how many there are is seen at the end */
    if (v->key->set(v->key, v->text, l->scratch, v->job ? &job : NULL, &why) != CKPT_OK)
        config_complain(l, v, &why);
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
            (void)err_set(config_one_more(l->errors), CKPT_INVALID,
                          "unknown option \"%.200s\"%s (see --help)", arg, near);
            continue;
        }
        const char *text = !k->argument ? "yes" : arg[2 + len] == '=' ? arg + 3 + len : NULL;
        if (!text && i + 1 < l->in->argc)
            text = l->in->argv[++i];
        if (!text) {
            (void)err_set(config_one_more(l->errors), CKPT_INVALID,
                          "--%s needs a value (see --help)", k->name);
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
    if (config_job_of(c, line->job)) {
        complain_line(l, line->number, "this section stands twice");
    } else if (c->job_count == CONFIG_JOBS_MAX) {
        complain_line(l, line->number, "more than 64 sections");
    } else if (!array_room((void **)&c->jobs, c->job_count, &c->job_cap, sizeof(*c->jobs))) {
        (void)err_set(config_one_more(l->errors), CKPT_NO_MEMORY, "no memory for settings");
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
        (void)err_set(config_one_more(l->errors), st == CKPT_OK ? CKPT_NO_MEMORY : st,
                      "%s (--config none: no file)",
                      st == CKPT_OK ? "no memory for settings" : err_text(&why));
        return;
    }
    c->text[len] = 0;
    c->raw = malloc(len + 1); /* for whoever is to read the same */
    if (!c->raw) {
        (void)err_set(config_one_more(l->errors), CKPT_NO_MEMORY, "no memory for settings");
        return;
    }
    memcpy(c->raw, c->text, len + 1);
    c->raw_len = len;
    struct config_cursor at = { 0 };
    struct config_line line;
    while (config_file_next(c->text, len, &at, &line))
        take_line(l, &line);
}

void config_collect(struct loading *l)
{
    take_file(l);
    take_env(l);
    take_flags(l);
}
