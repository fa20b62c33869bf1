/* Which tensor of a checkpoint a declared name means, when names are changed on the way.
 *
 * The rules of a renaming go from saved names to declared ones (select.h), so all saved names
 * are walked once, and only when there are rules; what they become is kept sorted.  Two saved
 * names that become one declared name are refused when that name is asked for. */
#pragma once

#include "formats/select.h"
#include "storage/repo/reader.h"

struct plan_names {
    struct reader *r;
    const struct select *select; /* borrowed; may be NULL */
    struct plan_name {
        char *declared;    /* owned */
        const char *saved; /* borrowed from the reader */
    } * renamed;           /* sorted by declared, then saved */
    size_t count, cap;
};
/* select: borrowed until fini; NULL = everything under its own name. */
enum ckpt_status plan_names_init(struct plan_names *n, struct reader *r,
                                 const struct select *select, struct ckpt_err *err) CKPT_MUST_CHECK;
void plan_names_fini(struct plan_names *n);
/* The tensor that `declared` means, as it was saved (it may be an alias); NULL: there is none.
 * CKPT_INVALID names both when two saved tensors become it. */
enum ckpt_status plan_names_find(struct plan_names *n, const char *declared,
                                 const struct index_tensor **ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* True if the declared name that `saved` becomes is one that the patterns want. */
bool plan_names_wanted(const struct plan_names *n, const char *saved);
