/* Fail the n-th between processes: of each C library function that libckpt calls in a
 * trainer, and of each that ckptd calls while it serves one, for every n until a launch
 * that opens, saves, waits, restores and closes passes untouched.  After each: a clean
 * status with words, no memory or descriptor of the trainer leaked, ckptd alive, and the
 * next launch succeeds.  fail_nth.c is preloaded into both; this test starts itself
 * again for that, several times, each with a ckptd of its own: they mostly wait. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "libckpt/ckpt.h"
#include "store/scratch.h"
#include "torture/fail_nth.h"

#define ELEMENTS   3000
#define TIMEOUT_MS 10000
#define SHARE      4
#define WORKERS    (SHARE * SHARE)

static char base[200], store[220], sock[220], log_path[220];
static struct fail_plan *plan;
static pid_t daemon_pid;
static unsigned job_count;
static unsigned worker;

/* What all workers found; shared. */
static struct tally {
    atomic_ulong injections[FAIL_DAEMON + 1][FAIL_SITE_COUNT], slow;
} * tally;
static float values[ELEMENTS];

/* ---- the daemon ---- */

static void start_daemon(void)
{
    fflush(NULL);
    daemon_pid = fork();
    CHECK(daemon_pid >= 0);
    if (daemon_pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        int fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        dup2(fd, STDOUT_FILENO);
        dup2(fd, STDERR_FILENO);
        setenv("CKPT_TEST_FAIL_ROLE", "daemon", 1);
        execl(CKPTD_BINARY, "ckptd", "--store", store, "--socket", sock, "--slot-bytes", "8M",
              "--io", "threads", "--foreground", (char *)NULL);
        _exit(127);
    }
}

static void check_daemon(const char *what)
{
    int status;
    pid_t got = waitpid(daemon_pid, &status, WNOHANG);
    if (got == 0)
        return;
    fprintf(stderr, "%s: ckptd ended with %#x\n", what, (unsigned)status);
    exit(1);
}

/* ---- one launch ---- */

static enum ckpt_status declare(struct ckpt_state *s)
{
    const uint64_t shape[1] = { ELEMENTS };
    const struct ckpt_piece whole = { .len = { ELEMENTS }, .stride = { 1 } };
    const struct ckpt_tensor_desc t = {
        .size = sizeof(t), .name = "w", .dtype = CKPT_F32, .ndim = 1, .shape = shape
    };
    enum ckpt_status st = ckpt_tensor(s, &t, &whole, 1);
    return st == CKPT_OK ? ckpt_object(s, "rng", 100, CKPT_OBJECT_RANK) : st;
}

static void fill(float salt)
{
    for (int i = 0; i < ELEMENTS; i++)
        values[i] = (float)i + salt;
}

static enum ckpt_status save(struct ckpt *c, struct ckpt_state *s, struct ckpt_buffer b[2])
{
    const struct ckpt_save_opts o = { .size = sizeof(o), .step = 1, .timeout_ms = TIMEOUT_MS };
    uint64_t op;
    fill(1);
    enum ckpt_status st = ckpt_save(s, &o, b, 2, NULL, &op);
    if (st == CKPT_OK)
        st = ckpt_fence(s, TIMEOUT_MS);
    return st == CKPT_OK ? ckpt_wait(c, op, CKPT_LEVEL_LOCAL, TIMEOUT_MS) : st;
}

static enum ckpt_status restore(struct ckpt_state *s, struct ckpt_buffer b[2])
{
    const struct ckpt_restore_opts o = { .size = sizeof(o), .timeout_ms = TIMEOUT_MS };
    fill(0);
    enum ckpt_status st = ckpt_restore(s, NULL, b, 2, NULL, &o);
    for (int i = 0; st == CKPT_OK && i < ELEMENTS; i++)
        CHECK(values[i] == (float)i + 1);
    return st;
}

/* Opens, saves or restores, closes; words: what the failing call said. */
static enum ckpt_status launch(const char *job, enum ckpt_mode mode, char words[300])
{
    char rng[100] = "state";
    struct ckpt *c = NULL;
    struct ckpt_state *s = NULL;
    struct ckpt_buffer b[2] = { { .base = values, .bytes = sizeof(values) },
                                { .base = rng, .bytes = sizeof(rng) } };
    const struct ckpt_open_opts open = {
        .size = sizeof(open), .mode = mode, .job = job, .socket = sock, .timeout_ms = TIMEOUT_MS
    };
    enum ckpt_status st = ckpt_open(&open, &c);
    if (st == CKPT_OK)
        st = ckpt_state_new(c, &s);
    if (st == CKPT_OK)
        st = declare(s);
    if (st == CKPT_OK)
        st = ckpt_seal(s, TIMEOUT_MS);
    if (st == CKPT_OK)
        st = mode == CKPT_TRAIN ? save(c, s, b) : restore(s, b);
    snprintf(words, 300, "%s", st == CKPT_OK ? "" : ckpt_error());
    ckpt_close(c);
    return st;
}

