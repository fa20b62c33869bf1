/* Hostile clients on the real socket of a real ckptd (control_hello.c, control_msg.c,
 * conn.c, peer.c, arena.c): whatever they send, hold, cut or write into, two honest ranks
 * go on saving and restoring, the worker and the keeper stay the same processes, and
 * when the villains are gone nothing of them is left in either.
 *
 * CKPT_DEEP=1: eight rounds of it, and ckptd codes its packs. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include "e2e/kit.h"
#include "e2e/villains.h"
#include "storage/repo/catalog.h"
#include "storage/repo/scrub.h"
#include "unit/daemon_client.h"

/* Memory that the allocator and the page tables may keep; more is a leak.  A round of
 * villains comes before the measurement, so that all buffers have been made. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) /* they keep what is freed */
#define WORKER_MORE_KIB (768 << 10)
#define KEEPER_MORE_KIB (64 << 10)
#else
#define WORKER_MORE_KIB (24 << 10)
#define KEEPER_MORE_KIB (1 << 10)
#endif

#define SAVES_A_ROUND 3
#define CODERS        6 /* data threads of a ckptd by itself */
/* Of the villains.  The end of a lower one is remembered and would end the others' saves. */
#define FIRST_RANK 1024

static struct shared {
    atomic_ullong cases[VILLAIN_KINDS];
    atomic_uint next_rank;
} * shared;
static unsigned long long seed;
static bool deep;

/* -- honest ranks --------------------------------------------------------------- */

static const struct kit_part parts[] = {
    { .name = "w", .dtype = CKPT_F32, .ndim = 2, .shape = { 2048, 1024 }, .how = KIT_ROWS },
    { .name = "v", .dtype = CKPT_BF16, .ndim = 2, .shape = { 100, 77 }, .how = KIT_FLAT },
    { .name = "rng", .object = true, .shape = { 64, 40 }, .scope = CKPT_OBJECT_RANK },
};

/* Restores what the round before saved, checks every byte, and saves on. */
static void honest_round(struct kit_rank *r)
{
    uint64_t last = *(const uint64_t *)r->arg;
    kit_open(r);
    kit_declare(r, parts, ARRAY_COUNT(parts));
    CHECK_EQ(r->point.size ? r->point.step : 0, last);
    if (last)
        kit_restore(r);
    for (uint64_t step = last + 1; step <= last + SAVES_A_ROUND; step++)
        KIT_OK(kit_save_local(r, step));
}

/* -- villains ---------------------------------------------------------------------- */

static const unsigned amounts[VILLAIN_KINDS] = {
    [VILLAIN_RANDOM] = 100, [VILLAIN_MUTANT] = 50, [VILLAIN_ORDER] = 60,     [VILLAIN_PIDFD] = 2,
    [VILLAIN_BODY] = 2,     [VILLAIN_LENGTHS] = 1, [VILLAIN_TEXT] = 1,       [VILLAIN_SCRIBBLE] = 4,
    [VILLAIN_ARENA] = 4,    [VILLAIN_LOAD] = 1,    [VILLAIN_CONNECT] = 3000, [VILLAIN_CROWD] = 1,
    [VILLAIN_STALL] = 10,   [VILLAIN_DEAF] = 2,    [VILLAIN_ORPHAN] = 5,
};

/* A process that runs one kind. */
static pid_t start_villain(enum villain_kind kind, const char *token, unsigned divide)
{
    struct villain v = { .socket = kit.socket,
                         .token = token,
                         .seed = seed++,
                         .amount = (amounts[kind] + divide - 1) / divide,
                         .cases = &shared->cases[kind],
                         .next_rank = &shared->next_rank };
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(250);
        villain_run(&v, kind);
    }
    return pid;
}

static pid_t start_anchor(const char *token)
{
    int p[2];
    char byte;
    struct villain v = { .socket = kit.socket, .token = token };
    CHECK_EQ(pipe2(p, O_CLOEXEC), 0);
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        villain_anchor(&v, p[1]);
    }
    close(p[1]);
    CHECK_EQ(read(p[0], &byte, 1), 1);
    close(p[0]);
    return pid;
}

