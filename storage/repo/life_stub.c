/* Stands in for life.c until it is there. */
#include "storage/repo/life.h"

__attribute__((weak)) enum ckpt_status life_look(struct store *s, const char *job,
                                                 const struct ckpt_name *name, bool copy,
                                                 enum life *ret, uint64_t *ret_n,
                                                 int64_t *ret_time_ns, struct ckpt_err *err)
{
    struct key dir = key_life_of(job, name, copy);
    struct store_entry e;
    size_t count, len;
    bool more;
    *ret = LIFE_LIVE;
    *ret_n = 0;
    *ret_time_ns = 0;
    enum ckpt_status st = store_list(s, dir.text, true, "", &e, 1, &count, &more, err);
    if (st != CKPT_OK || count == 0)
        return st;
    struct key key;
    memcpy(key.text, e.key, sizeof(key.text));
    CLEANUP_FREE void *bytes = NULL;
    struct record_life r;
    st = repo_get(s, &key, &bytes, &len, err);
    if (st == CKPT_OK)
        st = record_life_decode(bytes, len, key.text, &r, err);
    if (st == CKPT_OK)
        *ret = r.life;
    return st;
}
