/* The transfer thread (transfer.c, transfer_copies.c) against a daemon that dies, repeats itself,
 * forgets and lies.  The scripted daemon checks numbers, repeats and slots; a lie must end in
 * CKPT_CORRUPT. */
#include <pthread.h>

#include "fakes/lib_fixture.h"

static int cases;

/* The connection is lost at each kind of message, with and without its effect. */
static void connection_lost(void)
{
    static const unsigned types[] = { WIRE_SAVE, WIRE_FULL, WIRE_LOAD, WIRE_BACK, WIRE_RESTORED };
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
        for (int how = FAKE_DROP_BEFORE; how <= FAKE_DROP_AFTER; how++)
            for (uint32_t nth = 1; nth <= (types[i] == WIRE_FULL ? 3 : 1); nth++, cases++) {
                struct fixture f;
                struct fake_script s = fix_script();
                uint64_t op;
                fix_open_with(&f, &s, FIX_BIG);
                s.drop = (enum fake_drop)how;
                s.drop_type = types[i];
                s.drop_at = nth;
                s.repeat_grants = 2;
                s.not_final = true;
                fake_set(f.d, &s);
                fix_fill(&f, 9);
                CHECK_OK(fix_save(&f, 1, &op));
                CHECK_OK(ckpt_fence(f.s, 20000));
                if (types[i] != WIRE_FULL || nth < 3 || how == FAKE_DROP_BEFORE)
                    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000));
                fix_compare(&f, 9);
                fake_await(f.d, WIRE_RESTORED, 1);
                fix_close(&f);
            }
}

static void reconnects(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    uint64_t op;
    s.grants = 1;
    fix_open_with(&f, &s, FIX_BIG);
    fix_fill(&f, 2);
    CHECK_OK(fix_save(&f, 1, &op));
    fake_await(f.d, WIRE_FULL, 1);
    for (uint32_t i = 0; i < 5; i++, cases++) {
        fake_drop(f.d);
        fake_await(f.d, WIRE_HELLO, i + 2);
    }
    s.grants = UINT32_MAX;
    fake_set(f.d, &s);
    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000));
    fix_compare(&f, 2);
    CHECK(fake_seen(f.d).resumed >= 5);
    fix_close(&f);
}

/* Both processes of ckptd died: what was not finished has failed, the state is declared
 * again, the next save works. */
static void forgotten(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    uint64_t op;
    s.grants = 1;
    fix_open_with(&f, &s, FIX_BIG);
    CHECK_OK(fix_save(&f, 1, &op));
    s.forget = true;
    s.grants = UINT32_MAX;
    fake_set(f.d, &s);
    fake_drop(f.d);
    enum ckpt_status st = ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000);
    CHECK(st == CKPT_DAEMON_GONE || st == CKPT_OK); /* it may have been quicker */
    CHECK_OK(ckpt_fence(f.s, 20000));
    fake_await(f.d, WIRE_STATE, 2);
    fix_fill(&f, 3);
    CHECK_OK(fix_save(&f, 2, &op));
    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000));
    fix_compare(&f, 3);
    cases++;
    /* The new one takes its time for the memory: the save waits for it. */
    s.late_state = true;
    fake_set(f.d, &s);
    fake_drop(f.d);
    do
        st = fix_save(&f, 20, &op);
    while (st == CKPT_DAEMON_GONE);
    CHECK_OK(st);
    st = ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000);
    CHECK(st == CKPT_DAEMON_GONE || st == CKPT_OK); /* the old one may have taken it */
    fake_await(f.d, WIRE_STATE, 3);
    CHECK_OK(fix_save(&f, 21, &op));
    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000));
    CHECK(!fake_seen(f.d).wrong);
    s.late_state = false;
    cases++;
    /* The launch went back meanwhile: this process is on a branch that was left. */
    s.epoch = 4;
    fake_set(f.d, &s);
    fake_drop(f.d);
    do
        st = fix_save(&f, 30, &op);
    while (st == CKPT_DAEMON_GONE || st == CKPT_OK);
    CHECK_EQ(st, CKPT_REFUSED);
    CHECK(strstr(ckpt_error(), "gone back"));
    cases++;
    /* The same, but the new one has no memory for the state. */
    s.forget = true;
    s.refuse_state = CKPT_NO_MEMORY;
    s.text = "no room";
    fake_set(f.d, &s);
    fake_drop(f.d);
    fake_await(f.d, WIRE_STATE, 5);
    do
        st = fix_save(&f, 3, &op);
    while (st == CKPT_DAEMON_GONE || st == CKPT_OK || st == CKPT_REFUSED);
    CHECK_EQ(st, CKPT_NO_MEMORY);
    CHECK(strstr(ckpt_error(), "no room"));
    cases++;
    ckpt_close(f.c);
    f.c = NULL;
    for (int i = 0; i < FIX_TENSORS; i++)
        free(f.mem[i]);
    /* The fake was sent a SAVE of a state that it refused; that is its word. */
    fake_stop(f.d);
}

