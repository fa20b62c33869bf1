/* How long anything waits for a ckptd that is away (save_api.c, transfer.c): not longer than it is
 * worth, and what was granted not at all; and how often one is started (connect.c).  The library
 * has the patience that a case says.
 *
 * What waits for too long ends by the alarm. */
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fakes/lib_fixture.h"
#include "formats/sockpath.h"
#include "gpu/impatient.h"
#include "libckpt/context.h"

#define PATIENT_NS INT64_C(60000000000)
#define LONG_MS    3600000

/* See impatient.h. */
int64_t impatient_ns = PATIENT_NS, link_patience_ns = PATIENT_NS, respawn_least_ns = PATIENT_NS;

static int cases;

/* The connection is lost, and none is taken, or no HELLO answered; until the client knows. */
static void go_away(struct fixture *f, struct fake_script *s, bool mute, uint64_t op)
{
    uint32_t drops = fake_seen(f->d).drops;
    s->mute = mute;
    s->refuse_connections = !mute;
    fake_set(f->d, s);
    fake_drop(f->d);
    while (fake_seen(f->d).drops == drops)
        usleep(500);
    do
        CHECK_EQ(ckpt_wait(f->c, op, CKPT_LEVEL_LOCAL, 0), CKPT_TIMEOUT);
    while (!strstr(ckpt_error(), "ckptd is gone"));
}

static void come_back(struct fixture *f, struct fake_script *s)
{
    bool mute = s->mute;
    s->mute = s->refuse_connections = false;
    fake_set(f->d, s);
    if (mute)
        fake_drop(f->d); /* it is asked again on another one */
}

/* ckptd dies when it has granted one slot of three.  Whoever waits for the copy gives the save up,
 * and the next one works as soon as a ckptd answers: the same, or one that knows nothing. */
static void given_up(bool by_fence, bool forgets)
{
    struct fixture f;
    struct fake_script s = fix_script();
    enum ckpt_status st;
    uint64_t op, next;
    alarm(100);
    link_patience_ns = 0;
    s.grants = 1;
    fix_open_with(&f, &s, FIX_BIG);
    CHECK_OK(fix_save(&f, 1, &op));
    fake_await(f.d, WIRE_FULL, 1);
    go_away(&f, &s, false, op);
    CHECK_FAILS(ckpt_fence(f.s, 0), CKPT_TIMEOUT, "still being copied"); /* a look ends nothing */
    CHECK_FAILS(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 0), CKPT_TIMEOUT, "ckptd is gone");
    if (by_fence)
        CHECK_OK(ckpt_fence(f.s, LONG_MS));
    CHECK_FAILS(fix_save(&f, 2, &next), CKPT_DAEMON_GONE, "ckptd is gone and has not come back");
    CHECK_FAILS(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, LONG_MS), CKPT_DAEMON_GONE, "not all is");
    CHECK_OK(ckpt_fence(f.s, 0));
    s.forget = forgets;
    s.grants = UINT32_MAX;
    come_back(&f, &s);
    fix_fill(&f, 5);
    do
        st = fix_save(&f, 3, &next);
    while (st == CKPT_DAEMON_GONE);
    CHECK_OK(st);
    CHECK_OK(ckpt_wait(f.c, next, CKPT_LEVEL_LOCAL, 20000));
    CHECK_EQ(fake_seen(f.d).fails, forgets ? 0 : 1); /* so that no other rank waits */
    fix_compare(&f, 5);
    fix_close(&f);
    cases++;
}

static bool all_granted(struct fixture *f, uint64_t id)
{
    pthread_mutex_lock(&f->c->lock);
    const struct lib_op *op = lib_op_find(f->c, id);
    bool all = op->next_slot + f->s->shared.grants.count == f->s->decl.slot_count;
    pthread_mutex_unlock(&f->c->lock);
    return all;
}

/* All slots are granted, and most of them not filled yet (`rate`), or the fence is to be audited:
 * that needs no ckptd. */
