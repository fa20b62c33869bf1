/* What a restore takes of a checkpoint, and under which names.
 *
 *     saved names ──rename──► names as declared ──only, except──► what is restored
 *
 * Patterns: `*` is any run of bytes, also none, also with dots and slashes; `?` is one byte;
 * everything else is itself.  A name is wanted if it matches any of `only` (or there are
 * none) and none of `except`; both speak of names as declared.
 *
 * Renaming: a saved name that matches `from` counts as `to`, whose stars stand, in order,
 * for what the stars of `from` matched (each as little as possible, from left to right):
 * "model.*" → "module.model.*".  `from` and `to` have the same number of stars and no other
 * signs.  The first rule that matches is applied, once: there is no second round, hence no
 * loop, and two names can be exchanged.  A name that no rule matches keeps its own.  Two
 * saved names that become one are refused by whoever looks them up (plan_names.h). */
#pragma once

#include "formats/cursor.h"

#define SELECT_RULES_MAX 1024        /* patterns and renames together */
#define SELECT_STARS_MAX 8           /* in one pattern of a rename */
#define SELECT_BYTES_MAX (48u << 10) /* encoded: it travels in one message */

enum select_kind { SELECT_ONLY = 1, SELECT_EXCEPT = 2, SELECT_RENAME = 3 };
struct select_rule {
    enum select_kind kind;
    char *pattern; /* owned; of a rename: from */
    char *to;      /* owned; NULL unless a rename */
};
struct select {
    struct select_rule *rules; /* in order */
    size_t count;
    size_t only, renames; /* how many of them */
};

void select_fini(struct select *s);
/* Adds a rule (copied).  CKPT_INVALID or CKPT_LIMIT names the pattern: it is empty, longer
 * than a tensor's name may be, or no pair; a rename whose `from` another rule has already
 * could never apply; two plain renames onto one name. */
enum ckpt_status select_add(struct select *s, enum select_kind kind, const char *pattern,
                            const char *to, struct ckpt_err *err) CKPT_MUST_CHECK;
/* True without any rule: everything, under its own name. */
static inline bool select_is_all(const struct select *s)
{
    return !s || s->count == 0;
}
bool select_wants(const struct select *s, const char *declared);
/* The declared name of a saved one, in ret (CKPT_TENSOR_NAME_MAX + 1 bytes).  CKPT_LIMIT
 * names both when it would be longer, CKPT_BAD_NAME when it is no name. */
enum ckpt_status select_rename(const struct select *s, const char *saved, char *ret,
                               struct ckpt_err *err) CKPT_MUST_CHECK;
/* True if any rule renames it. */
bool select_renames(const struct select *s, const char *saved);
bool select_match(const char *pattern, const char *name);

/* Bytes for the daemon; at most SELECT_BYTES_MAX, else CKPT_LIMIT. */
enum ckpt_status select_encode(const struct select *s, struct buf *out, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* From hostile bytes; none = no rules. */
enum ckpt_status select_decode(const void *bytes, size_t len, struct select *ret,
                               struct ckpt_err *err) CKPT_MUST_CHECK;
