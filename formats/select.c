/* Patterns over names: which are taken, and what they are called. */
#include "formats/select.h"

#include <assert.h>

#include "formats/key.h"

/* --- matching --------------------------------------------------------------------- */

/* What one star stands for. */
struct run {
    const char *at;
    size_t len;
};

/* Every star before the last ends where what follows it first fits; only the last one has to
 * be tried again, so the work is at most length times length. */
static bool match(const char *pattern, const char *name, bool any_byte, struct run *stars)
{
    const char *after = NULL, *from = NULL; /* of the last star: what follows, where it ends */
    size_t n = 0;
    while (*name || *pattern) {
        if (*pattern == '*') {
            if (stars)
                stars[n] = (struct run){ name, 0 };
            n++;
            after = ++pattern;
            from = name;
            continue;
        }
        if (*name && (*pattern == *name || (any_byte && *pattern == '?'))) {
            pattern++;
            name++;
            continue;
        }
        if (!after || !*from)
            return false;
        pattern = after; /* the last star takes one byte more */
        name = ++from;
        if (stars)
            stars[n - 1].len = (size_t)(from - stars[n - 1].at);
    }
    return true;
}

bool select_match(const char *pattern, const char *name)
{
    return match(pattern, name, true, NULL);
}

bool select_wants(const struct select *s, const char *declared)
{
    bool only = select_is_all(s) || s->only == 0;
    for (size_t i = 0; !select_is_all(s) && i < s->count; i++) {
        const struct select_rule *r = &s->rules[i];
        if (r->kind == SELECT_RENAME || !select_match(r->pattern, declared))
            continue;
        if (r->kind == SELECT_EXCEPT)
            return false;
        only = true;
    }
    return only;
}

static const struct select_rule *rule_of(const struct select *s, const char *saved,
                                         struct run *stars)
{
    for (size_t i = 0; !select_is_all(s) && i < s->count; i++) {
        const struct select_rule *r = &s->rules[i];
        if (r->kind == SELECT_RENAME && match(r->pattern, saved, false, stars))
            return r;
    }
    return NULL;
}

bool select_renames(const struct select *s, const char *saved)
{
    struct run stars[SELECT_STARS_MAX];
    return rule_of(s, saved, stars) != NULL;
}

enum ckpt_status select_rename(const struct select *s, const char *saved, char *ret,
                               struct ckpt_err *err)
{
    struct run stars[SELECT_STARS_MAX];
    const struct select_rule *r = rule_of(s, saved, stars);
    char name[CKPT_TENSOR_NAME_MAX + 1];
    size_t len = 0, n = 0;
    for (const char *at = r ? r->to : saved; *at; at++) {
        struct run put = { at, 1 };
        if (r && *at == '*')
            put = stars[n++];
        if (put.len > CKPT_TENSOR_NAME_MAX - len)
            return err_set(err, CKPT_LIMIT,
                           "renaming \"%.200s\" to \"%.200s\": the name of %.200s would be longer "
                           "than %d bytes",
                           r ? r->pattern : saved, r ? r->to : saved, saved, CKPT_TENSOR_NAME_MAX);
        memcpy(name + len, put.at, put.len);
        len += put.len;
    }
    name[len] = 0;
    enum ckpt_status st = r ? tensor_name_check(name, len, err) : CKPT_OK;
    if (st != CKPT_OK) {
        err_prefix(err, "renaming %.200s by \"%.200s\" to \"%.200s\"", saved, r->pattern, r->to);
        return st;
    }
    memcpy(ret, name, len + 1);
    return CKPT_OK;
}

/* --- rules ------------------------------------------------------------------------- */

void select_fini(struct select *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->count; i++) {
        free(s->rules[i].pattern);
        free(s->rules[i].to);
    }
    free(s->rules);
    *s = (struct select){ 0 };
}

static size_t stars_in(const char *pattern)
{
    size_t n = 0;
    for (; *pattern; pattern++)
        n += *pattern == '*';
    return n;
}

static enum ckpt_status check_pattern(const char *what, const char *pattern, struct ckpt_err *err)
{
    if (!pattern || !*pattern)
        return err_set(err, CKPT_INVALID, "%s: an empty pattern", what);
    if (strlen(pattern) > CKPT_TENSOR_NAME_MAX)
        return err_set(err, CKPT_LIMIT, "%s \"%.100s...\": a pattern has at most %d bytes", what,
                       pattern, CKPT_TENSOR_NAME_MAX);
    return CKPT_OK;
}

