/* Opening and closing: options of all sizes, refusals of the daemon, forked children,
 * descriptors, signals, and what a caller may do wrong with a context. */
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include "fakes/lib_fixture.h"

static int cases;

#define CHECK_OPEN(o, status, word)                     \
    do {                                                \
        struct ckpt *c_ = NULL;                         \
        CHECK_FAILS(ckpt_open((o), &c_), status, word); \
        CHECK(!c_);                                     \
        cases++;                                        \
    } while (0)

static void options(void)
{
    struct fake_daemon *d = fake_start(NULL);
    struct ckpt_open_opts good = fix_opts(d), o = good;
    struct ckpt *c = NULL;
    struct {
        struct ckpt_open_opts known;
        uint64_t more;
    } newer = { .known = good, .more = 1 };
    CHECK_FAILS(ckpt_open(&o, NULL), CKPT_INVALID, "ret");
    CHECK_OPEN(NULL, CKPT_INVALID, "ckpt_open_opts) (it is NULL)");
    o.size = 8;
    CHECK_OPEN(&o, CKPT_INVALID, ".size");
    o = good, o.mode = (enum ckpt_mode)3;
    CHECK_OPEN(&o, CKPT_INVALID, "mode");
    o = good, o.job = NULL;
    CHECK_OPEN(&o, CKPT_INVALID, "job");
    static const char *const bad[] = {
        "", ".", "..", "a/b", "-x", "ckpt.repo", "a b", "\xff", "a\n"
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        o = good, o.job = bad[i];
        CHECK_OPEN(&o, CKPT_BAD_NAME, "");
    }
    char name[200];
    memset(name, 'j', sizeof(name));
    name[129] = 0;
    o = good, o.job = name;
    CHECK_OPEN(&o, CKPT_BAD_NAME, "");
    o = good, o.rank = 1;
    CHECK_OPEN(&o, CKPT_INVALID, "rank 1 of world 1");
    o = good, o.world = (1u << 20) + 1;
    CHECK_OPEN(&o, CKPT_INVALID, "world");
    o = good, o.timeout_ms = -1;
    CHECK_OPEN(&o, CKPT_INVALID, "negative");
    setenv("CKPT_COPY_RATE", "fast", 1);
    o = good;
    CHECK_OPEN(&o, CKPT_INVALID, "\"fast\" is no number of bytes a second");
    unsetenv("CKPT_COPY_RATE");
    o = good, o.flags = 2;
    CHECK_OPEN(&o, CKPT_INVALID, "flags");
    newer.known.size = sizeof(newer);
    CHECK_OPEN(&newer.known, CKPT_UNSUPPORTED, "does not know");
    newer.more = 0;
    CHECK_OK(ckpt_open(&newer.known, &c));
    ckpt_close(c);
    o = good, o.size = offsetof(struct ckpt_open_opts, timeout_ms); /* an older program */
    CHECK_OK(ckpt_open(&o, &c));
    ckpt_close(c);
    name[128] = 0;
    o = good, o.job = name, o.resume = "120~4", o.flags = CKPT_OPEN_SOLO;
    CHECK_OK(ckpt_open(&o, &c));
    CHECK_STR(fake_seen(d).job, name);
    CHECK_STR(fake_seen(d).resume, "120~4");
    ckpt_close(c);
    ckpt_close(NULL);
    CHECK_EQ(fake_seen(d).hellos, 3);
    cases += 4;
    fake_stop(d);
}

static void refused(void)
{
    static const enum ckpt_status all[] = { CKPT_LAUNCH_REUSED, CKPT_SUPERSEDED, CKPT_REFUSED,
                                            CKPT_TIMEOUT,       CKPT_NOT_FOUND,  CKPT_IO };
    struct fake_daemon *d = fake_start(NULL);
    struct fake_script s = fix_script();
    struct ckpt_open_opts o = fix_opts(d);
    s.text = "rank 3 did not arrive";
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        s.refuse_hello = all[i];
        fake_set(d, &s);
        CHECK_OPEN(&o, all[i], "rank 3 did not arrive");
    }
    s.refuse_hello = CKPT_OK;
    s.hello_flags = WIRE_STOP;
    fake_set(d, &s);
    CHECK_OPEN(&o, CKPT_REFUSED, "rank 3"); /* the crash-loop rule */
    s.hello_flags = 0;
    s.slot_bytes = 4096;
    fake_set(d, &s);
    CHECK_OPEN(&o, CKPT_CORRUPT, "4096");
    fake_stop(d);
}

