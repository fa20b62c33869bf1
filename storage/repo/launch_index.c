/* Which records there are of a job's launches, from one listing. */
#include "storage/repo/launch.h"

struct indexing {
    struct launch_index *x;
    size_t prefix_len;
    struct ckpt_err *err;
};

void launch_index_fini(struct launch_index *x)
{
    free(x->records);
    *x = (struct launch_index){ 0 };
}

bool launch_index_has(const struct launch_index *x, uint64_t epoch, const char *what)
{
    for (size_t i = 0; i < x->count && x->records[i].epoch >= epoch; i++)
        if (x->records[i].epoch == epoch && strcmp(x->records[i].what, what) == 0)
            return true;
    return false;
}

/* Before the records of older launches. */
enum ckpt_status launch_index_add(struct launch_index *x, const struct launch_record *record,
                                  struct ckpt_err *err)
{
    if (x->count == x->cap) {
        size_t cap = x->cap ? 2 * x->cap : 64;
        struct launch_record *grown = realloc(x->records, cap * sizeof(*grown));
        if (!grown)
            return err_set(err, CKPT_NO_MEMORY, "no memory for %zu records of launches", cap);
        x->records = grown;
        x->cap = cap;
    }
    size_t i = x->count++;
    for (; i > 0 && x->records[i - 1].epoch < record->epoch; i--)
        x->records[i] = x->records[i - 1];
    x->records[i] = *record;
    return CKPT_OK;
}

const char *launch_key_what(const char *at, uint64_t *ret_epoch)
{
    char digits[17] = "";
    if (strlen(at) < 18 || at[16] != '/')
        return NULL;
    memcpy(digits, at, 16);
    return key_number_parse(digits, ret_epoch) ? at + 17 : NULL;
}

/* What nodes say of themselves is not history. */
static bool is_history(const char *what)
{
    return strcmp(what, "claim") == 0 || strcmp(what, "resolved") == 0 ||
           strcmp(what, "restored") == 0 || strcmp(what, "progress") == 0 ||
           strncmp(what, "bad-", 4) == 0;
}

enum ckpt_status launch_index_take(struct launch_index *x, const char *at, uint64_t bytes,
                                   struct ckpt_err *err)
{
    struct launch_record record = { .bytes = bytes };
    const char *what = launch_key_what(at, &record.epoch);
    if (!what || !is_history(what) || strlen(what) >= sizeof(record.what))
        return CKPT_OK;
    memcpy(record.what, what, strlen(what) + 1);
    return launch_index_add(x, &record, err);
}

static enum ckpt_status index_each(void *arg, const struct store_entry *e)
{
    struct indexing *in = arg;
    return launch_index_take(in->x, e->key + in->prefix_len, e->stat.bytes, in->err);
}

enum ckpt_status launch_list(struct store *home, const char *job, struct launch_index *ret,
                             struct ckpt_err *err)
{
    struct launch_index x = { 0 };
    enum ckpt_status st = job_name_check(job, err);
    if (st != CKPT_OK)
        return st;
    struct key prefix = key_launches(job);
    struct indexing in = { .x = &x, .prefix_len = strlen(prefix.text), .err = err };
    st = repo_list(home, prefix.text, false, index_each, &in, err);
    if (st != CKPT_OK) {
        launch_index_fini(&x);
        return st;
    }
    *ret = x;
    return CKPT_OK;
}
