/* Speed and cost of the S3 store's client: objects up and down from several threads, each
 * with a handle of its own, as the daemon does it.
 *
 *     bench_s3 URL [--objects N] [--mib N] [--threads N] [--rounds N] [--get-only]
 *     bench_s3 URL --only put|get|read|write|clear [--files DIR] ...
 *
 * Prints per direction GiB/s, and the CPU seconds of this process (not the server's) per GiB
 * of what was moved; objects are removed between rounds.  The server that measures the
 * client alone is tests/s3/sink_server.c.
 *
 * --only: one direction, once, nothing else; what is got was put before.  --files: object
 * bench/I is put from the file DIR/I, and written there when it is got: what other clients can
 * do too, so s3_peers.py runs it so.  read and write do only that, without a store: what the
 * files cost.  clear removes all that lies at the URL, whoever put it. */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#include "storage/store/store_s3.h"

#include "check.h"

#define THREADS_MAX 64

struct plan {
    const char *url, *files; /* NULL = memory */
    long objects, mib, threads, rounds;
    bool get_only;
    char only; /* initial of what is to be done; 0 = all, in rounds */
};

struct worker {
    const struct plan *plan;
    struct store *s;
    char *bytes;
    long number;
    char op; /* as in plan.only, or 'd'elete */
};