static void must_end_well(pid_t pid, const char *what)
{
    int status;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fprintf(stderr, "villain \"%s\" ended with wait status %#x\n", what, (unsigned)status);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* All kinds, two at a time; those that want the whole table of connections or measure who
 * is turned away come alone. */
static void all_villains(unsigned divide)
{
    static unsigned launches;
    char token[64];
    snprintf(token, sizeof(token), "villains-%d-%u", (int)getpid(), launches++);
    atomic_store(&shared->next_rank, FIRST_RANK);
    pid_t anchor = start_anchor(token);
    pid_t stall = start_villain(VILLAIN_STALL, token, divide), other = 0;
    enum villain_kind other_kind = 0;
    for (enum villain_kind k = 0; k < VILLAIN_KINDS; k++) {
        if (k == VILLAIN_STALL || k == VILLAIN_CROWD)
            continue;
        pid_t pid = start_villain(k, token, divide);
        if (other)
            must_end_well(other, villain_names[other_kind]);
        other = pid;
        other_kind = k;
    }
    must_end_well(other, villain_names[other_kind]);
    must_end_well(stall, villain_names[VILLAIN_STALL]);
    must_end_well(start_villain(VILLAIN_CROWD, token, 1), villain_names[VILLAIN_CROWD]);
    kill(anchor, SIGKILL);
    CHECK_EQ(waitpid(anchor, NULL, 0), anchor);
}

/* -- what is left of them ------------------------------------------------------------- */

struct look {
    long fds, threads, rss_kib, arenas;
};

static long field_of(pid_t pid, const char *name)
{
    char path[64], line[256];
    long value = -1;
    snprintf(path, sizeof(path), "/proc/%d/status", pid);
    FILE *f = fopen(path, "re");
    CHECK(f != NULL);
    while (value < 0 && fgets(line, sizeof(line), f))
        if (strncmp(line, name, strlen(name)) == 0)
            value = strtol(line + strlen(name), NULL, 10);
    fclose(f);
    CHECK(value >= 0);
    return value;
}

static long count_fds(pid_t pid)
{
    char path[64];
    long n = 0;
    snprintf(path, sizeof(path), "/proc/%d/fd", pid);
    DIR *d = opendir(path);
    CHECK(d != NULL);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static long count_arenas(pid_t pid)
{
    char path[64], line[512];
    long n = 0;
    snprintf(path, sizeof(path), "/proc/%d/maps", pid);
    FILE *f = fopen(path, "re");
    CHECK(f != NULL);
    while (fgets(line, sizeof(line), f))
        n += strstr(line, "memfd:") != NULL;
    fclose(f);
    return n;
}

/* Its own; the kernel's workers of io_uring come and go in the same list. */
static long count_threads(pid_t pid)
{
    char path[64], name[32];
    long n = 0;
    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    DIR *d = opendir(path);
    const struct dirent *e;
    while (d && (e = readdir(d))) {
        char comm[400];
        snprintf(comm, sizeof(comm), "%s/%s/comm", path, e->d_name);
        FILE *f = e->d_name[0] == '.' ? NULL : fopen(comm, "re");
        if (f && fgets(name, sizeof(name), f) && strncmp(name, "iou-", 4) != 0)
            n++;
        if (f)
            fclose(f);
    }
    if (d)
        closedir(d);
    return n;
}

static struct look look_at(pid_t pid)
{
    return (struct look){ .fds = count_fds(pid),
                          .threads = count_threads(pid),
                          .rss_kib = field_of(pid, "VmRSS:"),
                          .arenas = count_arenas(pid) };
}

static bool no_more_than(const struct look *now, const struct look *before, long more_kib)
{
    return now->fds <= before->fds && now->threads <= before->threads &&
           now->arenas <= before->arenas && now->rss_kib <= before->rss_kib + more_kib;
}

/* Sessions of processes that are gone end as soon as their crews have let go. */
static void expect_flat(const char *who, pid_t pid, const struct look *before, long more_kib)
{
    struct look now = look_at(pid);
    for (int i = 0; i < 400 && !no_more_than(&now, before, more_kib); i++) {
        kit_pause(25);
        now = look_at(pid);
    }
    printf("    %s: %ld descriptors (%ld before), %ld threads (%ld), %ld arenas (%ld), "
           "%ld KiB (%ld, at most %ld more)\n",
           who, now.fds, before->fds, now.threads, before->threads, now.arenas, before->arenas,
           now.rss_kib, before->rss_kib, more_kib);
    CHECK(no_more_than(&now, before, more_kib));
    kit.cases++;
}

/* Every line of the log is one of ours: nobody forged one, and quotes are in pairs. */
static void check_log(void)
{
    char *line = NULL;
    size_t cap = 0;
    long lines = 0, refusals = 0;
    FILE *f = fopen(kit.log, "re");
    CHECK(f != NULL);
    for (ssize_t n; (n = getline(&line, &cap, f)) > 0; lines++) {
        bool quoted = false;
        CHECK(strncmp(line, "time=20", 7) == 0 && line[n - 1] == '\n');
        for (ssize_t i = 0; i < n - 1; i++) {
            CHECK((unsigned char)line[i] >= 0x20);
            if (line[i] == '\\' && quoted)
                i++;
            else if (line[i] == '"')
                quoted = !quoted;
            CHECK(quoted || strncmp(line + i, "forged", 6) != 0);
        }
        CHECK(!quoted);
        refusals += strstr(line, "what=\"HELLO refused\"") != NULL;
    }
    fclose(f);
    free(line);
    CHECK(refusals > 0);
    kit.cases += lines;
}

/* A slot that its owner writes into while it is saved may give a damaged checkpoint, of
 * that owner; verify reads it and says so, without a word about others. */
static void verify_scribbled(void)
{
    struct store *s;
    struct catalog cat;
    struct scrub_callbacks cb = { 0 };
    size_t damaged = 0;
    CHECK_OK(store_open(kit.store, &(struct store_options){ .io = "threads" }, &s, NULL));
    CHECK_OK(catalog_read(s, "scribble", CATALOG_ALL, &cat, NULL));
    for (size_t i = 0; i < cat.count; i++) {
        struct scrub_report report = { 0 };
        enum ckpt_status st =
            scrub_verify(s, "scribble", &cat.entries[i].name, 128 * MIB, &cb, &report, NULL);
        CHECK(st == CKPT_OK || st == CKPT_CORRUPT);
        damaged += st == CKPT_CORRUPT;
    }
    printf("    %zu checkpoints were scribbled into, verify finds %zu of them damaged\n", cat.count,
           damaged);
    CHECK(cat.count > 0);
    kit.cases += (long)cat.count;
    catalog_fini(&cat);
    store_close(s);
}

/* Clock ticks of processor time that a process has had. */
static unsigned long cpu_ticks(pid_t pid)
{
    char path[64], line[1024];
    unsigned long user = 0, system = 0;
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    FILE *f = fopen(path, "re");
    CHECK(f != NULL && fgets(line, sizeof(line), f));
    fclose(f);
    const char *after = strrchr(line, ')');
    CHECK(after && sscanf(after + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
                          &system) == 2);
    return user + system;
}

/* More connections than descriptors: those beyond wait, the worker does not spin over them,
 * and there is room again when they are gone. */
static void test_no_descriptors(uint64_t *last)
{
    pid_t worker = kit_worker();
    struct rlimit before, few;
    int held[60];
    CHECK_EQ(prlimit(worker, RLIMIT_NOFILE, NULL, &before), 0);
    few = before;
    few.rlim_cur = (rlim_t)count_fds(worker) + 10;
    CHECK_EQ(prlimit(worker, RLIMIT_NOFILE, &few, NULL), 0);
    for (size_t i = 0; i < ARRAY_COUNT(held); i++)
        CHECK((held[i] = tc_connect(kit.socket)) >= 0);
    kit_pause(100);
    unsigned long ticks = cpu_ticks(worker);
    kit_pause(600);
    ticks = cpu_ticks(worker) - ticks;
    printf("    without descriptors the worker ran for %lu ticks of 60\n", ticks);
    CHECK(ticks < 20 && kit_logged("cannot accept connections"));
    CHECK_EQ(prlimit(worker, RLIMIT_NOFILE, &before, NULL), 0);
    for (size_t i = 0; i < ARRAY_COUNT(held); i++)
        close(held[i]);
    kit_run("good", 2, honest_round, last);
    *last += SAVES_A_ROUND;
    CHECK_EQ(kit_worker(), worker);
}

/* -- the test --------------------------------------------------------------------------- */

static bool running(pid_t pid)
{
    siginfo_t ended = { 0 };
    CHECK_EQ(waitid(P_PID, (id_t)pid, &ended, WEXITED | WNOHANG | WNOWAIT), 0);
    return ended.si_pid == 0;
}

/* Rounds of honest ranks, until the villains are through. */
static void under_attack(uint64_t *last, unsigned rounds)
{
    unsigned honest = 0;
    fflush(NULL);
    pid_t attack = fork();
    CHECK(attack >= 0);
    if (attack == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (unsigned i = 0; i < rounds; i++, seed += VILLAIN_KINDS)
            all_villains(1);
        exit(0);
    }
    for (; honest < 2 || running(attack); honest++) {
        kit_run("good", 2, honest_round, last);
        *last += SAVES_A_ROUND;
    }
    must_end_well(attack, "all");
    printf("    %u honest launches saved %llu times meanwhile\n", honest,
           (unsigned long long)honest * SAVES_A_ROUND);
}

static void attack(uint64_t *last, unsigned rounds)
{
    pid_t worker = kit_worker(), keeper = kit.keeper;
    villain_prepare(kit.socket);
    kit_run("good", 2, honest_round, last); /* all buffers and engines are made */
    *last += SAVES_A_ROUND;
    all_villains(4);
    kit_pause(500);
    struct look of_worker = look_at(worker), of_keeper = look_at(keeper);
    under_attack(last, rounds);
    kit_run("good", 2, honest_round, last);
    *last += SAVES_A_ROUND;
    CHECK_EQ(kit_worker(), worker); /* it is the same that there was */
    /* Each data thread touches its buffer for coding at its first coded pack. */
    long coding = kit.codec ? CODERS * (CKPT_SLOT_BYTES_MIN >> 10) : 0;
    expect_flat("worker", worker, &of_worker, WORKER_MORE_KIB + coding);
    expect_flat("keeper", keeper, &of_keeper, KEEPER_MORE_KIB);
}

int main(void)
{
    uint64_t last = 0;
    deep = getenv("CKPT_DEEP") != NULL;
    seed = test_seed(7);
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    kit.codec = deep ? "zstd:1" : NULL;
    kit_begin("hostile");
    attack(&last, deep ? 8 : 1);
    test_no_descriptors(&last);
    for (enum villain_kind k = 0; k < VILLAIN_KINDS; k++) {
        unsigned long long n = atomic_load(&shared->cases[k]);
        printf("    %-8s %llu\n", villain_names[k], n);
        CHECK(n > 0);
        kit.cases += (long)n;
    }
    kit_verify("good", last);
    verify_scribbled();
    check_log();
    return kit_end();
}