/* It took the session up afresh, and died before it had said so: what its answer would have said
 * is news all the same.  Otherwise steps of two branches would meet in one checkpoint. */
static void answer_lost(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    uint64_t op;
    fix_open_with(&f, &s, FIX_BIG);
    CHECK_OK(fix_save(&f, 1, &op));
    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000));
    s.forget = s.lose_answer = true;
    s.epoch = 4;
    fake_set(f.d, &s);
    fake_drop(f.d);
    fake_await(f.d, WIRE_STATE, 2);
    CHECK_EQ(fake_seen(f.d).hellos, 4); /* the first, forgotten, unanswered, resumed */
    CHECK_EQ(fix_save(&f, 2, &op), CKPT_REFUSED);
    CHECK(strstr(ckpt_error(), "gone back"));
    fix_close(&f);
    cases++;
}

/* A ckptd that started afresh makes the memory first: a save and a restore wait for it. */
static void memory_comes_late(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    struct ckpt_point p = fix_point(1);
    uint64_t op;
    fix_open_with(&f, &s, 1000);
    for (uint32_t i = 0; i < 2; i++, cases++) {
        s.forget = true;
        s.late_state = true;
        s.refuse_op = i == 0 ? CKPT_OK : CKPT_NOT_FOUND;
        fake_set(f.d, &s);
        fake_drop(f.d);
        fake_await(f.d, WIRE_STATE, i + 2);
        if (i == 0)
            CHECK_OK(fix_save(&f, 1, &op));
        else
            CHECK_EQ(ckpt_restore(f.s, &p, f.buf, FIX_TENSORS, NULL, NULL), CKPT_NOT_FOUND);
        CHECK(!fake_seen(f.d).wrong);
    }
    fix_close(&f);
}

static void load_lies(void)
{
    for (int lie = FAKE_TENSOR; lie <= FAKE_SLOT; lie++, cases++) {
        struct fixture f;
        struct fake_script s = fix_script();
        struct ckpt_point p = fix_point(1);
        uint64_t op;
        fix_open_with(&f, &s, 1000);
        CHECK_OK(fix_save(&f, 1, &op));
        CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000));
        s.lie = (enum fake_lie)lie;
        fake_set(f.d, &s);
        CHECK_FAILS(ckpt_restore(f.s, &p, f.buf, FIX_TENSORS, NULL, NULL), CKPT_CORRUPT, "ckptd");
        if (lie < FAKE_LOSES || lie > FAKE_SHORT)
            fake_await(f.d, WIRE_CANCEL, 1);
        s.lie = FAKE_HONEST;
        fake_set(f.d, &s);
        fix_compare(&f, 1); /* the next one works */
        s.lie = FAKE_NOT_DONE;
        fake_set(f.d, &s);
        CHECK_FAILS(ckpt_restore(f.s, &p, f.buf, FIX_TENSORS, NULL, NULL), CKPT_CORRUPT, "ckptd");
        fix_close(&f);
    }
}