/* A context that the daemon refuses to take back is broken: every call says why. */
static void broken(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    uint64_t op;
    struct ckpt_info info = { .size = sizeof(info) };
    s.grants = 1;
    fix_open_with(&f, &s, FIX_BIG);
    CHECK_OK(fix_save(&f, 1, &op));
    s.refuse_hello = CKPT_SUPERSEDED;
    s.text = "launch 9 took over";
    fake_set(f.d, &s);
    fake_drop(f.d);
    CHECK_FAILS(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000), CKPT_SUPERSEDED, "launch 9");
    CHECK_OK(ckpt_fence(f.s, 20000)); /* the memory is the caller's again */
    CHECK_FAILS(fix_save(&f, 2, &op), CKPT_SUPERSEDED, "launch 9");
    CHECK_FAILS(ckpt_info(f.c, &info), CKPT_SUPERSEDED, "launch 9");
    CHECK_FAILS(ckpt_progress(f.c, 5), CKPT_SUPERSEDED, "launch 9");
    CHECK_FAILS(ckpt_state_new(f.c, &f.s), CKPT_SUPERSEDED, "launch 9");
    cases += 6;
    fix_close(&f);
}

static void in_child(struct fixture *f, uint64_t op)
{
    struct ckpt_info info = { .size = sizeof(info) };
    struct ckpt_point p = { .size = sizeof(p) };
    struct ckpt_state *s;
    CHECK_FAILS(fix_save(f, 2, &op), CKPT_WRONG_STATE, "fork");
    CHECK_FAILS(ckpt_fence(f->s, 10), CKPT_WRONG_STATE, "fork");
    CHECK_FAILS(ckpt_fence_stream(f->s, NULL), CKPT_WRONG_STATE, "fork");
    CHECK_FAILS(ckpt_wait(f->c, op, CKPT_LEVEL_LOCAL, 10), CKPT_WRONG_STATE, "fork");
    CHECK_FAILS(ckpt_cancel(f->c, op), CKPT_WRONG_STATE, "fork");
    CHECK_FAILS(ckpt_info(f->c, &info), CKPT_WRONG_STATE, "fork");
    CHECK_FAILS(ckpt_resume(f->c, &p), CKPT_WRONG_STATE, "fork");
    CHECK_FAILS(ckpt_progress(f->c, 1), CKPT_WRONG_STATE, "fork");
    CHECK_FAILS(ckpt_state_new(f->c, &s), CKPT_WRONG_STATE, "fork");
    CHECK_FAILS(ckpt_tensor(f->s, NULL, NULL, 0), CKPT_WRONG_STATE, "fork");
    CHECK_FAILS(ckpt_object(f->s, "x", 1, CKPT_OBJECT_SOLE), CKPT_WRONG_STATE, "fork");
    CHECK_FAILS(ckpt_seal(f->s, 1), CKPT_WRONG_STATE, "fork");
    CHECK_FAILS(ckpt_restore(f->s, &p, f->buf, FIX_TENSORS, NULL, NULL), CKPT_WRONG_STATE, "fork");
    ckpt_state_free(f->s);
    ckpt_close(f->c);
}

static void *fencer(void *arg)
{
    struct fixture *f = arg;
    CHECK_OK(ckpt_fence(f->s, 60000));
    return NULL;
}

