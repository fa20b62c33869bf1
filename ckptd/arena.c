/* Admission and population of arenas.  Runs in crew threads: what is admitted but not
 * touched yet does not show in MemAvailable, so it is counted here. */
#include "ckptd/arena.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/mempolicy.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ckptd/proc_text.h"
#include "formats/wire.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#define NUMA_NODES       1024
#define NUMA_WORD        (8 * sizeof(unsigned long))
#define POPULATE_PIECE   (UINT64_C(64) << 20)
#define POPULATE_HELPERS 3 /* threads beside the caller */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t pending; /* under lock: admitted, not touched yet */

static uint64_t read_u64(const char *dir, const char *name, uint64_t otherwise)
{
    char path[4500], text[64];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    if (!proc_text(path, text, sizeof(text)) || text[0] < '0' || text[0] > '9')
        return otherwise; /* "max", or not there */
    return strtoull(text, NULL, 10);
}

static uint64_t meminfo_available(const char *text)
{
    const char *p = strstr(text, "MemAvailable:");
    return p ? strtoull(p + strlen("MemAvailable:"), NULL, 10) * KIB : UINT64_MAX;
}

/* What the group at `path` and all above it leave.  Reclaimable page cache does not count
 * as used. */
static uint64_t group_left(const char *root, char *path, const char *max, const char *used,
                           const char *inactive)
{
    uint64_t left = UINT64_MAX;
    char dir[4300], stat[8192];
    for (;;) {
        snprintf(dir, sizeof(dir), "%s%s", root, path);
        uint64_t limit = read_u64(dir, max, UINT64_MAX);
        uint64_t now = read_u64(dir, used, 0), cache = 0;
        snprintf(dir, sizeof(dir), "%s%s/memory.stat", root, path);
        const char *line = proc_text(dir, stat, sizeof(stat)) ? strstr(stat, inactive) : NULL;
        if (line)
            cache = strtoull(line + strlen(inactive), NULL, 10);
        now -= min_u64(now, cache);
        if (limit < UINT64_C(1) << 60)
            left = min_u64(left, limit - min_u64(limit, now));
        char *slash = strrchr(path, '/');
        if (!slash)
            return left;
        *slash = 0;
    }
}

static uint64_t cgroup_left(const char *text, const char *sysfs)
{
    uint64_t left = UINT64_MAX;
    char path[4096], root[4100];
    for (const char *p = text; *p;) {
        size_t len = strcspn(p, "\n");
        const char *v1 = strstr(p, ":memory:");
        if (strncmp(p, "0::", 3) == 0) {
            snprintf(path, sizeof(path), "%.*s", (int)(len - 3), p + 3);
            if (strcmp(path, "/") == 0)
                path[0] = 0;
            left = min_u64(
                left, group_left(sysfs, path, "memory.max", "memory.current", "\ninactive_file "));
        } else if (v1 && v1 < p + len) {
            snprintf(path, sizeof(path), "%.*s", (int)(p + len - v1 - 8), v1 + 8);
            if (strcmp(path, "/") == 0)
                path[0] = 0;
            snprintf(root, sizeof(root), "%s/memory", sysfs);
            left = min_u64(left, group_left(root, path, "memory.limit_in_bytes",
                                            "memory.usage_in_bytes", "\ntotal_inactive_file "));
        }
        p += len + (p[len] == '\n');
    }
    return left;
}

void arena_room_from(const char *meminfo, const char *cgroup, const char *sysfs,
                     struct arena_room *ret)
{
    uint64_t available = meminfo_available(meminfo), group = cgroup_left(cgroup, sysfs);
    uint64_t least = min_u64(available, group);
    uint64_t keep = min_u64(256 * MIB, least / 16);
    *ret = (struct arena_room){
        .available = available, .cgroup = group, .left = least - keep, .keep_free = keep
    };
}

void arena_room_look(struct arena_room *ret)
{
    char meminfo[4096] = "", cgroup[8192] = "";
    if (!proc_text("/proc/meminfo", meminfo, sizeof(meminfo)))
        meminfo[0] = 0;
    if (!proc_text("/proc/self/cgroup", cgroup, sizeof(cgroup)))
        cgroup[0] = 0;
    arena_room_from(meminfo, cgroup, "/sys/fs/cgroup", ret);
    ret->left -= min_u64(ret->left, pending);
}

static enum ckpt_status admit(const char *who, uint64_t bytes, uint64_t *ret_left,
                              struct ckpt_err *err)
{
    struct arena_room room;
    pthread_mutex_lock(&lock);
    arena_room_look(&room);
    bool fits = bytes <= room.left;
    if (fits)
        pending += bytes;
    pthread_mutex_unlock(&lock);
    *ret_left = room.left - (fits ? bytes : 0);
    if (fits)
        return CKPT_OK;
    char group[48] = "no limit";
    if (room.cgroup != UINT64_MAX)
        snprintf(group, sizeof(group), "%" PRIu64 " MiB left", room.cgroup / MIB);
    return err_set(err, CKPT_NO_MEMORY,
                   "no room for an arena of %" PRIu64 " MiB for %s: %" PRIu64
                   " MiB are available on this machine, its cgroup has %s, and %" PRIu64
                   " MiB must stay free; ask for a smaller one (arena_bytes), at least two slots",
                   bytes / MIB, who, room.available / MIB, group, room.keep_free / MIB);
}

/* An arena being touched: the threads take piece after piece. */
struct populate {
    uint8_t *base;
    uint64_t bytes;
    _Atomic uint64_t next;
    atomic_int error; /* errno of one that failed */
};

