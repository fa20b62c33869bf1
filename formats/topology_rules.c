/* Reading a layout file: one line is `mesh SPEC` or a pattern and what is to be done with
 * the tensors that it matches.  Every mistake is named with file and line. */
#include "formats/topology_rules.h"

#include <inttypes.h>

#define LINE_MAX_BYTES 4096

/* A word of a line, not NUL-terminated. */
struct word {
    const char *at;
    size_t len;
};
struct line {
    const char *file;
    unsigned number;
    const char *at, *end;
};

static bool next_word(struct line *l, struct word *ret)
{
    while (l->at < l->end && (*l->at == ' ' || *l->at == '\t' || *l->at == '\r'))
        l->at++;
    ret->at = l->at;
    while (l->at < l->end && *l->at != ' ' && *l->at != '\t' && *l->at != '\r')
        l->at++;
    ret->len = (size_t)(l->at - ret->at);
    return ret->len > 0 && ret->at[0] != '#';
}

static bool word_is(const struct word *w, const char *text)
{
    return w->len == strlen(text) && memcmp(w->at, text, w->len) == 0;
}

/* A number at the front of `w`, which loses it. */
static bool take_number(struct word *w, int64_t *ret)
{
    bool negative = w->len > 0 && w->at[0] == '-';
    size_t i = negative;
    int64_t value = 0;
    for (; i < w->len && w->at[i] >= '0' && w->at[i] <= '9'; i++) {
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, w->at[i] - '0', &value))
            return false;
    }
    if (i == (size_t)negative)
        return false;
    w->at += i;
    w->len -= i;
    *ret = negative ? -value : value;
    return true;
}

static bool take_char(struct word *w, char c)
{
    if (w->len == 0 || w->at[0] != c)
        return false;
    w->at++;
    w->len--;
    return true;
}

static bool take_dim(struct word *w, int32_t *ret)
{
    int64_t n;
    if (!take_number(w, &n) || n < -CKPT_DIMS_MAX || n >= CKPT_DIMS_MAX)
        return false;
    *ret = (int32_t)n;
    return true;
}

/* "[4096+1024+1024]" */
static bool take_sections(struct word *w, struct topology_place *p)
{
    uint64_t section[TOPOLOGY_SECTIONS_MAX];
    do {
        int64_t n;
        if (p->section_count == TOPOLOGY_SECTIONS_MAX || !take_number(w, &n) || n < 0)
            return false;
        section[p->section_count++] = (uint64_t)n;
    } while (take_char(w, '+'));
    if (!take_char(w, ']'))
        return false;
    p->section = malloc(p->section_count * sizeof(*p->section));
    if (!p->section)
        return false;
    memcpy(p->section, section, p->section_count * sizeof(*p->section));
    return true;
}

/* "0", "-1", "0/2", "0[6+2+2]" */
static bool parse_shard(struct word w, struct topology_place *p)
{
    int64_t factor;
    p->how = HOW_SHARD;
    if (!take_dim(&w, &p->dim))
        return false;
    if (take_char(&w, '/')) {
        p->how = HOW_STRIDE;
        if (!take_number(&w, &factor) || factor < 1 || factor > CKPT_RANKS_MAX)
            return false;
        p->number = (int32_t)factor;
    } else if (take_char(&w, '[') && !take_sections(&w, p)) {
        return false;
    }
    return w.len == 0;
}

/* "=3", "=-1" */
static bool parse_only(struct word w, struct topology_place *p)
{
    int64_t n;
    p->how = HOW_ONLY;
    if (!take_char(&w, '=') || !take_number(&w, &n) || w.len > 0 || n < -(int64_t)CKPT_RANKS_MAX ||
        n >= CKPT_RANKS_MAX)
        return false;
    p->number = (int32_t)n;
    return true;
}

static bool parse_place(const struct word *w, struct topology_place *p)
{
    static const struct {
        const char *word;
        enum topology_how how;
    } words[] = { { "*", HOW_REPLICATE },
                  { "flat", HOW_FLAT },
                  { "layer", HOW_LAYER },
                  { "expert", HOW_EXPERT } };
    for (size_t i = 0; i < ARRAY_COUNT(words); i++) {
        if (word_is(w, words[i].word)) {
            p->how = words[i].how;
            return true;
        }
    }
    return w->len > 0 && w->at[0] == '=' ? parse_only(*w, p) : parse_shard(*w, p);
}

/* "0=50304" */
static bool parse_pad(struct word w, struct topology_rule *r)
{
    int64_t to;
    if (!take_dim(&w, &r->pad_dim) || !take_char(&w, '=') || !take_number(&w, &to) || to < 1 ||
        w.len > 0)
        return false;
    r->pad_to = (uint64_t)to;
    return true;
}

static enum ckpt_status wrong(const struct line *l, struct ckpt_err *err, const char *what,
                              const struct word *w)
{
    return err_set(err, CKPT_INVALID, "%s line %u: %s: \"%.*s\"", l->file, l->number, what,
                   (int)min_u64(w->len, 80), w->at);
}

static const char place_help[] =
    "a place is DIM, DIM/CHUNKS, DIM[LENGTH+LENGTH...], * (whole), flat, layer, expert or =NUMBER";