static enum ckpt_status check_rename(const struct select *s, const char *from, const char *to,
                                     struct ckpt_err *err)
{
    enum ckpt_status st = check_pattern("rename", from, err);
    if (st == CKPT_OK)
        st = check_pattern("rename to", to, err);
    if (st != CKPT_OK)
        return st;
    size_t stars = stars_in(from);
    if (stars != stars_in(to))
        return err_set(err, CKPT_INVALID,
                       "rename \"%.200s\" to \"%.200s\": %zu stars become %zu; each stands for one",
                       from, to, stars, stars_in(to));
    if (stars > SELECT_STARS_MAX)
        return err_set(err, CKPT_LIMIT, "rename \"%.200s\": more than %d stars", from,
                       SELECT_STARS_MAX);
    for (size_t i = 0; i < s->count; i++) {
        const struct select_rule *r = &s->rules[i];
        if (r->kind != SELECT_RENAME)
            continue;
        if (strcmp(r->pattern, from) == 0)
            return err_set(err, CKPT_INVALID,
                           "rename \"%.200s\": twice, to \"%.200s\" and to \"%.200s\"", from, r->to,
                           to);
        if (strcmp(r->to, to) == 0 && stars == 0)
            return err_set(err, CKPT_INVALID,
                           "rename: \"%.200s\" and \"%.200s\" both become %.200s", r->pattern, from,
                           to);
    }
    return CKPT_OK;
}

enum ckpt_status select_add(struct select *s, enum select_kind kind, const char *pattern,
                            const char *to, struct ckpt_err *err)
{
    bool rename = kind == SELECT_RENAME;
    enum ckpt_status st =
        rename ? check_rename(s, pattern, to, err)
               : check_pattern(kind == SELECT_ONLY ? "only" : "except", pattern, err);
    if (st != CKPT_OK)
        return st;
    if (s->count == SELECT_RULES_MAX)
        return err_set(err, CKPT_LIMIT, "pattern \"%.200s\": more than %d patterns and renames",
                       pattern, SELECT_RULES_MAX);
    struct select_rule *more = reallocarray(s->rules, s->count + 1, sizeof(*more));
    if (!more)
        return err_set(err, CKPT_NO_MEMORY, "no memory for patterns");
    s->rules = more;
    struct select_rule r = { kind, strdup(pattern), rename ? strdup(to) : NULL };
    if (!r.pattern || (rename && !r.to)) {
        free(r.pattern);
        free(r.to);
        return err_set(err, CKPT_NO_MEMORY, "no memory for patterns");
    }
    s->rules[s->count++] = r;
    s->only += kind == SELECT_ONLY;
    s->renames += rename;
    return CKPT_OK;
}

/* --- bytes -------------------------------------------------------------------------- */

enum ckpt_status select_encode(const struct select *s, struct buf *out, struct ckpt_err *err)
{
    size_t start = out->len;
    for (size_t i = 0; !select_is_all(s) && i < s->count; i++) {
        buf_u8(out, (uint8_t)s->rules[i].kind);
        buf_str(out, s->rules[i].pattern);
        if (s->rules[i].kind == SELECT_RENAME)
            buf_str(out, s->rules[i].to);
    }
    if (out->failed)
        return err_set(err, CKPT_NO_MEMORY, "no memory for patterns");
    if (out->len - start > SELECT_BYTES_MAX)
        return err_set(err, CKPT_LIMIT, "patterns and renames of %zu bytes: at most %u together",
                       out->len - start, SELECT_BYTES_MAX);
    return CKPT_OK;
}

static enum ckpt_status decode_rule(struct cursor *c, struct select *s, struct ckpt_err *err)
{
    char pattern[CKPT_TENSOR_NAME_MAX + 1], to[CKPT_TENSOR_NAME_MAX + 1] = "";
    uint8_t kind = cursor_u8(c);
    cursor_str(c, pattern, sizeof(pattern));
    if (kind == SELECT_RENAME)
        cursor_str(c, to, sizeof(to));
    if (!cursor_ok(c) || kind < SELECT_ONLY || kind > SELECT_RENAME)
        return err_set(err, CKPT_CORRUPT, "patterns: cut short or malformed");
    return select_add(s, (enum select_kind)kind, pattern, to, err);
}

enum ckpt_status select_decode(const void *bytes, size_t len, struct select *ret,
                               struct ckpt_err *err)
{
    struct select s = { 0 };
    struct cursor c = cursor_over(bytes, len);
    enum ckpt_status st = CKPT_OK;
    if (len > SELECT_BYTES_MAX)
        return err_set(err, CKPT_CORRUPT, "patterns of %zu bytes", len);
    while (st == CKPT_OK && cursor_left(&c) > 0)
        st = decode_rule(&c, &s, err);
    if (st == CKPT_OK)
        *ret = s;
    else
        select_fini(&s);
    return st;
}
