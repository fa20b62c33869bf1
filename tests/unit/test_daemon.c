/* A real ckptd on a temporary directory, driven by ranks that are real processes and
 * speak raw wire.h: saves and restores, and the death of everybody at every phase.
 * (It covers main.c, worker.c, keep.c, keeper.c, conn.c, control.c, control_act.c,
 * control_decide.c, control_done.c, control_hello.c, control_launch.c, control_load.c, control_msg.c, jobs.c,
 * launch_jobs.c, restore_jobs.c, node_restore.c, notify.c, rundir.c, status_page.c, arena.c, peer.c,
 * proc_text.c and log.c too.) */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "storage/repo/load.h"
#include "unit/daemon_client.h"
#include "unit/near.h"

#define ELEMENTS UINT64_C(9000000) /* 36 MB: 2 ranks x 18 MB = 3 slots of 8 MiB each */
#define WORLD    2
#define HOSTILE  (TEST_TENTH > 1 ? 20 : 60) /* sessions */
#define PATIENCE 2400 /* looks, 25 ms apart: the machine may be busy with other tests */

static char root[64], store_dir[96], socket_path[96];
static long cases, kills;
static pid_t daemon_pid;
static unsigned launch_count;

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 }, NULL);
}

/* -- the daemon ---------------------------------------------------------------- */