/* Huge pages, whatever the system's setting for shared memory is: a page is touched and
 * its surroundings collapsed into one (Linux 6.1).  They double the speed of direct I/O,
 * because the device gets requests of few, long segments.  Ranges that cannot be are left
 * to ordinary pages. */
static void populate_huge(uint8_t *base, uint64_t bytes)
{
    for (uint64_t at = 0; at + WIRE_HUGE_PAGE <= bytes; at += WIRE_HUGE_PAGE) {
        *(volatile uint8_t *)(base + at) = 0;
        if (madvise(base + at, WIRE_HUGE_PAGE, MADV_COLLAPSE) < 0 && errno == EINVAL)
            return; /* not on this kernel */
    }
}

static int populate_piece(uint8_t *base, uint64_t bytes)
{
    populate_huge(base, bytes);
    if (madvise(base, bytes, MADV_POPULATE_WRITE) == 0)
        return 0;
    if (errno != EINVAL)
        return errno;
    for (uint64_t k = 0; k < bytes; k += CKPT_BLOCK) /* before Linux 5.14 */
        *(volatile uint8_t *)(base + k) = 0;
    return 0;
}

static void *populate_main(void *arg)
{
    struct populate *p = arg;
    for (;;) {
        uint64_t at = atomic_fetch_add(&p->next, POPULATE_PIECE);
        if (at >= p->bytes || atomic_load(&p->error))
            return NULL;
        int e = populate_piece(p->base + at, min_u64(POPULATE_PIECE, p->bytes - at));
        if (e)
            atomic_store(&p->error, e);
    }
}

/* Touches all pages, so that no page fault of the trainer waits for memory. */
static int populate(uint8_t *base, uint64_t bytes)
{
    struct populate p = { .base = base, .bytes = bytes };
    pthread_t helpers[POPULATE_HELPERS];
    size_t count = 0;
    while (count < POPULATE_HELPERS && (count + 1) * POPULATE_PIECE < bytes &&
           pthread_create(&helpers[count], NULL, populate_main, &p) == 0)
        count++;
    populate_main(&p); /* alone, if no thread is to be had */
    for (size_t i = 0; i < count; i++)
        pthread_join(helpers[i], NULL);
    return atomic_load(&p.error);
}

/* Of the memory itself, so that it holds for whoever touches it.  Where that cannot be, or is
 * forbidden, pages come from where the toucher runs. */
static void prefer_node(uint8_t *base, uint64_t bytes, uint32_t numa)
{
    unsigned long nodes[NUMA_NODES / NUMA_WORD] = { 0 };
    if (numa == 0 || numa > NUMA_NODES)
        return;
    nodes[(numa - 1) / NUMA_WORD] |= 1UL << (numa - 1) % NUMA_WORD;
    long e = syscall(SYS_mbind, base, bytes, MPOL_PREFERRED, nodes, NUMA_NODES + 1, 0);
    (void)e;
}

static enum ckpt_status make(const char *who, uint64_t bytes, uint32_t numa, struct arena *ret,
                             struct ckpt_err *err)
{
    CLEANUP_FD int fd = memfd_create("ckpt-arena", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return err_errno(err, errno, "memfd of an arena for %s", who);
    if (ftruncate(fd, (off_t)bytes) < 0)
        return err_errno(err, errno, "%" PRIu64 " MiB of arena for %s", bytes / MIB, who);
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return err_errno(err, errno, "seal the arena of %s", who);
    enum ckpt_status st = arena_open(fd, bytes, ret, err);
    if (st != CKPT_OK)
        return st;
    TAKE_FD(fd);
    prefer_node(ret->base, bytes, numa);
    int e = populate(ret->base, bytes);
    if (e != 0) {
        arena_close(ret);
        return err_errno(err, e == EFAULT ? ENOMEM : e, "touch %" PRIu64 " MiB of arena for %s",
                         bytes / MIB, who);
    }
    return CKPT_OK;
}

enum ckpt_status arena_new(const char *who, uint64_t bytes, uint32_t numa, struct arena *ret,
                           uint64_t *ret_left, struct ckpt_err *err)
{
    uint64_t left;
    enum ckpt_status st = admit(who, bytes, &left, err);
    if (st != CKPT_OK)
        return st;
    struct arena a = { .fd = -1 };
    st = make(who, bytes, numa, &a, err);
    pthread_mutex_lock(&lock);
    pending -= bytes;
    pthread_mutex_unlock(&lock);
    if (st != CKPT_OK)
        return st;
    *ret = a;
    *ret_left = left;
    return CKPT_OK;
}

enum ckpt_status arena_open(int fd, uint64_t bytes, struct arena *ret, struct ckpt_err *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_errno(err, errno, "stat of an arena");
    if ((uint64_t)st.st_size != bytes)
        return err_set(err, CKPT_CORRUPT, "an arena of %lld bytes instead of %" PRIu64,
                       (long long)st.st_size, bytes);
    void *p = wire_map_arena(fd, bytes);
    if (!p)
        return err_errno(err, errno, "map %" PRIu64 " MiB of arena", bytes / MIB);
    *ret = (struct arena){ .fd = fd, .base = p, .bytes = bytes };
    return CKPT_OK;
}

void arena_close(struct arena *a)
{
    if (a->base)
        munmap(a->base, a->bytes);
    if (a->fd >= 0)
        close(a->fd);
    *a = (struct arena){ .fd = -1 };
}