static void save_lies(void)
{
    static const enum fake_lie lies[] = { FAKE_GRANT, FAKE_EARLY, FAKE_LEVEL, FAKE_MAGIC,
                                          FAKE_LENGTH };
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++, cases++) {
        struct fixture f;
        struct fake_script s = fix_script();
        uint64_t op = 0;
        fix_open_with(&f, &s, 1000);
        s.lie = lies[i];
        fake_set(f.d, &s);
        enum ckpt_status st = fix_save(&f, 1, &op);
        if (st == CKPT_OK)
            st = ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000);
        CHECK_EQ(st, CKPT_CORRUPT);
        CHECK_OK(ckpt_fence(f.s, 20000));
        s.lie = FAKE_HONEST;
        fake_set(f.d, &s);
        CHECK_OK(fix_save(&f, 2, &op));
        CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000));
        fix_close(&f);
    }
}

/* Fragments for a save change nothing; another protocol version ends the context. */
static void stranger_things(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    uint64_t op;
    fix_open_with(&f, &s, 1000);
    s.lie = FAKE_MIXED;
    fake_set(f.d, &s);
    fix_fill(&f, 4);
    uint8_t first[32];
    memcpy(first, f.mem[0], sizeof(first));
    CHECK_OK(fix_save(&f, 1, &op));
    fake_await(f.d, WIRE_BACK, 1);
    CHECK(memcmp(first, f.mem[0], sizeof(first)) == 0);
    CHECK_OK(ckpt_cancel(f.c, op));
    fake_await(f.d, WIRE_CANCEL, 1);
    s.lie = FAKE_VERSION;
    fake_set(f.d, &s);
    ckpt_close(f.c); /* with a copy that never ends */
    struct ckpt_open_opts o = fix_opts(f.d);
    CHECK_OK(ckpt_open(&o, &f.c));
    CHECK_OK(ckpt_state_new(f.c, &f.s));
    fix_declare(&f, 1000);
    CHECK_OK(ckpt_seal(f.s, 20000));
    enum ckpt_status st = fix_save(&f, 1, &op);
    if (st == CKPT_OK)
        st = ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000);
    CHECK_EQ(st, CKPT_UNSUPPORTED);
    CHECK_FAILS(fix_save(&f, 2, &op), CKPT_UNSUPPORTED, "version 99");
    CHECK_OK(ckpt_fence(f.s, 0));
    cases += 2;
    fix_close(&f);
}

static void loads_asked_again(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    uint64_t op;
    fix_open_with(&f, &s, FIX_BIG);
    fix_fill(&f, 6);
    CHECK_OK(fix_save(&f, 1, &op));
    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000));
    s.loads_gone = 3;
    fake_set(f.d, &s);
    fix_compare(&f, 6);
    CHECK_EQ(fake_seen(f.d).loads, 4);
    cases++;
    fix_close(&f);
}

static void *saver(void *arg)
{
    struct fixture *f = arg;
    for (uint64_t i = 0; i < 20; i++) {
        uint64_t op;
        struct ckpt_info info = { .size = sizeof(info) };
        CHECK_OK(fix_save(f, i, &op));
        CHECK_OK(ckpt_info(f->c, &info));
        CHECK_OK(ckpt_fence(f->s, 20000));
        CHECK_OK(ckpt_wait(f->c, op, CKPT_LEVEL_LOCAL, 20000));
    }
    return NULL;
}

/* Two threads with a state each on one context. */
static void two_threads(void)
{
    struct fixture f, g;
    struct fake_script s = fix_script();
    pthread_t t;
    fix_open_with(&f, &s, 1000);
    g = f;
    CHECK_OK(ckpt_state_new(f.c, &g.s));
    fix_declare(&g, 2000);
    CHECK_OK(ckpt_seal(g.s, 20000));
    fix_buffers(&g, 2000);
    CHECK(pthread_create(&t, NULL, saver, &g) == 0);
    saver(&f);
    pthread_join(t, NULL);
    for (int i = 0; i < FIX_TENSORS; i++)
        free(g.mem[i]);
    cases += 40;
    fix_close(&f);
}

int main(void)
{
    int fds = fix_open_fds();
    connection_lost();
    reconnects();
    forgotten();
    answer_lost();
    memory_comes_late();
    load_lies();
    save_lies();
    stranger_things();
    loads_asked_again();
    two_threads();
    CHECK_EQ(fix_open_fds(), fds);
    TEST_CASES(cases);
    return 0;
}
