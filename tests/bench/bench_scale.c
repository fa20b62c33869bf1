/* What deciding and planning cost at scale, in a process that has read nothing yet:
 *
 *     bench_scale publish DIR LAYOUT                 all manifests -> cover, index, commit
 *     bench_scale plan DIR SAVED WANTED RANK [N]     plan of ranks RANK .. RANK+N-1 of
 *                                                    WANTED from what SAVED wrote
 *
 * from a store made by make_scale.  Reading, digests and decoding are in the time;
 * declaring what the ranks want is not.  Prints one line of key=value. */
#include <inttypes.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>

#include "bench/scale_store.h"
#include "storage/repo/plan.h"
#include "storage/repo/publish.h"
#include "storage/store/wrap.h"

#define CONSUMERS_MAX 64

static struct store_counts counts;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double cpu(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int fail(const char *what, const struct ckpt_err *err)
{
    fprintf(stderr, "bench_scale: %s: %s\n", what, err_text(err));
    return 1;
}

static uint64_t peak_bytes(void)
{
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return (uint64_t)use.ru_maxrss << 10;
}

static bool open_counted(const char *dir, struct store **ret, struct ckpt_err *err)
{
    struct store *inner;
    if (store_open(dir, &(struct store_options){ 0 }, &inner, err) != CKPT_OK)
        return false;
    if (wrap_count(inner, &counts, ret, err) == CKPT_OK)
        return true;
    store_close(inner);
    return false;
}

static void print_common(double seconds, double cpu_seconds)
{
    printf("seconds=%.3f cpu=%.3f peak_mib=%" PRIu64 " gets=%" PRIu64 " read_mib=%.1f", seconds,
           cpu_seconds, peak_bytes() >> 20, (uint64_t)counts.gets,
           (double)counts.get_bytes / (1 << 20));
}

static int run_publish(const char *dir, const struct scale_layout *l)
{
    struct ckpt_err err = { 0 };
    struct store *s;
    struct record_commit commit;
    struct ckpt_name name = scale_name(l);
    if (!open_counted(dir, &s, &err))
        return fail(dir, &err);
    /* Undecided again, if it was published before. */
    if (store_remove(s, key_commit(SCALE_JOB, &name).text, &err) != CKPT_OK ||
        store_remove(s, key_held(SCALE_JOB, &name).text, &err) != CKPT_OK)
        return fail("undo", &err);
    double start = now(), start_cpu = cpu();
    if (publish(s, SCALE_JOB, &name, l->world, &commit, &err) != CKPT_OK)
        return fail("publish", &err);
    print_common(now() - start, cpu() - start_cpu);
    printf(" world=%u tensors=%" PRIu64 " chunks=%" PRIu64 " tb=%.3f segments=%u\n", l->world,
           commit.tensor_count, commit.chunk_count, (double)commit.raw_bytes / 1e12,
           commit.index_segments);
    store_close(s);
    return 0;
}

struct wanted {
    struct decl decls[CONSUMERS_MAX];
    const struct decl *list[CONSUMERS_MAX];
    size_t count;
};

static bool declare(struct wanted *w, const struct scale_layout *l, uint32_t rank,
                    struct ckpt_err *err)
{
    struct scale_model m;
    if (scale_model_init(&m, SCALE_LAYERS, 1) != CKPT_OK)
        return false;
    bool ok = true;
    for (size_t i = 0; ok && i < w->count; i++) {
        ok = scale_decl(&m, l, rank + (uint32_t)i, CKPT_SLOT_BYTES, &w->decls[i], err) == CKPT_OK;
        w->list[i] = &w->decls[i];
    }
    scale_model_fini(&m);
    return ok;
}

static int run_plan(const char *dir, const struct scale_layout *saved,
                    const struct scale_layout *wanted, uint32_t rank, uint32_t ranks)
{
    static struct wanted w;
    struct ckpt_err err = { 0 };
    struct store *s;
    struct reader *r;
    struct plan *p;
    struct ckpt_name name = scale_name(saved);
    w.count = ranks;
    if (ranks > CONSUMERS_MAX || !declare(&w, wanted, rank, &err) || !open_counted(dir, &s, &err))
        return fail("declaring", &err);
    double start = now(), start_cpu = cpu();
    if (reader_open(&s, 1, SCALE_JOB, &name, &r, &err) != CKPT_OK)
        return fail("open", &err);
    if (plan_new(r, w.list, w.count, CKPT_SLOT_BYTES, PLAN_NO_UNASKED, &p, &err) != CKPT_OK)
        return fail("plan", &err);
    print_common(now() - start, cpu() - start_cpu);
    uint64_t frags = 0, bytes = 0;
    for (size_t i = 0; i < p->batch_count; i++)
        frags += p->batches[i].frag_count;
    for (size_t i = 0; i < w.count; i++)
        bytes += p->consumer_bytes[i];
    printf(" world=%u ranks=%u manifests=%u batches=%zu fragments=%" PRIu64
           " wanted_gb=%.3f read_gb=%.3f\n",
           saved->world, ranks, p->manifests_hit, p->batch_count, frags, (double)bytes / 1e9,
           (double)p->read_bytes / 1e9);
    plan_free(p);
    reader_close(r);
    store_close(s);
    for (size_t i = 0; i < w.count; i++)
        decl_fini(&w.decls[i]);
    return 0;
}

int main(int argc, char **argv)
{
    struct scale_layout saved, wanted;
    if (argc == 4 && strcmp(argv[1], "publish") == 0 && scale_layout_parse(argv[3], &saved))
        return run_publish(argv[2], &saved);
    if (argc >= 6 && strcmp(argv[1], "plan") == 0 && scale_layout_parse(argv[3], &saved) &&
        scale_layout_parse(argv[4], &wanted))
        return run_plan(argv[2], &saved, &wanted, (uint32_t)strtoul(argv[5], NULL, 10),
                        argc > 6 ? (uint32_t)strtoul(argv[6], NULL, 10) : 1);
    fprintf(stderr, "usage: bench_scale publish DIR LAYOUT\n"
                    "       bench_scale plan DIR SAVED WANTED RANK [RANKS]\n"
                    "LAYOUT: fsdp:N or tp=T,pp=P,dp=D\n");
    return 2;
}