/* A job of its own that is saved, then restored. */
static enum ckpt_status run(char words[300])
{
    char job[32];
    snprintf(job, sizeof(job), "j%u", job_count++);
    enum ckpt_status st = launch(job, CKPT_TRAIN, words);
    return st == CKPT_OK ? launch(job, CKPT_READ, words) : st;
}

/* ---- faults ---- */

struct fault {
    enum fail_site site;
    int error;
};
static const struct fault faults[] = {
    { FAIL_MALLOC, ENOMEM },       { FAIL_CALLOC, ENOMEM },  { FAIL_REALLOC, ENOMEM },
    { FAIL_SENDMSG, EINTR },       { FAIL_SENDMSG, EAGAIN }, { FAIL_SENDMSG, EPIPE },
    { FAIL_RECVMSG, EINTR },       { FAIL_RECVMSG, EAGAIN }, { FAIL_RECVMSG, EIO },
    { FAIL_RECVMSG, ECONNRESET },  { FAIL_ACCEPT, EMFILE },  { FAIL_ACCEPT, EINTR },
    { FAIL_ACCEPT, ECONNABORTED }, { FAIL_SOCKET, EMFILE },  { FAIL_CONNECT, EAGAIN },
    { FAIL_CONNECT, EINTR },       { FAIL_POLL, EINTR },     { FAIL_EPOLL_CTL, ENOMEM },
    { FAIL_EPOLL_WAIT, EINTR },    { FAIL_MMAP, ENOMEM },    { FAIL_MEMFD, EMFILE },
    { FAIL_READ, EINTR },          { FAIL_WRITE, EINTR },    { FAIL_WRITE, ENOSPC },
    { FAIL_WRITE, FAIL_SHORT },
};
static const char *const site_names[] = {
#define X(upper, name) #name,
    FAIL_SITES(X)
#undef X
};

/* A socket that takes nothing yet is waited for, but not by an open: that fails, as BUSY. */
static bool transparent(const struct fault *f)
{
    if (f->site == FAIL_SENDMSG && f->error == EAGAIN)
        return false;
    return f->error == EINTR || f->error == EAGAIN || f->error == ECONNABORTED ||
           f->error == FAIL_SHORT;
}

