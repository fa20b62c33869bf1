/* From the page to samples: for each meter of the table, all places of its scope. */
#include "ckptd/metrics_text.h"

#include <jansson.h>
#include <stdio.h>

#include "formats/meter.h"

#define LIST_MAX 1024 /* entries of a list that are looked at: as many as ckptd has sessions */
#define KEPT_MAX 16   /* of a job's tiers */

struct writer {
    FILE *to;
    size_t series;
};
/* What tells the series of a meter apart; NULL ends it. */
struct label {
    const char *name;
    const json_t *value; /* "rank": an integer; others: a string */
};
/* The lists of a page, without what has no name or the same as another. */
struct lists {
    json_t *tiers, *jobs, *ranks;
};

/* -- bytes ------------------------------------------------------------------------- */

/* Backslash, quote and newline as the format wants them; jansson has checked the UTF-8. */
static void put_quoted(FILE *to, const char *text)
{
    for (; *text; text++) {
        if (*text == '\n')
            fputs("\\n", to);
        else if (*text == '\\' || *text == '"')
            fprintf(to, "\\%c", *text);
        else
            fputc(*text, to);
    }
}

static void put_labels(FILE *to, const struct label *labels)
{
    const char *before = "{";
    for (; labels->name; labels++) {
        fprintf(to, "%s%s=\"", before, labels->name);
        if (json_is_string(labels->value))
            put_quoted(to, json_string_value(labels->value));
        else
            fprintf(to, "%lld", (long long)json_integer_value(labels->value));
        fputc('"', to);
        before = ",";
    }
    if (*before == ',')
        fputc('}', to);
}

static void put_head(FILE *to, const char *name, const char *help, bool counter)
{
    fprintf(to, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, counter ? "counter" : "gauge");
}

/* -- samples ----------------------------------------------------------------------- */

/* The meter's member of `from`, if it is there: a sample. */
static void put_sample(struct writer *w, const struct meter *m, const json_t *from,
                       const struct label *labels)
{
    char name[METER_TEXT];
    const json_t *value = json_object_get(from, m->name);
    if (!json_is_number(value) || w->series >= METRICS_SERIES_MAX ||
        (m->kind == METER_COUNTER && json_number_value(value) < 0))
        return;
    w->series++;
    fputs(meter_prometheus(m, name), w->to);
    put_labels(w->to, labels);
    if (json_is_integer(value))
        fprintf(w->to, " %lld\n", (long long)json_integer_value(value));
    else
        fprintf(w->to, " %.9g\n", json_real_value(value));
}

/* One sample for each member of a list; its label is the member that is called like it. */
static void put_list(struct writer *w, const struct meter *m, const json_t *list, const char *label)
{
    size_t i;
    const json_t *at;
    json_array_foreach(list, i, at)
    {
        const struct label labels[] = { { label, json_object_get(at, label) }, { 0 } };
        put_sample(w, m, at, labels);
    }
}

static void put_kept(struct writer *w, const struct meter *m, const json_t *jobs)
{
    size_t i, k;
    const json_t *job, *tier;
    json_array_foreach(jobs, i, job)
    {
        json_array_foreach(json_object_get(job, "tiers"), k, tier)
        {
            const struct label labels[] = { { "job", json_object_get(job, "job") },
                                            { "tier", json_object_get(tier, "tier") },
                                            { 0 } };
            put_sample(w, m, tier, labels);
        }
    }
}

static void put_ranks(struct writer *w, const struct meter *m, const json_t *ranks)
{
    size_t i;
    const json_t *s;
    json_array_foreach(ranks, i, s)
    {
        const struct label labels[] = { { "job", json_object_get(s, "job") },
                                        { "rank", json_object_get(s, "rank") },
                                        { 0 } };
        put_sample(w, m, s, labels);
    }
}

/* -- lists ------------------------------------------------------------------------- */

/* NULL if the entry lacks it. */
static const json_t *key_of(const json_t *entry, const char *key)
{
    const json_t *value = json_object_get(entry, key);
    bool good = strcmp(key, "rank") == 0 ? json_is_integer(value) : json_is_string(value);
    return good ? value : NULL;
}

static bool same(const json_t *a, const json_t *b, const char *const keys[2])
{
    for (size_t i = 0; i < 2 && keys[i]; i++)
        if (!json_equal(key_of(a, keys[i]), key_of(b, keys[i])))
            return false;
    return true;
}

static bool has_keys(const json_t *entry, const char *const keys[2])
{
    return key_of(entry, keys[0]) && (!keys[1] || key_of(entry, keys[1]));
}

/* The entries that have these keys, each once: of two that are called the same, the later. */
static json_t *unique(const json_t *list, size_t max, const char *const keys[2])
{
    json_t *ret = json_array();
    size_t count = min_u64(json_array_size(list), max);
    for (size_t i = count; i > 0; i--) {
        json_t *entry = json_array_get(list, i - 1);
        bool skip = !has_keys(entry, keys);
        for (size_t k = 0; k < json_array_size(ret) && !skip; k++)
            skip = same(entry, json_array_get(ret, k), keys);
        if (!skip)
            json_array_append(ret, entry);
    }
    return ret;
}

