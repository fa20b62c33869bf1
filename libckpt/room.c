/* See room.h. */
#include "libckpt/room.h"

#include <sys/mman.h>

bool room_make(struct room *r, uint64_t len)
{
    if (r->bytes)
        return true;
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return false;
    madvise(p, len, MADV_DONTFORK);
    *r = (struct room){ .bytes = p, .len = len };
    return true;
}

enum ckpt_status room_pin(struct room *r, struct gpu *g, struct ckpt_err *err)
{
    if (r->pinned_by)
        return CKPT_OK;
    enum ckpt_status st = g->ops->pin(g, r->bytes, r->len, err);
    if (st == CKPT_OK)
        r->pinned_by = g;
    return st;
}

void room_drop(struct room *r)
{
    if (r->pinned_by)
        r->pinned_by->ops->unpin(r->pinned_by, r->bytes, r->len);
    if (r->bytes)
        munmap(r->bytes, r->len);
    *r = (struct room){ 0 };
}