static int open_files(void)
{
    int count = 0;
    DIR *dir = opendir("/proc/self/fd");
    CHECK(dir);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

static void arm(enum fail_role role, const struct fault *f, unsigned long nth)
{
    atomic_store(&plan->site, (int)f->site);
    atomic_store(&plan->error, f->error);
    atomic_store(&plan->nth, nth);
    atomic_store(&plan->seen, 0);
    atomic_store(&plan->hits, 0);
    atomic_store(&plan->role, (int)role);
}

/* Never that the data is wrong, absent or decided otherwise, and never a bug. */
static bool clean(enum ckpt_status st, const char *words)
{
    enum ckpt_class class = status_class(st);
    if (st == CKPT_OK)
        return true;
    return words[0] && (class == CKPT_CLASS_BUSY || class == CKPT_CLASS_STORE) &&
           st != CKPT_CONFLICT;
}

static void complain(const char *what, const char *why, enum ckpt_status st, const char *words)
{
    fprintf(stderr, "%s: %s: %s \"%s\"\n", what, why, status_name(st), words);
    exit(1);
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* One launch with the nth call failing; false when nothing was left to fail. */
static bool one_fault(enum fail_role role, const struct fault *f, unsigned long nth)
{
    char what[100], words[300];
    snprintf(what, sizeof(what), "%s, %s %lu, %s", role == FAIL_RANK ? "rank" : "ckptd",
             site_names[f->site], nth, f->error < 0 ? "short" : strerrorname_np(f->error));
    int files = open_files();
    long blocks = atomic_load(&plan->blocks);
    int64_t start = now_ms();
    arm(role, f, nth);
    enum ckpt_status st = run(words);
    atomic_store(&plan->role, FAIL_NOBODY);
    unsigned hits = atomic_load(&plan->hits);
    if (now_ms() - start > 1000) {
        atomic_fetch_add(&tally->slow, 1);
        printf("    %s: %lld ms, %s\n", what, (long long)(now_ms() - start), status_name(st));
    }
    if (!clean(st, words) || ((hits == 0 || transparent(f)) && st != CKPT_OK))
        complain(what, "the launch", st, words);
    check_daemon(what);
    if (hits == 0)
        return false;
    if (st != CKPT_OK && (st = run(words)) != CKPT_OK)
        complain(what, "the next launch", st, words);
    if (open_files() != files || atomic_load(&plan->blocks) != blocks) {
        fprintf(stderr, "%s: %d files, %ld blocks leaked\n", what, open_files() - files,
                atomic_load(&plan->blocks) - blocks);
        exit(1);
    }
    atomic_fetch_add(&tally->injections[role][f->site], 1);
    return true;
}

/* What each of them calls; the rest of the table need not be tried. */
static const unsigned used_by_rank = 1u << FAIL_MALLOC | 1u << FAIL_CALLOC | 1u << FAIL_REALLOC |
                                     1u << FAIL_SENDMSG | 1u << FAIL_RECVMSG | 1u << FAIL_SOCKET |
                                     1u << FAIL_CONNECT | 1u << FAIL_POLL | 1u << FAIL_MMAP |
                                     1u << FAIL_MEMFD | 1u << FAIL_WRITE;
static const unsigned used_by_daemon =
    ((1u << FAIL_SITE_COUNT) - 1) & ~(1u << FAIL_SOCKET | 1u << FAIL_CONNECT | 1u << FAIL_POLL);

static bool is_used(enum fail_role role, int site)
{
    return ((role == FAIL_RANK ? used_by_rank : used_by_daemon) >> site & 1) != 0;
}

/* Of every SHARE-th fault, every SHARE-th number: the workers have all of them together. */
static void test_role(enum fail_role role)
{
    for (size_t k = worker / SHARE; k < sizeof(faults) / sizeof(faults[0]); k += SHARE) {
        unsigned long nth = worker % SHARE;
        while (is_used(role, faults[k].site) && one_fault(role, &faults[k], nth))
            nth += SHARE;
    }
}

/* ---- a worker ---- */

static void *map_shared(const char *path, size_t bytes)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(p != MAP_FAILED);
    close(fd);
    return p;
}

static void wait_for_daemon(void)
{
    char words[300];
    enum ckpt_status st = CKPT_UNREACHABLE;
    for (int i = 0; i < 400 && st != CKPT_OK; i++) {
        st = run(words);
        if (st != CKPT_OK)
            nanosleep(&(struct timespec){ .tv_nsec = 25000000 }, NULL);
    }
    CHECK_OK(st);
    CHECK_OK(run(words)); /* what is made once is made */
}

static int work(void)
{
    int status;
    snprintf(store, sizeof(store), "%s/store", base);
    snprintf(sock, sizeof(sock), "%s/sock", base);
    snprintf(log_path, sizeof(log_path), "%s/log", base);
    unsetenv("CKPT_LAUNCH");
    plan = map_shared(getenv("CKPT_TEST_FAIL_PLAN"), sizeof(*plan));
    tally = map_shared(getenv("CKPT_TEST_TALLY"), sizeof(*tally));
    start_daemon();
    wait_for_daemon();
    test_role(FAIL_RANK);
    test_role(FAIL_DAEMON);
    kill(daemon_pid, SIGTERM);
    CHECK_EQ(waitpid(daemon_pid, &status, 0), daemon_pid);
    CHECK_EQ(status, 0);
    return 0;
}

/* ---- start ---- */

static pid_t start_worker(unsigned number, char **argv)
{
    char path[240], text[16];
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    snprintf(path, sizeof(path), "%s/%u", base, number);
    CHECK_EQ(mkdir(path, 0700), 0);
    setenv("CKPT_TEST_BASE", path, 1);
    snprintf(text, sizeof(text), "%u", number);
    setenv("CKPT_TEST_WORKER", text, 1);
    strncat(path, "/plan", sizeof(path) - strlen(path) - 1);
    (void)map_shared(path, sizeof(*plan));
    setenv("CKPT_TEST_FAIL_PLAN", path, 1);
    setenv("CKPT_TEST_FAIL_ROLE", "rank", 1);
    setenv("LD_PRELOAD", FAIL_NTH_MODULE, 1);
    execv("/proc/self/exe", argv);
    _exit(127);
}

static unsigned long print_role(enum fail_role role, const char *name)
{
    unsigned long sum = 0;
    for (int i = 0; i < FAIL_SITE_COUNT; i++) {
        unsigned long n = atomic_load(&tally->injections[role][i]);
        if (!is_used(role, i))
            continue;
        printf("%-6s %-14s %5lu injections\n", name, site_names[i], n);
        CHECK(n > 0);
        sum += n;
    }
    return sum;
}

int main(int argc, char **argv)
{
    char path[240];
    pid_t pids[WORKERS];
    (void)argc;
    static char line[BUFSIZ]; /* or the first line would look like a leak */
    setvbuf(stdout, line, _IOLBF, sizeof(line));
    if (getenv("CKPT_TEST_BASE")) {
        snprintf(base, sizeof(base), "%s", getenv("CKPT_TEST_BASE"));
        worker = (unsigned)strtoul(getenv("CKPT_TEST_WORKER"), NULL, 10);
        return work();
    }
    if (access("/dev/shm", W_OK) == 0)
        setenv("TMPDIR", "/dev/shm", 0);
    scratch_make(base);
    snprintf(path, sizeof(path), "%s/tally", base);
    tally = map_shared(path, sizeof(*tally));
    setenv("CKPT_TEST_TALLY", path, 1);
    for (unsigned i = 0; i < WORKERS; i++)
        pids[i] = start_worker(i, argv);
    int failed = 0;
    for (unsigned i = 0, status; i < WORKERS; i++) {
        CHECK_EQ(waitpid(pids[i], (int *)&status, 0), pids[i]);
        failed += status != 0;
    }
    CHECK_EQ(failed, 0);
    unsigned long sum = print_role(FAIL_RANK, "rank") + print_role(FAIL_DAEMON, "ckptd");
    printf("%lu launches took more than a second\n", atomic_load(&tally->slow));
    scratch_remove(base);
    TEST_CASES(sum);
    return 0;
}