static double seconds_of(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Into the buffer, or what is in it into the file. */
static void file_move(const struct worker *w, bool in, long number)
{
    size_t len = (size_t)w->plan->mib << 20;
    char path[4096];
    snprintf(path, sizeof(path), "%s/%ld", w->plan->files, number);
    int flags = in ? O_RDONLY : O_WRONLY | O_CREAT | O_TRUNC;
    int fd = open(path, flags | O_CLOEXEC, 0666);
    ssize_t n = in ? read(fd, w->bytes, len) : write(fd, w->bytes, len);
    if (fd < 0 || n != (ssize_t)len) {
        fprintf(stderr, "%s: %s\n", path, n < 0 ? strerrorname_np(errno) : "another length");
        exit(1);
    }
    close(fd);
}

static enum ckpt_status object_move(const struct worker *w, long number, struct ckpt_err *err)
{
    size_t len = (size_t)w->plan->mib << 20;
    struct iovec iov = { w->bytes, len };
    struct store_range whole = { 0, len, w->bytes };
    char key[64];
    snprintf(key, sizeof(key), "bench/%ld", number);
    switch (w->op) {
    case 'p':
        return store_put(w->s, key, &iov, 1, 0, err);
    case 'g':
        return store_get(w->s, key, &whole, 1, err);
    case 'd':
        return store_remove(w->s, key, err);
    default:
        return CKPT_OK;
    }
}

static void *work(void *arg)
{
    const struct worker *w = arg;
    bool in = w->op == 'p' || w->op == 'r', out = w->op == 'g' || w->op == 'w';
    for (long i = w->number; i < w->plan->objects; i += w->plan->threads) {
        struct ckpt_err err = { 0 };
        if (in && w->plan->files)
            file_move(w, true, i);
        if (object_move(w, i, &err) != CKPT_OK) {
            fprintf(stderr, "%s\n", err_text(&err));
            exit(1);
        }
        if (out && w->plan->files)
            file_move(w, false, i);
    }
    return NULL;
}

static void run(const struct plan *plan, struct worker *workers, char op)
{
    pthread_t threads[THREADS_MAX];
    double wall = seconds_of(CLOCK_MONOTONIC), cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
    for (long i = 0; i < plan->threads; i++) {
        workers[i].op = op;
        CHECK_EQ(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (long i = 0; i < plan->threads; i++)
        pthread_join(threads[i], NULL);
    wall = seconds_of(CLOCK_MONOTONIC) - wall;
    cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    double gib = (double)(plan->objects * plan->mib) / 1024;
    if (op != 'd')
        printf("%s: %.2f GiB in %.2f s, %.2f GiB/s, %.3f CPU-s/GiB\n",
               op == 'p' || op == 'r' ? "put" : "get", gib, wall, gib / wall, cpu / gib);
}

/* False: no such option, or not with this value. */
static bool option(struct plan *plan, const char *name, const char *value)
{
    const struct {
        const char *name;
        long *to;
    } numbers[] = { { "--objects", &plan->objects },
                    { "--mib", &plan->mib },
                    { "--threads", &plan->threads },
                    { "--rounds", &plan->rounds } };
    for (size_t i = 0; i < ARRAY_COUNT(numbers); i++) {
        if (strcmp(name, numbers[i].name) == 0) {
            *numbers[i].to = strtol(value, NULL, 10);
            return *numbers[i].to > 0;
        }
    }
    if (strcmp(name, "--files") == 0) {
        plan->files = value;
        return true;
    }
    static const char *const ops[] = { "put", "get", "read", "write", "clear" };
    for (size_t i = 0; strcmp(name, "--only") == 0 && i < ARRAY_COUNT(ops); i++) {
        if (strcmp(value, ops[i]) == 0) {
            plan->only = value[0];
            return true;
        }
    }
    return false;
}

static void parse(int argc, char **argv, struct plan *plan)
{
    bool good = argc > 1 && argv[1][0] != '-';
    plan->url = argv[1];
    for (int i = 2; i < argc && good; i++) {
        if (strcmp(argv[i], "--get-only") == 0)
            plan->get_only = true;
        else if ((good = i + 1 < argc && option(plan, argv[i], argv[i + 1])))
            i++;
    }
    if (!good || plan->threads > THREADS_MAX || (plan->files && !plan->only)) {
        fprintf(stderr,
                "usage: bench_s3 URL [--objects N] [--mib N] [--threads N] [--rounds N] "
                "[--get-only]\n"
                "       bench_s3 URL --only put|get|read|write|clear [--files DIR] [--objects N] "
                "[--mib N] [--threads N]\n");
        exit(2);
    }
}

/* Whatever put it. */
static void clear(struct store *s)
{
    struct store_entry entries[64];
    size_t count;
    bool more;
    do {
        CHECK_OK(store_list(s, "", false, "", entries, ARRAY_COUNT(entries), &count, &more, NULL));
        for (size_t i = 0; i < count; i++)
            CHECK_OK(store_remove(s, entries[i].key, NULL));
    } while (more);
}

static void run_rounds(const struct plan *plan, struct worker *workers)
{
    char text[512];
    struct iovec one = { workers[0].bytes, 1 };
    CHECK_OK(store_put(workers[0].s, "bench/warm", &one, 1, 0, NULL));
    store_to_text(workers[0].s, text, sizeof(text));
    printf("%s\n", text);
    for (long round = 0; round < plan->rounds; round++) {
        if (!plan->get_only || round == 0)
            run(plan, workers, 'p');
        run(plan, workers, 'g');
        if (!plan->get_only)
            run(plan, workers, 'd');
    }
    CHECK_OK(store_remove(workers[0].s, "bench/warm", NULL));
}

int main(int argc, char **argv)
{
    struct plan plan = { .objects = 32, .mib = 32, .threads = 4, .rounds = 3 };
    struct store_options options = { .create = true };
    struct worker workers[THREADS_MAX];
    struct ckpt_err err = { 0 };
    parse(argc, argv, &plan);
    for (long i = 0; i < plan.threads; i++) {
        workers[i] = (struct worker){ .plan = &plan, .number = i };
        /* Large pages, as restores read into. */
        workers[i].bytes = aligned_alloc(2 << 20, align_up((uint64_t)plan.mib << 20, 2 << 20));
        CHECK(workers[i].bytes);
        (void)madvise(workers[i].bytes, (size_t)plan.mib << 20, MADV_HUGEPAGE);
        if (!plan.files)
            memset(workers[i].bytes, (int)i + 1, (size_t)plan.mib << 20);
        if (store_open(plan.url, &options, &workers[i].s, &err) != CKPT_OK) {
            fprintf(stderr, "%s\n", err_text(&err));
            return 1;
        }
    }
    if (plan.only == 'c')
        clear(workers[0].s);
    else if (plan.only)
        run(&plan, workers, plan.only);
    else
        run_rounds(&plan, workers);
    struct s3_counts n;
    s3_site_counts(store_s3_of(workers[0].s)->site, &n);
    printf("%llu requests (%llu again, %llu hedges), %.0f per TiB\n",
           (unsigned long long)n.requests, (unsigned long long)n.retries,
           (unsigned long long)n.hedges,
           (double)n.requests / ((double)(n.put_bytes + n.get_bytes) / (double)TIB));
    for (long i = 0; i < plan.threads; i++) {
        store_close(workers[i].s);
        free(workers[i].bytes);
    }
    return 0;
}
