/* The daemon, the processes of the ranks and what is in the store. */
#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "e2e/kit.h"
#include "formats/sockpath.h"
#include "storage/repo/catalog.h"
#include "storage/repo/scrub.h"

struct kit kit;

void kit_pause(long ms)
{
    nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 }, NULL);
}

/* A file's text, malloc'ed; NULL if it cannot be read. */
static char *slurp(const char *path)
{
    FILE *f = fopen(path, "re");
    char *text = NULL;
    size_t len = 0;
    ssize_t n = f ? getdelim(&text, &len, 0, f) : -1;
    if (f)
        fclose(f);
    if (n >= 0)
        return text;
    free(text);
    return NULL;
}

static void say_log(void)
{
    char *text = slurp(kit.log);
    size_t len = text ? strlen(text) : 0;
    fprintf(stderr, "--- the end of ckptd's log:\n%s", len > 6000 ? text + len - 6000 : text);
    free(text);
}

int kit_logged_times(const char *text)
{
    char *log = slurp(kit.log);
    int times = 0;
    for (const char *at = log; at && (at = strstr(at, text)); at += strlen(text))
        times++;
    free(log);
    return times;
}

bool kit_logged(const char *text)
{
    return kit_logged_times(text) > 0;
}

const char *kit_file(const char *variable, const char *built)
{
    const char *moved = getenv(variable);
    return moved ? moved : built;
}

