/* See owner.h. */
#include "storage/repo/owner.h"

enum ckpt_status owner_mark(struct store *tier, const char *job, uint64_t epoch,
                            const struct record_repo *home, struct ckpt_err *err)
{
    struct key key = key_owner(job, epoch, home->uuid);
    struct store_stat stat;
    struct ckpt_err why = { 0 };
    enum ckpt_status st = store_stat(tier, key.text, &stat, &why);
    if (st != CKPT_NOT_FOUND)
        return st == CKPT_OK ? st : err_set(err, st, "%s", err_text(&why));
    CLEANUP_BUF struct buf b = { 0 };
    record_repo_encode(home, &b);
    return repo_put(tier, &key, &b, err);
}

struct looking {
    const char *ours;
    size_t epoch_len; /* of what all marks of the epoch begin with */
    struct owner found;
};

static enum ckpt_status look_each(void *arg, const struct store_entry *e)
{
    struct looking *l = arg;
    bool ours = strcmp(e->key, l->ours) == 0;
    l->found.any = true;
    l->found.ours |= ours;
    l->found.others |= !ours && strncmp(e->key, l->ours, l->epoch_len) == 0;
    return CKPT_OK;
}

enum ckpt_status owner_look(struct store *tier, const char *job, uint64_t epoch,
                            const struct record_repo *home, struct owner *ret, struct ckpt_err *err)
{
    struct key marks = key_owners(job), ours = key_owner(job, epoch, home->uuid);
    struct looking l = { .ours = ours.text,
                         .epoch_len = (size_t)(strrchr(ours.text, '/') + 1 - ours.text) };
    enum ckpt_status st = repo_list(tier, marks.text, false, look_each, &l, err);
    if (st == CKPT_OK)
        *ret = l.found;
    return st;
}