/* "tp:0", "pad:0=50304", "skip" */
static enum ckpt_status parse_clause(const struct line *l, const struct word *w,
                                     struct topology_rule *r, struct ckpt_err *err)
{
    if (word_is(w, "skip")) {
        r->skip = true;
        return CKPT_OK;
    }
    const char *colon = memchr(w->at, ':', w->len);
    if (!colon)
        return wrong(l, err, "AXIS:PLACE, pad:DIM=SIZE or skip is wanted", w);
    struct word key = { w->at, (size_t)(colon - w->at) };
    struct word value = { colon + 1, w->len - key.len - 1 };
    if (word_is(&key, "pad")) {
        if (r->pad_to || !parse_pad(value, r))
            return wrong(l, err, "padding is said once, as pad:DIM=SIZE", w);
        return CKPT_OK;
    }
    for (int axis = 0; axis < TOPOLOGY_AXES; axis++) {
        if (!word_is(&key, topology_axis_name((enum topology_axis)axis)))
            continue;
        struct topology_place *p = &r->place[axis];
        if (p->how != HOW_DEFAULT)
            return wrong(l, err, "the axis is there twice", w);
        return parse_place(&value, p) ? CKPT_OK : wrong(l, err, place_help, w);
    }
    return wrong(l, err, "unknown axis (known: tp, pp, dp, ep, cp, rep; etp is said as tp)", w);
}

static enum ckpt_status add_rule(struct topology_rules *rules, struct line *l,
                                 const struct word *pattern, struct ckpt_err *err)
{
    if (rules->count == TOPOLOGY_RULES_MAX)
        return err_set(err, CKPT_LIMIT, "%s line %u: more than %d rules", l->file, l->number,
                       TOPOLOGY_RULES_MAX);
    struct topology_rule *more =
        reallocarray(rules->rules, rules->count + 1, sizeof(*rules->rules));
    if (!more)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the rules of %s", l->file);
    rules->rules = more;
    struct topology_rule *r = &more[rules->count++];
    *r = (struct topology_rule){ .line = l->number, .pattern = strndup(pattern->at, pattern->len) };
    if (!r->pattern)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the rules of %s", l->file);
    struct word w;
    enum ckpt_status st = CKPT_OK;
    bool any = false;
    while (st == CKPT_OK && next_word(l, &w)) {
        st = parse_clause(l, &w, r, err);
        any = true;
    }
    if (st == CKPT_OK && !any)
        return wrong(l, err, "a pattern alone says nothing; what is to be done with it?", pattern);
    return st;
}

static enum ckpt_status parse_mesh_line(struct topology_rules *rules, struct line *l,
                                        struct ckpt_err *err)
{
    struct word spec, more;
    bool any = next_word(l, &spec);
    if (!any || rules->mesh || next_word(l, &more))
        return err_set(err, CKPT_INVALID, "%s line %u: one mesh is wanted, like mesh tp=4,dp=2",
                       l->file, l->number);
    rules->mesh = strndup(spec.at, spec.len);
    rules->mesh_line = l->number;
    return rules->mesh ? CKPT_OK
                       : err_set(err, CKPT_NO_MEMORY, "no memory for the rules of %s", l->file);
}

static enum ckpt_status parse_line(struct topology_rules *rules, struct line *l,
                                   struct ckpt_err *err)
{
    struct word first;
    if ((size_t)(l->end - l->at) > LINE_MAX_BYTES)
        return err_set(err, CKPT_LIMIT, "%s line %u: longer than %d bytes", l->file, l->number,
                       LINE_MAX_BYTES);
    if (memchr(l->at, 0, (size_t)(l->end - l->at)))
        return err_set(err, CKPT_INVALID, "%s line %u: a NUL byte: this is no text", l->file,
                       l->number);
    if (!next_word(l, &first))
        return CKPT_OK;
    return word_is(&first, "mesh") ? parse_mesh_line(rules, l, err)
                                   : add_rule(rules, l, &first, err);
}

enum ckpt_status topology_rules_parse(const char *file, const char *text, size_t len,
                                      struct topology_rules *ret, struct ckpt_err *err)
{
    *ret = (struct topology_rules){ .file = file ? file : "layout" };
    if (len > TOPOLOGY_FILE_MAX)
        return err_set(err, CKPT_LIMIT, "%s has %zu bytes, a layout file at most %llu", ret->file,
                       len, (unsigned long long)TOPOLOGY_FILE_MAX);
    struct line l = { .file = ret->file };
    enum ckpt_status st = CKPT_OK;
    for (size_t at = 0; at < len && st == CKPT_OK;) {
        const char *newline = memchr(text + at, '\n', len - at);
        l.number++;
        l.at = text + at;
        l.end = newline ? newline : text + len;
        at = (size_t)(l.end - text) + 1;
        st = parse_line(ret, &l, err);
    }
    if (st != CKPT_OK)
        topology_rules_fini(ret);
    return st;
}

void topology_rules_fini(struct topology_rules *r)
{
    for (size_t i = 0; i < r->count; i++) {
        free(r->rules[i].pattern);
        for (int axis = 0; axis < TOPOLOGY_AXES; axis++)
            free(r->rules[i].place[axis].section);
    }
    free(r->rules);
    free(r->mesh);
    *r = (struct topology_rules){ 0 };
}
