/* Declared names to saved ones. */
#include "storage/repo/plan_names.h"

static int compare_names(const void *a, const void *b)
{
    const struct plan_name *x = a, *y = b;
    int c = strcmp(x->declared, y->declared);
    return c ? c : strcmp(x->saved, y->saved);
}

static enum ckpt_status add_name(struct plan_names *n, const char *saved, struct ckpt_err *err)
{
    char declared[CKPT_TENSOR_NAME_MAX + 1];
    enum ckpt_status st = select_rename(n->select, saved, declared, err);
    if (st != CKPT_OK)
        return st;
    bool room = array_room((void **)&n->renamed, n->count, &n->cap, sizeof(*n->renamed));
    char *copy = room ? strdup(declared) : NULL;
    if (!copy)
        return err_set(err, CKPT_NO_MEMORY, "no memory to rename tensors");
    n->renamed[n->count++] = (struct plan_name){ copy, saved };
    return CKPT_OK;
}

enum ckpt_status plan_names_init(struct plan_names *n, struct reader *r,
                                 const struct select *select, struct ckpt_err *err)
{
    *n = (struct plan_names){ .r = r, .select = select };
    bool any = !select_is_all(select) && select->renames > 0;
    for (uint64_t i = 0; any && i < reader_tensor_count(r); i++) {
        const struct index_tensor *t;
        enum ckpt_status st = reader_tensor_at(r, i, &t, err);
        if (st == CKPT_OK && select_renames(select, t->name))
            st = add_name(n, t->name, err);
        if (st != CKPT_OK)
            return st;
    }
    if (n->count)
        qsort(n->renamed, n->count, sizeof(*n->renamed), compare_names);
    return CKPT_OK;
}

void plan_names_fini(struct plan_names *n)
{
    for (size_t i = 0; i < n->count; i++)
        free(n->renamed[i].declared);
    free(n->renamed);
    *n = (struct plan_names){ 0 };
}

/* Of what was renamed, the first that became `declared`; n->count if none did. */
static size_t first_renamed(const struct plan_names *n, const char *declared)
{
    size_t lo = 0, hi = n->count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (strcmp(n->renamed[mid].declared, declared) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n->count && strcmp(n->renamed[lo].declared, declared) == 0 ? lo : n->count;
}

static enum ckpt_status two_sources(const char *a, const char *b, const char *declared,
                                    struct ckpt_err *err)
{
    return err_set(err, CKPT_INVALID,
                   "rename: tensors %.300s and %.300s of the checkpoint both become %.300s", a, b,
                   declared);
}

enum ckpt_status plan_names_find(struct plan_names *n, const char *declared,
                                 const struct index_tensor **ret, struct ckpt_err *err)
{
    const char *saved = NULL;
    size_t at = first_renamed(n, declared);
    if (at < n->count) {
        saved = n->renamed[at].saved;
        if (at + 1 < n->count && strcmp(n->renamed[at + 1].declared, declared) == 0)
            return two_sources(saved, n->renamed[at + 1].saved, declared, err);
    }
    *ret = NULL;
    const struct index_tensor *t;
    enum ckpt_status st = CKPT_OK;
    if (!select_renames(n->select, declared)) { /* under its own name */
        st = reader_tensor(n->r, declared, &t, err);
        if (st == CKPT_OK && saved)
            return two_sources(saved, t->name, declared, err);
        if (st == CKPT_OK)
            *ret = t;
    }
    if (saved)
        st = reader_tensor(n->r, saved, ret, err);
    return st == CKPT_NOT_FOUND ? CKPT_OK : st;
}

bool plan_names_wanted(const struct plan_names *n, const char *saved)
{
    char declared[CKPT_TENSOR_NAME_MAX + 1];
    return select_is_all(n->select) ||
           (select_rename(n->select, saved, declared, NULL) == CKPT_OK &&
            select_wants(n->select, declared));
}
