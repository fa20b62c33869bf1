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

void room_pin(struct room *r, struct gpu *g)
{
    if (!r->pinned_by && g->ops->pin(g, r->bytes, r->len, NULL) == CKPT_OK)
        r->pinned_by = g;
}

void room_drop(struct room *r)
{
    if (r->pinned_by)
        r->pinned_by->ops->unpin(r->pinned_by, r->bytes, r->len);
    if (r->bytes)
        munmap(r->bytes, r->len);
    *r = (struct room){ 0 };
}