/* Forked while another thread waits and a copy is under way. */
static void forked(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    pthread_t t;
    uint64_t op;
    int status;
    s.grants = 1;
    fix_open_with(&f, &s, FIX_BIG);
    CHECK_OK(fix_save(&f, 1, &op));
    fake_await(f.d, WIRE_FULL, 1);
    CHECK(pthread_create(&t, NULL, fencer, &f) == 0);
    usleep(20000);
    pid_t child = fork();
    if (child == 0) {
        alarm(20);
        in_child(&f, op);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0);
    CHECK_EQ(fake_seen(f.d).byes, 0);
    s.grants = UINT32_MAX;
    fake_set(f.d, &s);
    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000)); /* the parent does not notice */
    pthread_join(t, NULL);
    fix_compare(&f, 1);
    cases += 13;
    fix_close(&f);
}

static void reader(void)
{
    struct fake_daemon *d = fake_start(NULL);
    struct ckpt_open_opts o = fix_opts(d);
    struct fixture f = { .d = d };
    uint64_t op;
    o.mode = CKPT_READ;
    CHECK_OK(ckpt_open(&o, &f.c));
    CHECK_OK(ckpt_state_new(f.c, &f.s));
    fix_declare(&f, 1000);
    CHECK_OK(ckpt_seal(f.s, 20000));
    fix_buffers(&f, 1000);
    CHECK_FAILS(fix_save(&f, 1, &op), CKPT_WRONG_STATE, "CKPT_READ");
    CHECK_OK(ckpt_progress(f.c, 5));
    cases += 2;
    fix_close(&f);
}

static void asking(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    struct ckpt_point p = { 0 };
    struct {
        struct ckpt_info known;
        uint64_t more;
    } info = { .more = 5 };
    fix_open_with(&f, &s, 1000);
    CHECK_FAILS(ckpt_resume(f.c, &p), CKPT_INVALID, "ckpt_point");
    CHECK_FAILS(ckpt_resume(f.c, NULL), CKPT_INVALID, "ckpt_point");
    CHECK_FAILS(ckpt_resume(NULL, &p), CKPT_INVALID, "NULL");
    CHECK_FAILS(ckpt_info(f.c, NULL), CKPT_INVALID, "ckpt_info");
    CHECK_FAILS(ckpt_info(f.c, &info.known), CKPT_INVALID, "ckpt_info");
    info.known.size = sizeof(info);
    CHECK_OK(ckpt_info(f.c, &info.known));
    CHECK_EQ(info.more, 0);
    CHECK_EQ(info.known.size, sizeof(info));
    CHECK_EQ(info.known.epoch, 3);
    info.known.why[0] = 'x', info.known.size = offsetof(struct ckpt_info, why);
    CHECK_OK(ckpt_info(f.c, &info.known)); /* an older program */
    CHECK_EQ(info.known.why[0], 'x');
    CHECK_STR(ckpt_error(), status_sentence(CKPT_OK));
    CHECK(ckpt_version()[0]);
    CHECK_EQ(ckpt_status_class(CKPT_FULL), CKPT_CLASS_STORE);
    CHECK_STR(ckpt_status_name(CKPT_FULL), "FULL");
    cases += 9;
    fix_close(&f);
}

/* The trainer's signals never run in our thread: it blocks them all. */
static void signals(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    char path[64], line[200];
    int blocked = 0;
    fix_open_with(&f, &s, 1000);
    DIR *dir = opendir("/proc/self/task");
    for (const struct dirent *e; (e = readdir(dir));) {
        snprintf(path, sizeof(path), "/proc/self/task/%.20s/status", e->d_name);
        FILE *st = e->d_name[0] == '.' ? NULL : fopen(path, "re");
        while (st && fgets(line, sizeof(line), st))
            if (strncmp(line, "SigBlk:", 7) == 0)
                blocked += (strtoull(line + 7, NULL, 16) & 1ull << (SIGUSR1 - 1)) != 0;
        if (st)
            fclose(st);
    }
    closedir(dir);
    CHECK(blocked >= 1); /* a sanitizer has a thread like it */
    cases++;
    fix_close(&f);
}

int main(void)
{
    unsetenv("CKPT_LAUNCH");
    unsetenv("CKPT_RESUME");
    int fds = fix_open_fds();
    options();
    refused();
    broken();
    forked();
    reader();
    asking();
    signals();
    CHECK_EQ(fix_open_fds(), fds);
    TEST_CASES(cases);
    return 0;
}
