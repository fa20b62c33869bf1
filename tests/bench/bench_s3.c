/* Speed and cost of the S3 store's client: objects up and down from several threads, each
 * with a handle of its own, as the daemon does it.
 *
 *     bench_s3 URL [--objects N] [--mib N] [--threads N] [--rounds N] [--get-only]
 *
 * Prints per direction GiB/s, and the CPU seconds of this process (not the server's) per GiB
 * of what was moved; objects are removed between rounds.  The server that measures the
 * client alone is tests/s3/sink_server.c. */
#include <pthread.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>

#include "storage/store/store_s3.h"

#include "check.h"

struct plan {
    const char *url;
    long objects, mib, threads, rounds;
    bool get_only;
};

struct worker {
    const struct plan *plan;
    struct store *s;
    char *bytes;
    long number;
    char op; /* 'p'ut, 'g'et, 'r'emove */
};

static double seconds_of(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *work(void *arg)
{
    const struct worker *w = arg;
    size_t len = (size_t)w->plan->mib << 20;
    for (long i = w->number; i < w->plan->objects; i += w->plan->threads) {
        char key[64];
        struct ckpt_err err = { 0 };
        struct iovec iov = { w->bytes, len };
        struct store_range whole = { 0, len, w->bytes };
        snprintf(key, sizeof(key), "bench/%ld", i);
        enum ckpt_status st = w->op == 'p'   ? store_put(w->s, key, &iov, 1, 0, &err)
                              : w->op == 'g' ? store_get(w->s, key, &whole, 1, &err)
                                             : store_remove(w->s, key, &err);
        if (st != CKPT_OK) {
            fprintf(stderr, "%s\n", err_text(&err));
            exit(1);
        }
    }
    return NULL;
}

static void run(const struct plan *plan, struct worker *workers, char op)
{
    pthread_t threads[64];
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
    if (op != 'r')
        printf("%s: %.2f GiB in %.2f s, %.2f GiB/s, %.3f CPU-s/GiB\n", op == 'p' ? "put" : "get",
               gib, wall, gib / wall, cpu / gib);
}

static void parse(int argc, char **argv, struct plan *plan)
{
    plan->url = argc > 1 ? argv[1] : NULL;
    for (int i = 2; i < argc; i++) {
        long n = i + 1 < argc ? strtol(argv[i + 1], NULL, 10) : 0;
        bool flag = strcmp(argv[i], "--get-only") == 0;
        if (flag)
            plan->get_only = true;
        else if (strcmp(argv[i], "--objects") == 0)
            plan->objects = n;
        else if (strcmp(argv[i], "--mib") == 0)
            plan->mib = n;
        else if (strcmp(argv[i], "--threads") == 0)
            plan->threads = n;
        else if (strcmp(argv[i], "--rounds") == 0)
            plan->rounds = n;
        else
            plan->url = NULL;
        i += !flag;
    }
    if (!plan->url || plan->objects < 1 || plan->mib < 1 || plan->threads < 1 ||
        plan->threads > 64 || plan->rounds < 1) {
        fprintf(stderr, "usage: bench_s3 URL [--objects N] [--mib N] [--threads N] [--rounds N] "
                        "[--get-only]\n");
        exit(2);
    }
}

int main(int argc, char **argv)
{
    struct plan plan = { .objects = 32, .mib = 32, .threads = 4, .rounds = 3 };
    struct store_options options = { .create = true };
    struct worker workers[64];
    struct ckpt_err err = { 0 };
    parse(argc, argv, &plan);
    for (long i = 0; i < plan.threads; i++) {
        workers[i] = (struct worker){ .plan = &plan, .number = i };
        workers[i].bytes = malloc((size_t)plan.mib << 20);
        CHECK(workers[i].bytes);
        memset(workers[i].bytes, (int)i + 1, (size_t)plan.mib << 20);
        if (store_open(plan.url, &options, &workers[i].s, &err) != CKPT_OK) {
            fprintf(stderr, "%s\n", err_text(&err));
            return 1;
        }
    }
    char text[512];
    struct iovec one = { workers[0].bytes, 1 };
    CHECK_OK(store_put(workers[0].s, "bench/warm", &one, 1, 0, NULL));
    store_to_text(workers[0].s, text, sizeof(text));
    printf("%s\n", text);
    for (long round = 0; round < plan.rounds; round++) {
        if (!plan.get_only || round == 0)
            run(&plan, workers, 'p');
        run(&plan, workers, 'g');
        if (!plan.get_only)
            run(&plan, workers, 'r');
    }
    struct s3_counts n;
    s3_site_counts(store_s3_of(workers[0].s)->site, &n);
    printf("%llu requests (%llu again, %llu hedges), %.0f per TiB\n",
           (unsigned long long)n.requests, (unsigned long long)n.retries,
           (unsigned long long)n.hedges,
           (double)n.requests / ((double)(n.put_bytes + n.get_bytes) / (double)TIB));
    CHECK_OK(store_remove(workers[0].s, "bench/warm", NULL));
    for (long i = 0; i < plan.threads; i++) {
        store_close(workers[i].s);
        free(workers[i].bytes);
    }
    return 0;
}
