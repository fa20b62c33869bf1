/* One training rank's life, timed. */
#include "tools/bench_run.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "formats/digest.h"
#include "libckpt/ckpt.h"
#include "tools/ckptd_path.h"
#include "tools/output.h"

#define WAIT_MS  3600000
#define START_S  20
#define COPY_MAX GIB

static enum ckpt_status from_lib(enum ckpt_status st, const char *what, struct ckpt_err *err)
{
    return st == CKPT_OK ? st : err_set(err, st, "%s: %s", what, ckpt_error());
}

/* -- the daemon ---------------------------------------------------------- */

/* The end of its log, which goes with the scratch directory. */
static enum ckpt_status daemon_failed(const char *log, struct ckpt_err *err)
{
    char text[512] = "";
    CLEANUP_FD int fd = open(log, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && read(fd, text, sizeof(text) - 1) < 0)
        text[0] = 0;
    return err_set(err, CKPT_UNREACHABLE, "ckptd did not come up: %s", text);
}

static enum ckpt_status start_daemon(struct bench_run *b, struct ckpt_err *err)
{
    char program[4200], log[4200];
    char *argv[] = { program, (char[]){ "--store" }, b->store, (char[]){ "--socket" }, b->socket,
                     NULL };
    posix_spawn_file_actions_t actions;
    ckptd_path(program, sizeof(program));
    snprintf(log, sizeof(log), "%s/ckptd.log", b->dir);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log, O_WRONLY | O_CREAT, 0666);
    posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
    int failed = posix_spawnp(&b->daemon, program, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (failed) {
        b->daemon = 0;
        return err_errno(err, failed, "cannot start %s", program);
    }
    double until = output_monotonic() + START_S;
    while (access(b->socket, F_OK) != 0) {
        if (output_monotonic() > until || waitpid(b->daemon, NULL, WNOHANG) != 0)
            return daemon_failed(log, err);
        usleep(10000);
    }
    return CKPT_OK;
}

void bench_run_fini(struct bench_run *b)
{
    if (b->daemon > 0) {
        kill(b->daemon, SIGTERM);
        waitpid(b->daemon, NULL, 0);
    }
    if (b->memory)
        munmap(b->memory, b->bytes);
    *b = (struct bench_run){ 0 };
}

/* -- memory -------------------------------------------------------------- */

/* xorshift64*: no codec finds anything in it. */
static void fill(uint8_t *to, uint64_t bytes)
{
    uint64_t x = UINT64_C(0x9e3779b97f4a7c15);
    for (uint64_t i = 0; i + 8 <= bytes; i += 8) {
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        uint64_t v = x * UINT64_C(0x2545f4914f6cdd1d);
        memcpy(to + i, &v, 8);
    }
}

enum ckpt_status bench_run_init(struct bench_run *b, const char *dir, uint64_t bytes,
                                struct ckpt_err *err)
{
    *b = (struct bench_run){ .dir = dir, .bytes = bytes };
    snprintf(b->store, sizeof(b->store), "%s/store", dir);
    if ((size_t)snprintf(b->socket, sizeof(b->socket), "%s/sock", dir) >= sizeof(b->socket))
        snprintf(b->socket, sizeof(b->socket), "/tmp/ckpt-bench-%ld.sock", (long)getpid());
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return err_errno(err, errno, "no memory for a state of %" PRIu64 " bytes", bytes);
    b->memory = map;
    fill(b->memory, bytes);
    b->hash = digest_hash(b->memory, bytes);
    return start_daemon(b, err);
}

