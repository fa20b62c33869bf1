/* Crews: every job runs once and comes back once, whatever the number of threads;
 * those that go ahead do so. */
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/eventfd.h>

#include "storage/crew.h"

#include "check.h"

struct number_job {
    struct crew_job base;
    int runs;
    bool back;
};
static atomic_int works, freed;
static long cases;

static void *work_new(void *arg, struct ckpt_err *err)
{
    if (arg && atomic_load(&works) == *(int *)arg) {
        (void)err_set(err, CKPT_DENIED, "no more");
        return NULL;
    }
    atomic_fetch_add(&works, 1);
    return calloc(1, 8);
}

static void work_free(void *w)
{
    atomic_fetch_add(&freed, 1);
    free(w);
}

static void run(struct crew_job *j, void *work)
{
    ((struct number_job *)j)->runs++;
    (*(uint64_t *)work)++;
}

static void test_jobs(unsigned threads, size_t n)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct crew *c;
    struct number_job *jobs = calloc(n, sizeof(*jobs));
    atomic_store(&works, 0);
    atomic_store(&freed, 0);
    CHECK_OK(crew_new(&(struct crew_options){ .name = "test",
                                              .threads = threads,
                                              .event_fd = fd,
                                              .work_new = work_new,
                                              .work_free = work_free },
                      &c, NULL));
    CHECK_EQ(atomic_load(&works), threads);
    for (size_t i = 0; i < n; i++) {
        jobs[i].base.run = run;
        crew_submit(c, &jobs[i].base);
    }
    for (size_t back = 0; back < n;) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        uint64_t added;
        CHECK(poll(&p, 1, 10000) == 1);
        CHECK(read(fd, &added, sizeof(added)) == sizeof(added));
        struct number_job *j;
        while ((j = (struct number_job *)crew_done(c)) != NULL) {
            CHECK(!j->back);
            CHECK_EQ(j->runs, 1);
            j->back = true;
            back++;
        }
    }
    CHECK_EQ(crew_waiting(c), 0);
    crew_free(c);
    CHECK_EQ(atomic_load(&freed), threads);
    free(jobs);
    close(fd);
    cases += (long)n;
}

/* ---- the order in which jobs are run ---- */

static int order[16];
static size_t ran;

struct order_job {
    struct crew_job base;
    int number;
    int hold_fd; /* not -1: until something comes */
};

static void run_in_order(struct crew_job *j, void *work)
{
    struct order_job *o = (struct order_job *)j;
    char byte;
    (void)work;
    order[ran++] = o->number;
    if (o->hold_fd >= 0)
        CHECK_EQ(read(o->hold_fd, &byte, 1), 1);
}

/* Job i of the line goes ahead if the text has an 'a' there; `want` in the order of their runs. */
static void test_order(const char *line, const int *want)
{
    struct order_job held = { .base.run = run_in_order, .number = -1 }, jobs[15];
    size_t n = strlen(line), back = 0;
    int hold[2], fd = eventfd(0, EFD_CLOEXEC);
    struct crew *c;
    uint64_t added;
    CHECK_EQ(pipe(hold), 0);
    held.hold_fd = hold[0];
    ran = 0;
    CHECK_OK(crew_new(&(struct crew_options){ .name = "order",
                                              .threads = 1,
                                              .event_fd = fd,
                                              .work_new = work_new,
                                              .work_free = work_free },
                      &c, NULL));
    crew_submit(c, &held.base);
    while (crew_waiting(c) > 0) /* until the thread has it */
        sched_yield();
    for (size_t i = 0; i < n; i++) {
        jobs[i] = (struct order_job){ .base = { .run = run_in_order, .ahead = line[i] == 'a' },
                                      .number = (int)i,
                                      .hold_fd = -1 };
        crew_submit(c, &jobs[i].base);
    }
    CHECK_EQ(crew_waiting(c), n);
    CHECK_EQ(write(hold[1], "x", 1), 1);
    while (back < n + 1) {
        CHECK_EQ(read(fd, &added, sizeof(added)), sizeof(added));
        while (crew_done(c))
            back++;
    }
    crew_free(c);
    CHECK_EQ(ran, n + 1);
    for (size_t i = 0; i < n; i++)
        CHECK_EQ(order[i + 1], want[i]);
    close(hold[0]);
    close(hold[1]);
    close(fd);
    cases++;
}

int main(void)
{
    test_order("----", (const int[]){ 0, 1, 2, 3 });
    test_order("aaa", (const int[]){ 0, 1, 2 });
    test_order("---a-a--", (const int[]){ 3, 5, 0, 1, 2, 4, 6, 7 });
    for (unsigned threads = 1; threads <= 4; threads++)
        test_jobs(threads, 500);
    /* A thread that cannot have its memory: no crew, the reason, and nothing left. */
    int allowed = 1;
    struct crew *c = NULL;
    struct ckpt_err err = { 0 };
    atomic_store(&works, 0);
    atomic_store(&freed, 0);
    CHECK_EQ(crew_new(&(struct crew_options){ .name = "test",
                                              .threads = 3,
                                              .event_fd = -1,
                                              .work_new = work_new,
                                              .work_free = work_free,
                                              .arg = &allowed },
                      &c, &err),
             CKPT_DENIED);
    CHECK_STR(err.text, "no more");
    CHECK(!c);
    CHECK_EQ(atomic_load(&freed), atomic_load(&works));
    crew_free(NULL);
    TEST_CASES(cases + 1);
    return 0;
}