static void copied_alone(const char *rate, const char *audit, bool mute)
{
    struct fixture f;
    struct fake_script s = fix_script();
    uint64_t op;
    alarm(100);
    link_patience_ns = PATIENT_NS;
    setenv("CKPT_AUDIT", audit, 1);
    setenv("CKPT_COPY_RATE", rate, 1);
    s.slots = 4;
    fix_open_with(&f, &s, FIX_BIG);
    fix_fill(&f, 7);
    CHECK_OK(fix_save(&f, 1, &op));
    while (!all_granted(&f, op))
        usleep(500);
    go_away(&f, &s, mute, op);
    CHECK_OK(ckpt_fence(f.s, 20000));
    CHECK_FAILS(ckpt_wait(f.c, op, CKPT_LEVEL_STAGED, 0), CKPT_TIMEOUT, "ckptd is gone");
    come_back(&f, &s);
    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000));
    fix_compare(&f, 7);
    fix_close(&f);
    unsetenv("CKPT_COPY_RATE");
    unsetenv("CKPT_AUDIT");
    cases++;
}

/* -- an arena that is made -------------------------------------------------------- */

int __real_madvise(void *at, size_t bytes, int advice);
int __wrap_madvise(void *at, size_t bytes, int advice);
static atomic_int populate_held, populating;

int __wrap_madvise(void *at, size_t bytes, int advice)
{
    if (advice == MADV_POPULATE_WRITE && atomic_load(&populate_held)) {
        atomic_store(&populating, 1);
        while (atomic_load(&populate_held))
            usleep(500);
    }
    return __real_madvise(at, bytes, advice);
}

/* A ckptd that started afresh gives memory, which takes long to be had: that is no copy. */
static void mapping_is_no_copy(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    uint64_t op;
    alarm(100);
    fix_open_with(&f, &s, FIX_BIG);
    atomic_store(&populate_held, 1);
    s.forget = true;
    fake_set(f.d, &s);
    fake_drop(f.d);
    while (!atomic_load(&populating))
        usleep(500);
    CHECK_OK(ckpt_fence(f.s, 0));
    atomic_store(&populate_held, 0);
    fix_fill(&f, 3);
    CHECK_OK(fix_save(&f, 1, &op));
    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000));
    fix_compare(&f, 3);
    fix_close(&f);
    cases++;
}

/* -- starting one ------------------------------------------------------------------ */

static long file_bytes(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (long)st.st_size : 0;
}

/* A private ckptd that cannot start is not started all the time; another's is found meanwhile. */
static void started_rarely(void)
{
    char dir[64] = "/tmp/test-patience-XXXXXX", program[80], starts[80], text[200], made[80];
    char sock[SOCKPATH_MAX];
    struct ckpt *c;
    alarm(100);
    CHECK(mkdtemp(dir));
    snprintf(program, sizeof(program), "%s/ckptd-fake", dir);
    snprintf(starts, sizeof(starts), "%s/starts", dir);
    snprintf(text, sizeof(text), "%s/ckpt", dir);
    snprintf(made, sizeof(made), "%s/made", dir);
    CHECK(mkdir(text, 0700) == 0);
    FILE *f = fopen(program, "we");
    CHECK(f && fprintf(f, "#!/bin/sh\necho >>%s\nexit 1\n", starts) > 0 && fclose(f) == 0);
    CHECK(chmod(program, 0755) == 0);
    setenv("XDG_RUNTIME_DIR", dir, 1);
    setenv("CKPT_CKPTD", program, 1);
    CHECK_OK(sockpath_socket(geteuid(), dir, "/tmp/store", sock, NULL));
    struct fake_daemon *d = fake_start(sock);
    struct ckpt_open_opts o = fix_opts(NULL);
    o.store = "/tmp/store";
    CHECK_OK(ckpt_open(&o, &c));
    fake_stop(d);
    while (file_bytes(starts) == 0)
        usleep(5000);
    usleep(500000); /* time enough for the mistake */
    CHECK_EQ(file_bytes(starts), 1);
    struct fake_script s = fix_script();
    s.forget = true;
    d = fake_start(made);
    fake_set(d, &s);
    CHECK(rename(made, sock) == 0); /* only now it can be found */
    fake_await(d, WIRE_HELLO, 2);
    ckpt_close(c);
    CHECK_EQ(file_bytes(starts), 1);
    fake_stop(d);
    snprintf(text, sizeof(text), "rm -rf '%s'", dir);
    CHECK(system(text) == 0);
    cases++;
}

int main(void)
{
    int fds = fix_open_fds();
    mapping_is_no_copy();
    started_rarely();
    for (int mute = 0; mute < 2; mute++) {
        copied_alone("10M", "0", mute);
        copied_alone("0", "1", mute);
    }
    for (int i = 0; i < 4; i++)
        given_up(i & 1, i & 2);
    CHECK_EQ(fix_open_fds(), fds);
    TEST_CASES(cases);
    return 0;
}