double bench_run_memcpy(const struct bench_run *b)
{
    uint64_t part = min_u64(b->bytes, COPY_MAX);
    void *to =
        mmap(NULL, part, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (to == MAP_FAILED)
        return 0;
    double started = output_monotonic();
    for (uint64_t at = 0; at < b->bytes; at += part)
        memcpy(to, b->memory + at, min_u64(part, b->bytes - at));
    double seconds = output_monotonic() - started;
    munmap(to, part);
    return seconds;
}

/* -- a launch ------------------------------------------------------------ */

struct rank {
    struct bench_run *b;
    struct ckpt *c;
    struct ckpt_state *s;
    struct ckpt_buffer *buffers;
    size_t count;
};

static enum ckpt_status declare(struct rank *r, struct ckpt_err *err)
{
    const struct bench_run *b = r->b;
    enum ckpt_status st = from_lib(ckpt_state_new(r->c, &r->s), "state", err);
    r->count = (size_t)div_up(b->bytes, BENCH_TENSOR_BYTES);
    r->buffers = calloc(r->count, sizeof(*r->buffers));
    if (st == CKPT_OK && !r->buffers)
        st = err_set(err, CKPT_NO_MEMORY, "no memory");
    for (size_t i = 0; st == CKPT_OK && i < r->count; i++) {
        char name[32];
        uint64_t at = i * BENCH_TENSOR_BYTES;
        uint64_t n = min_u64(BENCH_TENSOR_BYTES, b->bytes - at);
        struct ckpt_tensor_desc desc = {
            .size = sizeof(desc), .name = name, .dtype = CKPT_U8, .ndim = 1, .shape = &n
        };
        struct ckpt_piece piece = { .len = { n }, .stride = { 1 }, .replica_count = 1 };
        snprintf(name, sizeof(name), "tensor.%05zu", i);
        r->buffers[i] = (struct ckpt_buffer){ b->memory + at, n };
        st = from_lib(ckpt_tensor(r->s, &desc, &piece, 1), "tensor", err);
    }
    return st;
}

static enum ckpt_status open_rank(struct rank *r, struct bench_times *t, struct ckpt_err *err)
{
    char token[64];
    snprintf(token, sizeof(token), "bench-%ld-%" PRIu64, (long)getpid(), r->b->step);
    struct ckpt_open_opts opts = { .size = sizeof(opts),
                                   .mode = CKPT_TRAIN,
                                   .job = BENCH_JOB,
                                   .store = r->b->store,
                                   .socket = r->b->socket,
                                   .world = 1,
                                   .launch = token };
    enum ckpt_status st = from_lib(ckpt_open(&opts, &r->c), "open", err);
    if (st == CKPT_OK)
        st = declare(r, err);
    double started = output_monotonic();
    if (st == CKPT_OK)
        st = from_lib(ckpt_seal(r->s, WAIT_MS), "seal", err);
    t->seal = output_monotonic() - started;
    return st;
}

/* The destination is touched (and not yet right) before; the bytes are compared after. */
static enum ckpt_status timed_restore(struct rank *r, struct bench_times *t, struct ckpt_err *err)
{
    struct ckpt_point point = { .size = sizeof(point) };
    enum ckpt_status st = ckpt_resume(r->c, &point);
    if (st == CKPT_NOT_FOUND)
        return CKPT_OK;
    if (st != CKPT_OK)
        return from_lib(st, "resume", err);
    memset(r->b->memory, 0x5a, r->b->bytes);
    double started = output_monotonic();
    st = from_lib(ckpt_restore(r->s, NULL, r->buffers, r->count, NULL, NULL), "restore", err);
    t->restore = output_monotonic() - started;
    if (st == CKPT_OK && digest_hash(r->b->memory, r->b->bytes) != r->b->hash)
        return err_set(err, CKPT_CORRUPT, "the restored bytes are not the saved ones");
    return st;
}

static enum ckpt_status timed_save(struct rank *r, bool late, struct bench_times *t,
                                   struct ckpt_err *err)
{
    struct ckpt_save_opts opts = { .size = sizeof(opts), .step = ++r->b->step };
    uint64_t op;
    double started = output_monotonic();
    enum ckpt_status st =
        from_lib(ckpt_save(r->s, &opts, r->buffers, r->count, NULL, &op), "save", err);
    double called = output_monotonic() - started;
    if (st == CKPT_OK && late)
        st = from_lib(ckpt_wait(r->c, op, CKPT_LEVEL_PROCESS, WAIT_MS), "wait for the copy", err);
    double fence = output_monotonic();
    if (st == CKPT_OK)
        st = from_lib(ckpt_fence(r->s, WAIT_MS), "fence", err);
    double blocked = called + output_monotonic() - fence;
    if (st == CKPT_OK)
        st = from_lib(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, WAIT_MS), "wait for local", err);
    t->local = output_monotonic() - started;
    *(late ? &t->late_fence : &t->blocked) = blocked;
    return st;
}

enum ckpt_status bench_run_launch(struct bench_run *b, bool late, struct bench_times *ret,
                                  struct ckpt_err *err)
{
    struct rank r = { .b = b };
    struct bench_times t = { 0 };
    enum ckpt_status st = open_rank(&r, &t, err);
    if (st == CKPT_OK)
        st = timed_restore(&r, &t, err);
    if (st == CKPT_OK)
        st = timed_save(&r, false, &t, err);
    t.first = t.local;
    if (st == CKPT_OK)
        st = timed_save(&r, late, &t, err);
    ckpt_close(r.c);
    free(r.buffers);
    if (st == CKPT_OK)
        *ret = t;
    return st;
}

/* -- memory of processes ------------------------------------------------- */

/* A number behind `label` in /proc/PID/status; 0 if there is none. */
static uint64_t proc_number(pid_t pid, const char *label)
{
    char path[64], line[256];
    uint64_t n = 0;
    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    FILE *f = fopen(path, "re");
    while (f && n == 0 && fgets(line, sizeof(line), f)) {
        if (strncmp(line, label, strlen(label)) == 0)
            n = strtoull(line + strlen(label), NULL, 10);
    }
    if (f)
        fclose(f);
    return n;
}

uint64_t bench_peak_rss(pid_t pid)
{
    return proc_number(pid, "VmHWM:") * KIB;
}

size_t bench_run_daemons(const struct bench_run *b, pid_t *ret, size_t cap)
{
    size_t n = 0;
    DIR *d = opendir("/proc");
    const struct dirent *e;
    if (cap > 0 && b->daemon > 0)
        ret[n++] = b->daemon;
    while (d && n < cap && (e = readdir(d))) {
        pid_t pid = (pid_t)strtol(e->d_name, NULL, 10);
        if (pid > 0 && proc_number(pid, "PPid:") == (uint64_t)b->daemon && b->daemon > 0)
            ret[n++] = pid;
    }
    if (d)
        closedir(d);
    return n;
}