/* Sessions that are ranks of a job that trains. */
static json_t *training(const json_t *sessions)
{
    json_t *ret = json_array();
    size_t i;
    json_t *s;
    json_array_foreach(sessions, i, s)
    {
        const char *mode = json_string_value(json_object_get(s, "mode"));
        if (mode && strcmp(mode, "train") == 0 && json_is_false(json_object_get(s, "dead")))
            json_array_append(ret, s);
    }
    return ret;
}

static struct lists lists_of(const json_t *page)
{
    static const char *const tier[2] = { "tier" }, *const job[2] = { "job" },
                             *const rank[2] = { "job", "rank" };
    json_t *sessions = training(json_object_get(page, "sessions"));
    struct lists l = { .tiers = unique(json_object_get(page, "tiers"), LIST_MAX, tier),
                       .jobs = unique(json_object_get(page, "jobs"), LIST_MAX, job),
                       .ranks = unique(sessions, LIST_MAX, rank) };
    size_t i;
    json_t *at;
    json_array_foreach(l.jobs, i, at)
        json_object_set_new(at, "tiers", unique(json_object_get(at, "tiers"), KEPT_MAX, tier));
    json_decref(sessions);
    return l;
}

static void lists_fini(struct lists *l)
{
    json_decref(l->tiers);
    json_decref(l->jobs);
    json_decref(l->ranks);
}

/* -- the whole --------------------------------------------------------------------- */

/* What is said in labels of a 1. */
static void put_info(FILE *to, const json_t *page, const json_t *tiers)
{
    size_t i;
    const json_t *tier;
    const struct label build[] = { { "version", json_object_get(page, "version") }, { 0 } };
    if (json_is_string(build[0].value)) {
        put_head(to, "ckpt_build_info", "The version of ckptd, as a label.", false);
        fputs("ckpt_build_info", to);
        put_labels(to, build);
        fputs(" 1\n", to);
    }
    put_head(to, "ckpt_tier_info", "Where a tier is, and whether it outlives this node.", false);
    json_array_foreach(tiers, i, tier)
    {
        const json_t *name = json_object_get(tier, "tier"), *url = json_object_get(tier, "url");
        if (!json_is_string(url))
            continue;
        const struct label labels[] = { { "tier", name }, { "url", url }, { 0 } };
        fputs("ckpt_tier_info", to);
        put_labels(to, labels);
        fprintf(to, " %d\n", json_is_true(json_object_get(tier, "outlives_node")));
    }
}

static void put_meters(struct writer *w, const json_t *page, const struct lists *l)
{
    static const struct label none[] = { { 0 } };
    char name[METER_TEXT];
    for (size_t i = 0; i < METER_COUNT; i++) {
        const struct meter *m = &meters[i];
        put_head(w->to, meter_prometheus(m, name), m->help, m->kind == METER_COUNTER);
        switch (m->scope) {
        case METER_NODE:
            put_sample(w, m, json_object_get(page, "counters"), none);
            break;
        case METER_TIER:
            put_list(w, m, l->tiers, "tier");
            break;
        case METER_JOB:
            put_list(w, m, l->jobs, "job");
            break;
        case METER_KEPT:
            put_kept(w, m, l->jobs);
            break;
        case METER_RANK:
            put_ranks(w, m, l->ranks);
            break;
        case METER_SCOPES:
            break;
        }
    }
}

static void put_page(struct writer *w, const json_t *page)
{
    struct lists l = lists_of(page);
    put_info(w->to, page, l.tiers);
    put_meters(w, page, &l);
    lists_fini(&l);
}

enum ckpt_status metrics_text(const char *page, size_t len, char **ret, size_t *ret_len,
                              struct ckpt_err *err)
{
    json_error_t why;
    json_t *json = page ? json_loadb(page, len, JSON_REJECT_DUPLICATES, &why) : NULL;
    if (page && !json_is_object(json)) {
        json_decref(json);
        return err_set(err, CKPT_CORRUPT, "ckptd's status page is no JSON object");
    }
    char *text = NULL;
    size_t text_len = 0;
    struct writer w = { .to = open_memstream(&text, &text_len) };
    if (w.to) {
        put_head(w.to, "ckpt_up", "1 if ckptd answered, else 0.", false);
        fprintf(w.to, "ckpt_up %d\n", page != NULL);
        if (json)
            put_page(&w, json);
    }
    json_decref(json);
    if (!w.to || fclose(w.to) != 0) {
        free(text);
        return err_set(err, CKPT_NO_MEMORY, "no memory for the metrics");
    }
    *ret = text;
    *ret_len = text_len;
    return CKPT_OK;
}
