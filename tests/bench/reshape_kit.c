/* Ranks that save and restore one tensor, and what /proc says of the processes. */
#include "bench/reshape_kit.h"

#include <inttypes.h>
#include <time.h>
#include <unistd.h>

#define COLUMNS UINT64_C(4096)

struct order { /* for the ranks of one launch */
    const struct reshape *how;
    uint64_t bytes, arena_bytes;
    bool save;
};
enum { SLOWEST, WANTED, PEAK, PROGRESS }; /* values on the board */

static uint64_t field_of(pid_t pid, const char *file, const char *name)
{
    char path[64], line[256];
    unsigned long long value = 0;
    snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f)) {
        if (strncmp(line, name, strlen(name)) == 0)
            value = strtoull(line + strlen(name), NULL, 10);
    }
    if (f)
        fclose(f);
    return value;
}

uint64_t reshape_peak(pid_t pid)
{
    return field_of(pid, "status", "VmHWM:") << 10;
}

static void raise_to(atomic_ullong *to, unsigned long long value)
{
    unsigned long long is = atomic_load(to);
    while (is < value && !atomic_compare_exchange_weak(to, &is, value))
        ;
}

static double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void open_as(struct kit_rank *r, const struct order *o)
{
    struct ckpt_open_opts opts = kit_opts(r);
    r->arena_bytes = opts.arena_bytes = o->arena_bytes;
    opts.timeout_ms = 240000;
    if (o->how->readers) {
        opts.mode = CKPT_READ;
        opts.launch = NULL;
        opts.rank = 0;
        opts.world = 0;
    }
    kit_open_with(r, &opts);
}

/* Beyond the tensor's own memory and the arena, of which every page was touched. */
static uint64_t own_peak(const struct kit_rank *r)
{
    struct ckpt_info info = { .size = sizeof(info) };
    KIT_OK(ckpt_info(r->c, &info));
    CHECK_EQ(info.restore_done_bytes, info.restore_total_bytes);
    CHECK_EQ(info.restore_total_bytes, info.restored_bytes);
    uint64_t peak = reshape_peak(getpid()), known = r->buffers[0].bytes + info.arena_bytes;
    return peak > known ? peak - known : 0;
}

static void run_rank(struct kit_rank *r)
{
    const struct order *o = r->arg;
    const struct kit_part part = { .name = "large",
                                   .dtype = CKPT_F32,
                                   .ndim = 2,
                                   .shape = { o->bytes / (4 * COLUMNS), COLUMNS },
                                   .how = o->how->how };
    if (o->how->readers && r->rank >= o->how->readers)
        return;
    open_as(r, o);
    kit_declare(r, &part, 1);
    if (o->save) {
        KIT_OK(kit_save_local(r, 1));
        return;
    }
    kit_scribble(r);
    if (!o->how->readers)
        kit_meet(r, 1);
    double start = seconds_now();
    KIT_OK(ckpt_restore(r->s, NULL, r->buffers, r->count, NULL, NULL));
    raise_to(&r->board->value[SLOWEST], (unsigned long long)((seconds_now() - start) * 1e9));
    if (!o->how->unchecked)
        kit_check(r, 1);
    if (!o->how->readers) /* else launch after launch looks like a crash loop */
        KIT_OK(ckpt_progress(r->c, 2));
    raise_to(&r->board->value[PEAK], own_peak(r));
    atomic_fetch_add(&r->board->value[WANTED], r->buffers[0].bytes);
}

static void run(const char *job, const struct order *o, struct kit_crowd *w)
{
    kit_ranks(w, job, o->how->world, run_rank, o);
    kit_reap(w, 0);
}

void reshape_save(const char *job, uint64_t bytes, const struct reshape *how, uint64_t arena_bytes)
{
    struct kit_crowd w;
    const struct order o = { .how = how, .bytes = bytes, .arena_bytes = arena_bytes, .save = true };
    run(job, &o, &w);
}

struct reshape_result reshape_restore(const char *job, uint64_t bytes, const struct reshape *how,
                                      uint64_t arena_bytes)
{
    struct kit_crowd w;
    const struct order o = { .how = how, .bytes = bytes, .arena_bytes = arena_bytes };
    uint64_t before = field_of(kit_worker(), "io", "read_bytes:");
    run(job, &o, &w);
    return (struct reshape_result){
        .seconds = (double)atomic_load(&w.board->value[SLOWEST]) / 1e9,
        .wanted_bytes = atomic_load(&w.board->value[WANTED]),
        .read_bytes = field_of(kit_worker(), "io", "read_bytes:") - before,
        .rank_peak = atomic_load(&w.board->value[PEAK]),
    };
}
