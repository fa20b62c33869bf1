/* See respawn.h. */
#include "libckpt/respawn.h"

bool respawn_due(const struct respawn *r, int64_t now_ns)
{
    return r->pause_ns == 0 || now_ns >= r->next_ns;
}

void respawn_note(struct respawn *r, int64_t now_ns)
{
    bool anew = r->pause_ns == 0 || now_ns - r->next_ns > RESPAWN_MOST_NS;
    int64_t twice = r->pause_ns < RESPAWN_MOST_NS / 2 ? 2 * r->pause_ns : RESPAWN_MOST_NS;
    r->pause_ns = anew ? RESPAWN_LEAST_NS : twice;
    r->next_ns = now_ns + r->pause_ns;
}