static void become_ckptd(void)
{
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    int fd = open(kit.log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    dup2(fd, 1); /* who holds the test's own output keeps a failed test waiting */
    dup2(fd, 2);
    if (kit.preload) {
        setenv("LD_PRELOAD", kit.preload, 1);
        setenv("ASAN_OPTIONS", "verify_asan_link_order=0", 1);
    }
    const char *argv[16 + ARRAY_COUNT(kit.more)] = {
        "ckptd",
        "--store",
        kit.store,
        "--socket",
        kit.socket,
        "--slot-bytes",
        kit.slot_bytes ? kit.slot_bytes : "8M",
        "--io",
        kit.io ? kit.io : "auto",
        "--codec",
        kit.codec ? kit.codec : "stored",
        "--foreground",
    };
    size_t n = 12;
    for (size_t i = 0; i < ARRAY_COUNT(kit.more) && kit.more[i]; i++)
        argv[n++] = kit.more[i];
    execv(kit_file("CKPT_CKPTD", CKPTD_BINARY), (char *const *)(uintptr_t)argv);
    _exit(127);
}

void kit_start(void)
{
    struct stat st;
    fflush(NULL);
    kit.keeper = fork();
    CHECK(kit.keeper >= 0);
    if (kit.keeper == 0)
        become_ckptd();
    (void)kit_worker();
    struct ckpt *c;
    struct ckpt_open_opts o = { .size = sizeof(o),
                                .mode = CKPT_READ,
                                .job = "nobody",
                                .socket = kit.socket,
                                .timeout_ms = 10000 };
    for (int i = 0; i < 400; i++) { /* it answers, be it that the job is not known */
        if (stat(kit.socket, &st) == 0) {
            enum ckpt_status got = ckpt_open(&o, &c);
            if (got == CKPT_OK)
                ckpt_close(c);
            if (got == CKPT_OK || got == CKPT_NOT_FOUND)
                return;
        }
        kit_pause(25);
    }
    say_log();
    CHECK(!"the daemon did not start");
}

int kit_stop(void)
{
    int status;
    kill(kit.keeper, SIGTERM);
    CHECK_EQ(waitpid(kit.keeper, &status, 0), kit.keeper);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

pid_t kit_worker(void)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/task/%d/children", kit.keeper, kit.keeper);
    for (int i = 0; i < 800; i++) {
        char *text = slurp(path);
        pid_t pid = text ? (pid_t)strtol(text, NULL, 10) : 0;
        free(text);
        if (pid > 0)
            return pid;
        kit_pause(5);
    }
    CHECK(!"no worker");
    return 0;
}

void kit_kill(pid_t pid, int sig)
{
    CHECK(pid > 1);
    CHECK_EQ(kill(pid, sig), 0);
    kit.kills += sig == SIGKILL;
}

static bool failed = true;

static void at_exit(void)
{
    static pid_t mine;
    if (mine == 0)
        mine = getpid();
    else if (mine == getpid() && failed && kit.keeper > 0) {
        say_log();
        kill(kit.keeper, SIGTERM);
    }
}

void kit_begin(const char *name)
{
    const char *at = getenv("TMPDIR");
    if (!at || at[0] != '/' || strlen(at) > 36) /* the names of sockets are short */
        at = "/tmp";
    snprintf(kit.root, sizeof(kit.root), "%.36s/e2e-%.10s-%d", at, name, (int)getpid());
    CHECK_EQ(mkdir(kit.root, 0700), 0);
    snprintf(kit.store, sizeof(kit.store), "%s/store", kit.root);
    snprintf(kit.socket, sizeof(kit.socket), "%s/sock", kit.root);
    snprintf(kit.log, sizeof(kit.log), "%s/log", kit.root);
    unsetenv("CKPT_LAUNCH");
    unsetenv("CKPT_RESUME");
    at_exit();
    CHECK_EQ(atexit(at_exit), 0);
    kit_start();
}

int kit_end(void)
{
    CHECK_EQ(kit_stop(), 0);
    return kit_remove();
}

int kit_remove(void)
{
    char command[160];
    failed = false;
    snprintf(command, sizeof(command), "rm -rf '%s'", kit.root);
    CHECK_EQ(system(command), 0);
    printf("%ld kills\n", kit.kills);
    TEST_CASES(kit.cases);
    return 0;
}

/* -- ranks ---------------------------------------------------------------------------- */

void kit_reach(struct kit_board *b, int stage)
{
    atomic_fetch_add(&b->stage[stage], 1);
}

void kit_await(struct kit_board *b, int stage, int n)
{
    for (int i = 0; i < 30000; i++) {
        if (atomic_load(&b->stage[stage]) >= n)
            return;
        kit_pause(1);
    }
    fprintf(stderr, "stage %d: %d of %d came\n", stage, atomic_load(&b->stage[stage]), n);
    exit(1);
}

void kit_meet(struct kit_rank *r, int stage)
{
    kit_reach(r->board, stage);
    kit_await(r->board, stage, (int)r->world);
}

void kit_ranks(struct kit_crowd *w, const char *job, uint32_t world, kit_body body, const void *arg)
{
    CHECK(world <= KIT_RANKS);
    w->world = world;
    w->board =
        mmap(NULL, sizeof(*w->board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(w->board != MAP_FAILED);
    fflush(NULL);
    for (uint32_t i = 0; i < world; i++) {
        struct kit_rank r = {
            .rank = i, .world = world, .job = job, .board = w->board, .arg = arg
        };
        snprintf(r.token, sizeof(r.token), "launch-%d-%u", (int)getpid(), kit.launches);
        w->pid[i] = fork();
        CHECK(w->pid[i] >= 0);
        if (w->pid[i] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL); /* a failed test leaves nobody behind */
            alarm(250);
            body(&r);
            kit_close(&r);
            exit(0);
        }
    }
    kit.launches++;
}

void kit_reap(struct kit_crowd *w, uint32_t killed)
{
    bool good = true;
    for (uint32_t i = 0; i < w->world; i++) {
        int status;
        CHECK_EQ(waitpid(w->pid[i], &status, 0), w->pid[i]);
        bool as_told = killed >> i & 1 ? WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL
                                       : WIFEXITED(status) && WEXITSTATUS(status) == 0;
        if (!as_told)
            fprintf(stderr, "rank %u ended with wait status %#x\n", i, (unsigned)status);
        good &= as_told;
        kit.kills += killed >> i & 1;
    }
    CHECK(good);
}

void kit_wait(struct kit_crowd *w, uint32_t killed)
{
    kit_reap(w, killed);
    munmap(w->board, sizeof(*w->board));
}

void kit_run(const char *job, uint32_t world, kit_body body, const void *arg)
{
    struct kit_crowd w;
    kit_ranks(&w, job, world, body, arg);
    kit_wait(&w, 0);
    kit.cases++;
}

/* -- the store -------------------------------------------------------------------------- */

static void say_finding(void *arg, const struct scrub_finding *f)
{
    (void)arg;
    fprintf(stderr, "%s: %s\n", f->key, f->text);
}

static const char *look_into;

void kit_look_into(const char *store)
{
    look_into = store;
}

static struct store *open_store(void)
{
    struct store *s;
    CHECK_OK(store_open(look_into ? look_into : kit.store,
                        &(struct store_options){ .io = "threads" }, &s, NULL));
    return s;
}

size_t kit_verify(const char *job, uint64_t newest)
{
    struct store *s = open_store();
    struct catalog cat;
    struct ckpt_err err = { 0 };
    struct scrub_callbacks cb = { .finding = say_finding };
    size_t count = 0;
    uint64_t step = 0;
    CHECK_OK(catalog_read(s, job, CATALOG_ALL, &cat, &err));
    for (size_t i = 0; i < cat.count; i++) {
        struct scrub_report report = { 0 };
        if (cat.entries[i].state != CATALOG_LIVE)
            continue;
        CHECK_OK(scrub_verify(s, job, &cat.entries[i].name, 128 * MIB, &cb, &report, &err));
        CHECK(report.objects > 0);
        step = max_u64(step, cat.entries[i].name.step);
        count++;
    }
    catalog_fini(&cat);
    store_close(s);
    CHECK_EQ(step, newest);
    kit.cases += (long)count;
    return count;
}

/* The newest live commit of the step. */
static bool find_commit(struct store *s, const char *job, uint64_t step, struct ckpt_name *ret)
{
    struct catalog cat;
    bool found = false;
    CHECK_OK(catalog_read(s, job, CATALOG_ALL, &cat, NULL));
    for (size_t i = 0; i < cat.count && !found; i++) {
        found = cat.entries[i].state == CATALOG_LIVE && cat.entries[i].name.step == step;
        *ret = cat.entries[i].name;
    }
    catalog_fini(&cat);
    return found;
}

bool kit_committed(const char *job, uint64_t step)
{
    struct ckpt_name name;
    struct store *s = open_store();
    bool found = find_commit(s, job, step, &name);
    store_close(s);
    return found;
}

/* The first pack of the directory of an attempt's shard; false if there is none. */
static bool flip_in(const char *dir)
{
    DIR *d = opendir(dir);
    bool done = false;
    for (const struct dirent *e; d && !done && (e = readdir(d));) {
        struct key_data_parts parts = { 0 };
        char path[1024];
        struct stat st;
        uint8_t byte;
        if (key_parse_data(e->d_name, &parts) != KEY_PACK)
            continue;
        snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
        chmod(path, 0600);
        int fd = open(path, O_RDWR | O_CLOEXEC);
        CHECK(fd >= 0);
        CHECK_EQ(fstat(fd, &st), 0);
        off_t at = 8192 < st.st_size ? 8192 + 100 : st.st_size / 2;
        CHECK_EQ(pread(fd, &byte, 1, at), 1);
        byte ^= 0x10;
        CHECK_EQ(pwrite(fd, &byte, 1, at), 1);
        close(fd);
        done = true;
    }
    if (d)
        closedir(d);
    return done;
}

void kit_damage(const char *job, uint64_t step)
{
    struct ckpt_name name;
    struct store *s = open_store();
    CHECK(find_commit(s, job, step, &name));
    store_close(s);
    for (unsigned h = 0; h < 16; h++) {
        char dir[sizeof(kit.store) + KEY_MAX];
        snprintf(dir, sizeof(dir), "%s/%s", kit.store, key_data(job, h, &name).text);
        if (flip_in(dir))
            return;
    }
    CHECK(!"no pack to damage");
}