static void start_daemon(const char *extra)
{
    fflush(NULL);
    daemon_pid = fork();
    if (daemon_pid == 0) {
        char log[128];
        snprintf(log, sizeof(log), "%s/log", root);
        int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        dup2(fd, 1); /* who holds the test's own output keeps a failed test waiting */
        dup2(fd, 2);
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        execl(CKPTD_BINARY, "ckptd", "--store", store_dir, "--socket", socket_path, "--slot-bytes",
              "8M", "--foreground", extra, (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < PATIENCE; i++) {
        int fd = tc_connect(socket_path);
        if (fd >= 0) {
            close(fd);
            return;
        }
        pause_ms(25);
    }
    CHECK(!"the daemon did not start");
}

/* The keeper's only child. */
static pid_t worker_pid(void)
{
    char path[64], text[64];
    snprintf(path, sizeof(path), "/proc/%d/task/%d/children", daemon_pid, daemon_pid);
    for (int i = 0; i < PATIENCE; i++) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
        if (fd >= 0)
            close(fd);
        text[n > 0 ? n : 0] = 0;
        if (n > 0)
            return (pid_t)strtol(text, NULL, 10);
        pause_ms(25);
    }
    CHECK(!"no worker");
    return 0;
}

static int stop_daemon(void)
{
    int status;
    kill(daemon_pid, SIGTERM);
    CHECK_EQ(waitpid(daemon_pid, &status, 0), daemon_pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* -- ranks ------------------------------------------------------------------------ */

struct plan_of_rank {
    const char *job;
    uint64_t steps[6]; /* 0 ends */
    uint64_t load;     /* step expected at the resume point; 0 = expect none */
    uint64_t elements, arena_bytes;
    uint32_t die_at_step, die_after; /* SIGKILL itself after so many FULLs of that save */
    uint32_t die_staged;             /* ... when that step is staged */
    enum ckpt_status expect_last;    /* of the last save; CKPT_OK by default */
    const char *expect_text;         /* part of its text */
    uint32_t only_rank;              /* +1: other ranks skip the last save */
    bool no_bye, wait_local;
};
struct crowd {
    pid_t pid[8];
    int events[8];
    uint32_t count;
};

static void hang_up(struct tc *c)
{
    close(c->fd);
    c->fd = -1;
}

static void run_rank(const struct plan_of_rank *p, const char *token, uint32_t rank, uint32_t world,
                     int events)
{
    struct tc c;
    tc_init(&c, socket_path, p->job, token, rank, world);
    c.events = events;
    enum ckpt_status st;
    do { /* as libckpt does when a worker dies between HELLO and its answer */
        if (c.fd >= 0)
            hang_up(&c);
        st = tc_hello(&c, false);
    } while (st == CKPT_DAEMON_GONE);
    if (st != CKPT_OK)
        fprintf(stderr, "hello: %s %s\n", status_name(st), c.text);
    CHECK_OK(st);
    CHECK_EQ((c.ok_flags & WIRE_HAS_POINT) != 0, p->load != 0);
    st = tc_state(&c, p->elements ? p->elements : ELEMENTS, p->arena_bytes);
    if (st != CKPT_OK)
        fprintf(stderr, "state: %s %s\n", status_name(st), c.text);
    CHECK_OK(st);
    if (p->load) {
        CHECK_EQ(c.point.step, p->load);
        st = tc_load(&c, NULL, p->load, 0);
        if (st != CKPT_OK)
            fprintf(stderr, "load: %s %s\n", status_name(st), c.text);
        CHECK_OK(st);
    }
    for (int i = 0; p->steps[i]; i++) {
        bool last = !p->steps[i + 1];
        if (last && p->only_rank && p->only_rank != rank + 1)
            break;
        bool dies = p->die_at_step == p->steps[i];
        uint32_t level = p->die_staged == p->steps[i] ? WIRE_LEVEL_STAGED : WIRE_LEVEL_REMOTE;
        st = tc_save(&c, p->steps[i], 0, level, dies ? p->die_after : UINT32_MAX);
        if (p->die_staged == p->steps[i])
            kill(getpid(), SIGKILL);
        if (st != (last ? p->expect_last : CKPT_OK))
            fprintf(stderr, "rank %u save %d: %s %s\n", rank, (int)p->steps[i], status_name(st),
                    c.text);
        CHECK_EQ(st, last ? p->expect_last : CKPT_OK);
        if (last && p->expect_text && !strstr(c.text, p->expect_text)) {
            fprintf(stderr, "text: %s\n", c.text);
            CHECK(strstr(c.text, p->expect_text));
        }
    }
    if (!p->no_bye)
        tc_bye(&c);
    exit(0);
}

static void start_ranks(struct crowd *w, const struct plan_of_rank *plans, uint32_t world)
{
    char token[64];
    snprintf(token, sizeof(token), "launch-%d-%u", (int)getpid(), launch_count++);
    w->count = world;
    fflush(NULL);
    for (uint32_t r = 0; r < world; r++) {
        int p[2];
        CHECK_EQ(pipe2(p, O_CLOEXEC), 0);
        w->pid[r] = fork();
        CHECK(w->pid[r] >= 0);
        if (w->pid[r] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            close(p[0]);
            run_rank(&plans[r], token, r, world, p[1]);
        }
        close(p[1]);
        w->events[r] = p[0];
    }
}

static void end_ranks(struct crowd *w, int expect_signal)
{
    for (uint32_t r = 0; r < w->count; r++) {
        int status;
        CHECK_EQ(waitpid(w->pid[r], &status, 0), w->pid[r]);
        if (expect_signal)
            CHECK(WIFSIGNALED(status) && WTERMSIG(status) == expect_signal);
        else
            CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        close(w->events[r]);
    }
}

/* Runs all ranks with one plan to their good end. */
static void run_all(const struct plan_of_rank *p, uint32_t world)
{
    struct plan_of_rank plans[8];
    struct crowd w;
    for (uint32_t r = 0; r < world; r++)
        plans[r] = *p;
    start_ranks(&w, plans, world);
    end_ranks(&w, 0);
    cases++;
}

/* Waits for the n-th event `what` of a rank; false: the rank ended before. */
static bool wait_event(struct crowd *w, uint32_t rank, char what, int n)
{
    char got;
    while (n > 0) {
        ssize_t rc = read(w->events[rank], &got, 1);
        if (rc <= 0)
            return false;
        n -= got == what;
    }
    return true;
}

/* Reads one checkpoint whole, as one reader, and checks every element. */
static void verify_one(struct store *s, const char *job, const struct ckpt_name *name)
{
    struct ckpt_err err = { 0 };
    struct reader *r;
    struct plan *p;
    struct decl d = { 0 };
    const struct index_tensor *t;
    CHECK_OK(reader_open(&s, 1, job, name, &r, &err));
    CHECK_OK(reader_tensor(r, "w", &t, &err));
    uint64_t n = t->shape[0], seen = 0;
    CHECK_OK(decl_add_tensor(
        &d, &(struct decl_tensor){ .name = (char[]){ "w" }, .dtype = 6, .ndim = 1, .shape = { n } },
        &err));
    CHECK_OK(decl_add_piece(&d,
                            &(struct decl_piece){ .box = { .ndim = 1, .len = { n } },
                                                  .stride = { 1 },
                                                  .replica_count = 1 },
                            &err));
    CHECK_OK(decl_finish(&d, TC_SLOT, &err));
    CHECK_OK(plan_new(r, &(const struct decl *){ &d }, 1, TC_SLOT, 0, &p, &err));
    struct load_work *w = load_work_new(TC_SLOT);
    uint32_t *slot = aligned_alloc(4096, TC_SLOT);
    CHECK(w && slot);
    for (size_t i = 0; i < p->batch_count; i++) {
        const struct plan_batch *b = &p->batches[i];
        struct load_stats stats = { 0 };
        void *slots[] = { slot };
        CHECK_OK(load_batch(w, &s, 1, job, name, b, slots, &stats, &err));
        struct plan_iter f = plan_iter_init(b, PLAN_ALL);
        while (plan_iter_next(&f)) {
            const uint32_t *from = slot + f.slot_offset / 4;
            CHECK(tc_is(from, name->step, f.common.off[0], f.common.len[0]));
            seen += f.common.len[0];
        }
    }
    CHECK_EQ(seen, n);
    free(slot);
    load_work_free(w);
    plan_free(p);
    reader_close(r);
    decl_fini(&d);
}

/* Every commit of the job reads back whole, and the newest is of this step. */
static void verify_job(const char *job, uint64_t newest)
{
    struct store *s;
    uint64_t step = 0;
    struct store_entry entries[64];
    size_t count;
    bool more;
    CHECK_OK(store_open(store_dir, &(struct store_options){ .io = "threads" }, &s, NULL));
    struct key prefix = key_helds(job);
    CHECK_OK(
        store_list(s, prefix.text, false, "", entries, ARRAY_COUNT(entries), &count, &more, NULL));
    for (size_t i = 0; i < count; i++) {
        struct ckpt_name name;
        CHECK(name_parse(entries[i].key + strlen(prefix.text), NAME_TEXT - 1, &name));
        verify_one(s, job, &name);
        if (name.step > step)
            step = name.step;
        cases++;
    }
    CHECK_EQ(step, newest);
    store_close(s);
}

/* -- cases ----------------------------------------------------------------------------- */

static void test_save_restore(void)
{
    run_all(&(struct plan_of_rank){ .job = "plain", .steps = { 10, 20 } }, WORLD);
    run_all(&(struct plan_of_rank){ .job = "plain", .load = 20, .steps = { 30 } }, WORLD);
    run_all(&(struct plan_of_rank){ .job = "plain", .load = 30, .steps = { 0 } }, 1);
    run_all(&(struct plan_of_rank){ .job = "plain", .load = 30, .steps = { 40 } }, 3);
    verify_job("plain", 40);
    /* Back-pressure: an arena of two slots for a save of several. */
    run_all(&(struct plan_of_rank){ .job = "small", .steps = { 1, 2 }, .arena_bytes = 1 }, WORLD);
    run_all(&(struct plan_of_rank){ .job = "small", .load = 2, .steps = { 0 }, .arena_bytes = 1 },
            WORLD);
    /* A rank that holds nothing: 1 element, 2 ranks. */
    run_all(&(struct plan_of_rank){ .job = "tiny", .steps = { 1 }, .elements = 1 }, WORLD);
    verify_job("tiny", 1);
}

/* The worker is killed when a rank has come to a point; nobody notices but by time. */
static void worker_killed_at(char what, int nth, uint32_t rank)
{
    static unsigned n;
    char job[32];
    struct plan_of_rank plans[WORLD];
    struct crowd w;
    snprintf(job, sizeof(job), "wk%u", n++);
    for (uint32_t r = 0; r < WORLD; r++)
        plans[r] = (struct plan_of_rank){ .job = job, .steps = { 10, 20, 30 }, .arena_bytes = 1 };
    start_ranks(&w, plans, WORLD);
    CHECK(wait_event(&w, rank, what, nth));
    kill(worker_pid(), SIGKILL);
    kills++;
    end_ranks(&w, 0);
    verify_job(job, 30);
    cases++;
}

static void test_worker_killed(void)
{
    static const struct {
        char what;
        int nth;
    } at[] = { { 's', 1 }, { '0', 1 }, { 'f', 1 }, { 'f', 2 }, { 'f', 3 }, { '2', 1 },
               { '2', 2 }, { '3', 1 }, { '3', 2 }, { 'f', 5 }, { 's', 3 } };
    for (size_t i = 0; i < ARRAY_COUNT(at); i++)
        worker_killed_at(at[i].what, at[i].nth, (uint32_t)(i % WORLD));
    /* During a restore. */
    run_all(&(struct plan_of_rank){ .job = "wl", .steps = { 10 } }, WORLD);
    for (int k = 1; k <= 3; k++) {
        struct plan_of_rank plans[WORLD];
        struct crowd w;
        for (uint32_t r = 0; r < WORLD; r++)
            plans[r] =
                (struct plan_of_rank){ .job = "wl", .load = 10, .steps = { 0 }, .arena_bytes = 1 };
        start_ranks(&w, plans, WORLD);
        CHECK(wait_event(&w, 0, k == 1 ? 'l' : 'g', k == 1 ? 1 : k - 1));
        kill(worker_pid(), SIGKILL);
        kills++;
        end_ranks(&w, 0);
        cases++;
    }
    /* Again and again while three saves go on. */
    struct plan_of_rank plans[WORLD];
    struct crowd w;
    for (uint32_t r = 0; r < WORLD; r++)
        plans[r] = (struct plan_of_rank){ .job = "again", .steps = { 10, 20, 30, 40 } };
    start_ranks(&w, plans, WORLD);
    for (int k = 0; k < 6 && wait_event(&w, 0, 'f', 1); k++) {
        kill(worker_pid(), SIGKILL);
        kills++;
    }
    end_ranks(&w, 0);
    verify_job("again", 40);
}

/* A rank dies in the middle: the others hear who and when; the next save works. */
static void test_client_killed(void)
{
    struct plan_of_rank plans[WORLD];
    struct crowd w;
    for (uint32_t after = 0; after < 3; after++) {
        char job[32];
        snprintf(job, sizeof(job), "ck%u", after);
        for (uint32_t r = 0; r < WORLD; r++)
            plans[r] = (struct plan_of_rank){ .job = job,
                                              .steps = { 10, 20 },
                                              .expect_last = r == 0 ? CKPT_ABORTED : CKPT_OK,
                                              .expect_text = r == 0 ? "rank 1 died while copying "
                                                                      "step 20"
                                                                    : NULL };
        plans[1].die_at_step = 20;
        plans[1].die_after = after;
        start_ranks(&w, plans, WORLD);
        int status;
        CHECK_EQ(waitpid(w.pid[0], &status, 0), w.pid[0]);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        CHECK_EQ(waitpid(w.pid[1], &status, 0), w.pid[1]);
        CHECK(WIFSIGNALED(status));
        close(w.events[0]);
        close(w.events[1]);
        kills++;
        run_all(&(struct plan_of_rank){ .job = job, .load = 10, .steps = { 20 } }, WORLD);
        verify_job(job, 20);
    }
    /* All die once staged: the daemon finishes it, the next launch resumes from there. */
    for (uint32_t r = 0; r < WORLD; r++)
        plans[r] = (struct plan_of_rank){ .job = "staged", .steps = { 10 }, .die_staged = 10 };
    start_ranks(&w, plans, WORLD);
    end_ranks(&w, SIGKILL);
    kills += WORLD;
    run_all(&(struct plan_of_rank){ .job = "staged", .load = 10, .steps = { 20 } }, WORLD);
    verify_job("staged", 20);
    /* Both die while copying: nothing comes of it, and the next launch is not held up. */
    for (uint32_t r = 0; r < WORLD; r++)
        plans[r] = (struct plan_of_rank){
            .job = "mid", .steps = { 10, 20 }, .die_at_step = 20, .die_after = 1
        };
    start_ranks(&w, plans, WORLD);
    end_ranks(&w, SIGKILL);
    kills += WORLD;
    run_all(&(struct plan_of_rank){ .job = "mid", .load = 10, .steps = { 30 } }, WORLD);
    verify_job("mid", 30);
    /* One is gone before the other begins its save. */
    for (uint32_t r = 0; r < WORLD; r++)
        plans[r] = (struct plan_of_rank){ .job = "gone",
                                          .steps = { 10, 20 },
                                          .only_rank = 1,
                                          .expect_last = r == 0 ? CKPT_ABORTED : CKPT_OK,
                                          .expect_text = r == 0 ? "rank 1" : NULL };
    start_ranks(&w, plans, WORLD);
    end_ranks(&w, 0);
    cases++;
}

/* Keeper killed: the worker finishes what is staged and goes; the next ckptd waits. */
static void test_keeper_killed(void)
{
    struct plan_of_rank plans[WORLD];
    struct crowd w;
    pid_t worker = worker_pid();
    for (uint32_t r = 0; r < WORLD; r++)
        plans[r] = (struct plan_of_rank){ .job = "kk", .steps = { 10 }, .die_staged = 10 };
    start_ranks(&w, plans, WORLD);
    end_ranks(&w, SIGKILL);
    kill(daemon_pid, SIGKILL);
    kills += 1 + WORLD;
    CHECK_EQ(waitpid(daemon_pid, NULL, 0), daemon_pid);
    start_daemon(NULL);
    CHECK(kill(worker, 0) < 0 || worker_pid() != worker);
    run_all(&(struct plan_of_rank){ .job = "kk", .load = 10, .steps = { 20 } }, WORLD);
    verify_job("kk", 20);
}

static void test_sigterm(void)
{
    struct plan_of_rank plans[WORLD];
    struct crowd w;
    for (uint32_t r = 0; r < WORLD; r++)
        plans[r] = (struct plan_of_rank){ .job = "term", .steps = { 10 }, .die_staged = 10 };
    start_ranks(&w, plans, WORLD);
    end_ranks(&w, SIGKILL);
    kills += WORLD;
    CHECK_EQ(stop_daemon(), 0);
    verify_job("term", 10);
    start_daemon(NULL);
    cases++;
}

/* The worker is killed before it heard of the end: the one after it drains and ends. */
static void test_killed_at_sigterm(void)
{
    struct plan_of_rank plans[WORLD];
    struct crowd w;
    for (uint32_t r = 0; r < WORLD; r++)
        plans[r] = (struct plan_of_rank){ .job = "term2", .steps = { 10 }, .die_staged = 10 };
    start_ranks(&w, plans, WORLD);
    end_ranks(&w, SIGKILL);
    pid_t worker = worker_pid();
    kill(worker, SIGSTOP);
    kill(daemon_pid, SIGTERM);
    pause_ms(100);
    kill(worker, SIGKILL);
    kills += WORLD + 1;
    int status;
    CHECK_EQ(waitpid(daemon_pid, &status, 0), daemon_pid); /* told once */
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    verify_job("term2", 10);
    start_daemon(NULL);
    cases++;
}

static void test_second_daemon(void)
{
    int p[2], status;
    char text[2048] = "", pid[32];
    CHECK_EQ(pipe2(p, O_CLOEXEC), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(p[1], 2);
        execl(CKPTD_BINARY, "ckptd", "--store", store_dir, "--socket", socket_path, (char *)NULL);
        _exit(127);
    }
    close(p[1]);
    ssize_t n = read(p[0], text, sizeof(text) - 1);
    CHECK(n > 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 5);
    snprintf(pid, sizeof(pid), "pid %d ", (int)daemon_pid);
    CHECK(strstr(text, pid));
    close(p[0]);
    cases++;
}

/* -- refusals and hostile clients ---------------------------------------------------------- */

/* ckptd gives a session up but its process lives on: it starts over under the same launch id;
 * another process may not. */
static void test_start_over(void)
{
    static struct wire_msg bad;
    struct tc zero, one, other;
    enum ckpt_status st;
    tc_init(&zero, socket_path, "over", "t1", 0, 2);
    CHECK_OK(tc_hello(&zero, false));
    tc_init(&one, socket_path, "over", "t1", 1, 2);
    CHECK_OK(tc_hello(&one, false));
    uint64_t epoch = one.epoch;
    wire_begin(&bad, WIRE_CANCEL, &(struct wire_cancel){ .op = 1 });
    bad.head.seq = 99;
    CHECK(tc_raw(&one, bad.bytes, bad.len));
    do { /* BUSY while it is being ended */
        hang_up(&one);
        st = tc_hello(&one, true);
    } while (st == CKPT_BUSY || st == CKPT_OK);
    CHECK_EQ(st, CKPT_NOT_FOUND);
    hang_up(&one);
    tc_init(&other, socket_path, "over", "t1", 1, 2);
    CHECK_EQ(tc_hello(&other, false), CKPT_LAUNCH_REUSED);
    close(other.fd);
    CHECK_OK(tc_hello(&one, false));
    CHECK_EQ(one.epoch, epoch);
    CHECK_OK(tc_state(&one, 1000, 0)); /* it counts as here: nobody aborts its next save */
    tc_init(&other, socket_path, "over", "t1", 1, 2);
    CHECK_EQ(tc_hello(&other, false), CKPT_LAUNCH_REUSED);
    close(other.fd);
    CHECK_OK(tc_state(&zero, 1000, 0));
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        _exit(tc_save(&zero, 5, 0, WIRE_LEVEL_LOCAL, UINT32_MAX) == CKPT_OK ? 0 : 1);
    CHECK_OK(tc_save(&one, 5, 0, WIRE_LEVEL_LOCAL, UINT32_MAX));
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    tc_bye(&one);
    tc_bye(&zero);
    cases += 4;
}

/* A rank that asks and leaves before the restore is planned: what it would have asked for cannot
 * be known, so nothing is said to be unasked.  (If the machine is too slow for it to meet the
 * others the ranks do not restore together, which says the same.) */
static void ask_and_leave(uint32_t rank, bool leaves, atomic_int *stage)
{
    struct tc c;
    tc_init(&c, socket_path, "leaves", leaves ? "l1" : "l2", rank, 3);
    CHECK_OK(tc_hello(&c, false));
    CHECK_OK(tc_state(&c, 1000, 0));
    atomic_fetch_add(stage, 1);
    while (atomic_load(stage) < 3) /* all declared */
        pause_ms(1);
    if (leaves && rank > 0)
        while (atomic_load(stage) < 3 + (int)rank)
            pause_ms(1);
    if (leaves && rank == 1) {
        pause_ms(30); /* rank 0 has asked */
        tc_ask(&c, NULL, 0);
        tc_bye(&c);
        pause_ms(30); /* and rank 1 is gone */
        atomic_fetch_add(stage, 1);
        exit(0);
    }
    if (leaves && rank == 0)
        atomic_fetch_add(stage, 1);
    CHECK_OK(tc_load(&c, NULL, 1, 0));
    if (leaves)
        CHECK_EQ(c.unasked, UINT32_MAX);
    else /* together, or one was too late to be waited for */
        CHECK(c.unasked == 0 || c.unasked == UINT32_MAX);
    tc_bye(&c);
    exit(0);
}

static void test_leaves(void)
{
    struct tc c;
    atomic_int *stage =
        mmap(NULL, sizeof(*stage), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(stage != MAP_FAILED);
    tc_init(&c, socket_path, "leaves", "l0", 0, 1);
    CHECK_OK(tc_hello(&c, false));
    CHECK_OK(tc_state(&c, 1000, 0));
    CHECK_OK(tc_save(&c, 1, 0, 99, UINT32_MAX));
    tc_bye(&c);
    for (int leaves = 1; leaves >= 0; leaves--, cases++) {
        pid_t pid[3];
        atomic_store(stage, 0);
        fflush(NULL);
        for (uint32_t r = 0; r < 3; r++) {
            pid[r] = fork();
            CHECK(pid[r] >= 0);
            if (pid[r] == 0)
                ask_and_leave(r, leaves, stage);
        }
        for (uint32_t r = 0; r < 3; r++) {
            int status;
            CHECK_EQ(waitpid(pid[r], &status, 0), pid[r]);
            CHECK_EQ(status, 0);
        }
    }
    munmap(stage, sizeof(*stage));
}

static void test_refusals(void)
{
    struct tc c, d;
    tc_init(&c, socket_path, "../bad", "t", 0, 1);
    CHECK_EQ(tc_hello(&c, false), CKPT_BAD_NAME);
    close(c.fd);
    tc_init(&c, socket_path, "ref", "t1", 0, 1);
    CHECK_OK(tc_hello(&c, false));
    tc_init(&d, socket_path, "ref", "t1", 0, 1);
    CHECK_EQ(tc_hello(&d, false), CKPT_LAUNCH_REUSED);
    close(d.fd);
    tc_init(&d, socket_path, "ref", "t1", 1, 3);
    CHECK_EQ(tc_hello(&d, false), CKPT_MISMATCH);
    close(d.fd);
    tc_init(&d, socket_path, "ref", "solo", 0, 1);
    d.flags = WIRE_HELLO_SOLO;
    CHECK_EQ(tc_hello(&d, false), CKPT_REFUSED);
    close(d.fd);
    tc_init(&d, socket_path, "ref", "late", 1, 2); /* rank 0 never comes */
    d.arrival_ms = 300;
    CHECK_EQ(tc_hello(&d, false), CKPT_TIMEOUT);
    CHECK(strstr(d.text, "rank 0"));
    close(d.fd);
    tc_init(&d, socket_path, "ref", "unknown", 0, 1);
    CHECK_EQ(tc_hello(&d, true), CKPT_NOT_FOUND);
    close(d.fd);
    /* A newer launch takes over: the older one's next save says so. */
    CHECK_OK(tc_state(&c, 1000, 0));
    CHECK_OK(tc_save(&c, 5, 0, 99, UINT32_MAX));
    CHECK_EQ(tc_save(&c, 5, 1, 99, UINT32_MAX), CKPT_EXISTS);
    tc_init(&d, socket_path, "ref", "t2", 0, 1);
    CHECK_OK(tc_hello(&d, false));
    CHECK_EQ(d.point.step, 5);
    CHECK_EQ(tc_save(&c, 6, 0, 99, UINT32_MAX), CKPT_SUPERSEDED);
    tc_bye(&c);
    /* Rollback inside the process: a new epoch, the same step can be saved again. */
    CHECK_OK(tc_state(&d, 1000, 0));
    CHECK_OK(tc_save(&d, 7, 0, 99, UINT32_MAX));
    uint64_t before = d.epoch;
    CHECK_OK(tc_load(&d, &d.point, 5, WIRE_LOAD_ROLLBACK));
    CHECK(d.epoch > before);
    CHECK_OK(tc_save(&d, 7, 0, 99, UINT32_MAX));
    struct wire_name none = { .epoch = 1, .step = 4711, .attempt = 1 };
    CHECK_EQ(tc_load(&d, &none, 1, 0), CKPT_NOT_FOUND);
    /* More memory than there is: refused with what was asked, and the session lives. */
    struct tc e;
    tc_init(&e, socket_path, "big", "b", 0, 1);
    CHECK_OK(tc_hello(&e, false));
    CHECK_EQ(tc_state(&e, 1000, UINT64_C(1) << 50), CKPT_LIMIT);
    tc_bye(&e);
    tc_bye(&d);
    cases += 16;
}

static int open_fds_of(pid_t pid)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/fd", pid);
    DIR *d = opendir(path);
    int n = 0;
    CHECK(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

/* ... when what had ended is closed: the count has stayed the same for half a second. */
static int settled_fds_of(pid_t pid)
{
    int n = open_fds_of(pid), same = 0;
    for (int i = 0; i < PATIENCE && same < 20; i++) {
        pause_ms(25);
        int now = open_fds_of(pid);
        same = now == n ? same + 1 : 0;
        n = now;
    }
    return n;
}

/* A valid session that then says one wrong thing; it is thrown out, others are not. */
static void hostile_message(unsigned long long *rnd, bool with_state)
{
    static struct wire_msg m;
    struct tc c;
    char token[32];
    snprintf(token, sizeof(token), "h%llu", test_rand(rnd));
    tc_init(&c, socket_path, "hostile", token, 0, 1);
    CHECK_OK(tc_hello(&c, false));
    if (with_state)
        CHECK_OK(tc_state(&c, 1000, 0));
    static const unsigned types[] = { WIRE_STATE,  WIRE_SAVE,     WIRE_FULL,   WIRE_FAIL,
                                      WIRE_LOAD,   WIRE_BACK,     WIRE_CANCEL, WIRE_RESTORED,
                                      WIRE_HELLO,  WIRE_PROGRESS, WIRE_GRANT,  WIRE_OP,
                                      WIRE_FORGET, WIRE_LIST };
    for (int k = 0; k < 8; k++) {
        uint8_t body[128];
        for (size_t i = 0; i < sizeof(body); i++)
            body[i] = (uint8_t)(test_rand(rnd) % 4 ? test_rand(rnd) % 3 : test_rand(rnd));
        unsigned type = types[test_rand(rnd) % ARRAY_COUNT(types)];
        wire_begin(&m, type, body);
        m.head.seq = c.seq + 1 + test_rand(rnd) % 2;
        m.head.fds = (uint32_t)(test_rand(rnd) % 2 ? 0 : test_rand(rnd));
        uint32_t len = (uint32_t)(test_rand(rnd) % 4 ? m.len : test_rand(rnd) % 300);
        if (test_rand(rnd) % 4 == 0)
            m.head.bytes = len;
        if (type == WIRE_STATE && test_rand(rnd) % 2) {
            m.fds[m.fd_count++] = memfd_create("x", MFD_CLOEXEC);
            bool open = wire_send(c.fd, &m, NULL) == CKPT_OK;
            wire_close_fds(&m);
            if (!open)
                break;
            continue;
        }
        if (!tc_raw(&c, m.bytes, len))
            break;
    }
    tc_drop(&c);
    cases++;
}

/* A witness that the declaration does not have ends its session and nothing else. */
static void test_no_such_witness(void)
{
    pid_t worker = worker_pid();
    int status;
    fflush(NULL);
    pid_t villain = fork();
    if (villain == 0) {
        struct tc c;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(20); /* it goes on asking a worker that dies of it again and again */
        tc_init(&c, socket_path, "witness", "w", 0, 1);
        CHECK_OK(tc_hello(&c, false));
        CHECK_OK(tc_state(&c, 1000, 0));
        c.full_flags = WIRE_FULL_WITNESS;
        _exit(tc_save(&c, 1, 0, WIRE_LEVEL_LOCAL, UINT32_MAX) == CKPT_OK ? 7 : 0);
    }
    CHECK(waitpid(villain, &status, 0) == villain);
    CHECK(!(WIFEXITED(status) && WEXITSTATUS(status) == 7));
    CHECK_EQ(worker_pid(), worker);
    cases++;
}

/* The node that a client's device is near is where the worker takes its arena's pages from. */
static void test_near(void)
{
    char path[64], *line = NULL;
    size_t cap = 0;
    bool asked = false;
    struct tc c;
    if (!near_can_be(0)) {
        puts("SKIP: near: no memory policy can be set here");
        return;
    }
    tc_init(&c, socket_path, "near", "n", 0, 1);
    c.numa = 1;
    CHECK_OK(tc_hello(&c, false));
    CHECK_OK(tc_state(&c, 1000, 0));
    snprintf(path, sizeof(path), "/proc/%d/numa_maps", worker_pid());
    FILE *maps = fopen(path, "re");
    CHECK(maps);
    while (getline(&line, &cap, maps) > 0)
        asked |= strstr(line, "memfd:ckpt-arena") && strstr(line, " prefer:0 ");
    fclose(maps);
    free(line);
    CHECK(asked);
    tc_bye(&c);
    cases++;
}

static void test_hostile(void)
{
    unsigned long long rnd = test_seed(7);
    struct crowd w;
    struct plan_of_rank plans[WORLD];
    for (uint32_t r = 0; r < WORLD; r++)
        plans[r] = (struct plan_of_rank){ .job = "good", .steps = { 10, 20, 30 } };
    pid_t worker = worker_pid();
    /* Engines are made at first use: let all threads have worked before counting. */
    run_all(&(struct plan_of_rank){ .job = "warm", .steps = { 1, 2, 3 } }, WORLD);
    run_all(&(struct plan_of_rank){ .job = "warm", .load = 3, .steps = { 4 } }, WORLD);
    int before = settled_fds_of(worker);
    start_ranks(&w, plans, WORLD);
    /* In a process of its own: sessions of one that lives on may come back for a while. */
    fflush(NULL);
    pid_t villain = fork();
    if (villain == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (int i = 0; i < HOSTILE; i++)
            hostile_message(&rnd, i % 2);
        exit(0);
    }
    int status;
    CHECK_EQ(waitpid(villain, &status, 0), villain);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    cases += HOSTILE;
    int idle[300];
    for (size_t i = 0; i < ARRAY_COUNT(idle); i++)
        idle[i] = tc_connect(socket_path);
    end_ranks(&w, 0);
    for (size_t i = 0; i < ARRAY_COUNT(idle); i++)
        if (idle[i] >= 0)
            close(idle[i]);
    verify_job("good", 30);
    CHECK_EQ(worker_pid(), worker); /* it did not crash */
    int after = before + 1;
    for (int i = 0; i < PATIENCE && after > before; i++) {
        pause_ms(25);
        after = open_fds_of(worker);
    }
    CHECK(after <= before);
}

static void test_status(void)
{
    static struct wire_msg m;
    int fd = tc_connect(socket_path);
    wire_begin(&m, WIRE_STATUS, NULL);
    CHECK_OK(wire_send(fd, &m, NULL));
    CHECK_OK(tc_recv(fd, &m, 5000));
    CHECK_EQ(m.head.type, WIRE_STATUS_OK);
    struct stat st;
    const void *text;
    CHECK_EQ(fstat(m.fds[0], &st), 0);
    CHECK_OK(wire_memfd_map(m.fds[0], (size_t)st.st_size, &text, NULL));
    CHECK(memmem(text, (size_t)st.st_size, "\"sessions\":[", 12));
    CHECK(memmem(text, (size_t)st.st_size, "\"saves_committed\":", 18));
    munmap((void *)(uintptr_t)text, (size_t)st.st_size);
    wire_close_fds(&m);
    close(fd);
    cases++;
}

/* A private daemon ends by itself when its last session has ended. */
static void test_private(void)
{
    CHECK_EQ(stop_daemon(), 0);
    start_daemon("--private");
    run_all(&(struct plan_of_rank){ .job = "private", .steps = { 10 } }, WORLD);
    int status;
    CHECK_EQ(waitpid(daemon_pid, &status, 0), daemon_pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(access(socket_path, F_OK) < 0);
    verify_job("private", 10);
    start_daemon(NULL);
}

static void test_nothing_left(void)
{
    for (int i = 0; i < 5; i++) { /* the worker may not serve yet, or not hear yet */
        CHECK_EQ(stop_daemon(), 0);
        start_daemon(NULL);
    }
    CHECK_EQ(stop_daemon(), 0);
    char tmp[128];
    snprintf(tmp, sizeof(tmp), "%s/.tmp", store_dir);
    DIR *d = opendir(tmp);
    size_t n = 0;
    for (const struct dirent *e; d && (e = readdir(d));)
        n += e->d_name[0] != '.';
    if (d)
        closedir(d);
    printf("%zu temporary files are left of killed workers\n", n);
    cases++;
}

int main(void)
{
    snprintf(root, sizeof(root), "/tmp/test-daemon-%d", (int)getpid());
    CHECK_EQ(mkdir(root, 0700), 0);
    snprintf(store_dir, sizeof(store_dir), "%s/store", root);
    snprintf(socket_path, sizeof(socket_path), "%s/sock", root);
    start_daemon(NULL);
    const struct {
        const char *name;
        void (*run)(void);
    } tests[] = {
        { "save and restore", test_save_restore },
        { "start over", test_start_over },
        { "leaves", test_leaves },
        { "refusals", test_refusals },
        { "client killed", test_client_killed },
        { "worker killed", test_worker_killed },
        { "status", test_status },
        { "second daemon", test_second_daemon },
        { "keeper killed", test_keeper_killed },
        { "SIGTERM", test_sigterm },
        { "killed at SIGTERM", test_killed_at_sigterm },
        { "no such witness", test_no_such_witness },
        { "near", test_near },
        { "hostile", test_hostile },
        { "private", test_private },
        { "nothing left", test_nothing_left },
    };
    for (size_t i = 0; i < ARRAY_COUNT(tests); i++) {
        long k = kills, n = cases;
        printf("%s ...", tests[i].name);
        fflush(stdout);
        tests[i].run();
        printf(" %ld cases, %ld kills\n", cases - n, kills - k);
    }
    char command[160];
    snprintf(command, sizeof(command), "rm -rf %s", root);
    CHECK_EQ(system(command), 0);
    printf("%ld kills\n", kills);
    CHECK(kills >= 20);
    TEST_CASES(cases);
    return 0;
}
