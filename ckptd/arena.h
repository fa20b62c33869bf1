/* Arenas: shared memory between a trainer and the daemon, and whether there is room. */
#pragma once

#include "formats/base.h"

struct arena {
    int fd; /* memfd, sealed against growing and shrinking; -1 = none */
    uint8_t *base;
    uint64_t bytes;
};
/* What is left on this machine and in this cgroup after `keep_free`, which nobody gets. */
struct arena_room {
    uint64_t available; /* MemAvailable */
    uint64_t cgroup;    /* UINT64_MAX = no limit */
    uint64_t left;      /* min of both - keep_free - what is being populated now */
    uint64_t keep_free;
};
void arena_room_look(struct arena_room *ret);
/* The same from given texts: /proc/meminfo, /proc/self/cgroup, and the directory that
 * stands for /sys/fs/cgroup (tests). */
void arena_room_from(const char *meminfo, const char *cgroup, const char *sysfs,
                     struct arena_room *ret);
/* Makes, admits, maps and touches an arena; blocks for as long as touching takes.
 * who: for the message.  numa: 1 + the node that its pages come from while that has any; 0: as
 * it comes.  CKPT_NO_MEMORY: what was asked, what is left. */
enum ckpt_status arena_new(const char *who, uint64_t bytes, uint32_t numa, struct arena *ret,
                           uint64_t *ret_left, struct ckpt_err *err) CKPT_MUST_CHECK;
/* Maps an arena that another worker left (takes fd on success). */
enum ckpt_status arena_open(int fd, uint64_t bytes, struct arena *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
void arena_close(struct arena *a);
