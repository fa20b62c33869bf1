/* ckpt_list against a peer that refuses, is silent, dies and lies. */
#include "fakes/lib_fixture.h"
#include "formats/decl.h"
#include "formats/desc.h"

static int cases;

static void open_with(struct fixture *f, struct fake_script *s)
{
    memset(f, 0, sizeof(*f));
    f->d = fake_start(NULL);
    s->point = (struct wire_name){ 3, 7, 9 };
    fake_set(f->d, s);
    struct ckpt_open_opts o = fix_opts(f->d);
    CHECK_OK(ckpt_open(&o, &f->c));
}

static void encode(struct buf *b)
{
    const struct desc some[] = {
        { .name = "a", .dtype = CKPT_F32, .ndim = 2, .shape = { 3, 5 } },
        { .name = "b",
          .alias = "a",
          .dtype = CKPT_F32,
          .flags = DECL_ALIAS,
          .ndim = 2,
          .shape = { 3, 5 } },
        { .name = "o", .dtype = CKPT_U8, .flags = DECL_OBJECT, .ndim = 1, .shape = { 108 } },
        { .name = "q",
          .dtype = CKPT_F32,
          .kind = DECL_BLOCKED,
          .ndim = 1,
          .shape = { 8 },
          .block = { 4 } },
    };
    buf_u64(b, ARRAY_COUNT(some));
    for (size_t i = 0; i < ARRAY_COUNT(some); i++)
        desc_encode(&some[i], b);
    CHECK(!b->failed);
}

static void honest(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    CLEANUP_BUF struct buf b = { 0 };
    struct ckpt_list *l = NULL;
    struct ckpt_list_opts o = { .size = sizeof(o), .flags = CKPT_LIST_OBJECTS, .pattern = "x*" };
    struct ckpt_listed e = { .size = sizeof(e) };
    struct ckpt_point p = fix_point(4);
    encode(&b);
    s.body = b.data, s.body_len = b.len;
    open_with(&f, &s);
    int fds = fix_open_fds();
    CHECK_OK(ckpt_list(f.c, NULL, NULL, &l));
    CHECK_EQ(fake_seen(f.d).list_point.step, 7); /* the resume point */
    CHECK_EQ(fake_seen(f.d).rules_len, 0);
    CHECK_EQ(ckpt_list_count(l), 4);
    CHECK_OK(ckpt_list_at(l, 0, &e));
    CHECK(e.bytes == 60 && e.ndim == 2 && e.shape[1] == 5 && e.shape[2] == 0 && !e.alias);
    CHECK_OK(ckpt_list_at(l, 1, &e));
    CHECK(e.bytes == 0);
    CHECK_STR(e.alias, "a");
    CHECK_OK(ckpt_list_at(l, 2, &e));
    CHECK(e.object == 1 && e.bytes == 100);
    CHECK_OK(ckpt_list_at(l, 3, &e));
    CHECK(e.kind == CKPT_BLOCKED && e.object == 0);
    e.size = offsetof(struct ckpt_listed, shape);
    e.shape[0] = 77;
    CHECK_OK(ckpt_list_at(l, 3, &e));
    CHECK_EQ(e.shape[0], 77);
    CHECK_FAILS(ckpt_list_at(l, 4, &e), CKPT_NOT_FOUND, "4 entries");
    CHECK_FAILS(ckpt_list_at(NULL, 0, &e), CKPT_INVALID, "no list");
    e.size = 0;
    CHECK_FAILS(ckpt_list_at(l, 0, &e), CKPT_INVALID, ".size");
    CHECK_EQ(ckpt_list_count(NULL), 0);
    ckpt_list_free(l);
    ckpt_list_free(NULL);
    CHECK_OK(ckpt_list(f.c, &p, &o, &l));
    CHECK_EQ(fake_seen(f.d).list_point.step, 4);
    CHECK_EQ(fake_seen(f.d).list_flags, WIRE_LIST_OBJECTS);
    CHECK_EQ(fake_seen(f.d).rules_len, 5);
    ckpt_list_free(l);
    while (fix_open_fds() > fds) /* the transfer thread closes them after it told us */
        usleep(1000);
    cases += 9;
    fix_close(&f);
}

static void refusals(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    struct ckpt_list *l = NULL;
    struct ckpt_list_opts o = { .size = sizeof(o), .timeout_ms = 60 };
    struct ckpt_point small = { .size = 8 };
    open_with(&f, &s);
    CHECK_FAILS(ckpt_list(f.c, &small, NULL, &l), CKPT_INVALID, ".size");
    CHECK_FAILS(ckpt_list(f.c, NULL, NULL, NULL), CKPT_INVALID, "ret is NULL");
    CHECK_FAILS(ckpt_list(NULL, NULL, NULL, &l), CKPT_INVALID, "NULL");
    o.flags = 8;
    CHECK_FAILS(ckpt_list(f.c, NULL, &o, &l), CKPT_INVALID, "flags");
    o.flags = 0, o.timeout_ms = -1;
    CHECK_FAILS(ckpt_list(f.c, NULL, &o, &l), CKPT_INVALID, "negative");
    o.timeout_ms = 60, o.pattern = "";
    CHECK_FAILS(ckpt_list(f.c, NULL, &o, &l), CKPT_INVALID, "empty");
    o.pattern = NULL;
    CHECK_EQ(fake_seen(f.d).lists, 0);
    s.refuse_list = CKPT_IO;
    s.text = "a disk is gone";
    fake_set(f.d, &s);
    CHECK_FAILS(ckpt_list(f.c, NULL, &o, &l), CKPT_IO, "a disk is gone");
    s.silent = true;
    fake_set(f.d, &s);
    CHECK_FAILS(ckpt_list(f.c, NULL, &o, &l), CKPT_TIMEOUT, "in time");
    s = fix_script();
    s.loads_gone = 1; /* an answer to another question is none */
    fake_set(f.d, &s);
    CHECK_FAILS(ckpt_list(f.c, NULL, &o, &l), CKPT_TIMEOUT, "in time");
    o.timeout_ms = 20000;
    CHECK_OK(ckpt_list(f.c, NULL, &o, &l));
    CHECK_EQ(ckpt_list_count(l), 0);
    ckpt_list_free(l);
    CHECK(l);
    cases += 10;
    fix_close(&f);
    struct fixture g;
    memset(&g, 0, sizeof(g));
    g.d = fake_start(NULL);
    struct ckpt_open_opts first = fix_opts(g.d);
    CHECK_OK(ckpt_open(&first, &g.c));
    CHECK_FAILS(ckpt_list(g.c, NULL, NULL, &l), CKPT_NOT_FOUND, "no checkpoint yet");
    cases++;
    fix_close(&g);
}

/* The worker dies while it walks the index: the next one is asked. */
static void deaths(void)
{
    for (int how = FAKE_DROP_BEFORE; how <= FAKE_DROP_AFTER; how++, cases++) {
        struct fixture f;
        struct fake_script s = fix_script();
        struct ckpt_list *l = NULL;
        s.drop = (enum fake_drop)how;
        s.drop_type = WIRE_LIST;
        s.drop_at = 1;
        open_with(&f, &s);
        CHECK_OK(ckpt_list(f.c, NULL, NULL, &l));
        CHECK(fake_seen(f.d).drops >= 1);
        CHECK(!fake_seen(f.d).wrong);
        ckpt_list_free(l);
        fix_close(&f);
    }
}

/* What was asked over a connection that is lost is still being made. */
static void busy(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    struct ckpt_list_opts o = { .size = sizeof(o), .timeout_ms = 150 };
    struct ckpt_list *l = NULL;
    s.lists_busy = 2;
    open_with(&f, &s);
    CHECK_OK(ckpt_list(f.c, NULL, NULL, &l));
    CHECK_EQ(fake_seen(f.d).lists, 3);
    ckpt_list_free(l);
    s.lists_busy = UINT32_MAX;
    fake_set(f.d, &s);
    enum ckpt_status st = ckpt_list(f.c, NULL, &o, &l);
    CHECK(st == CKPT_BUSY || st == CKPT_TIMEOUT); /* the last one may come too late */
    cases += 2;
    fix_close(&f);
}

static void lies(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    CLEANUP_BUF struct buf b = { 0 };
    struct ckpt_list *l = NULL;
    encode(&b);
    open_with(&f, &s);
    s.body = b.data;
    for (size_t cut = 1; cut < b.len; cut++, cases++) {
        s.body_len = cut;
        fake_set(f.d, &s);
        CHECK_EQ(ckpt_list(f.c, NULL, NULL, &l), CKPT_CORRUPT);
    }
    s.body_len = b.len;
    b.data[0]--; /* fewer than there are */
    fake_set(f.d, &s);
    CHECK_FAILS(ckpt_list(f.c, NULL, NULL, &l), CKPT_CORRUPT, "more than 3 entries");
    memset(b.data, 0xff, 8);
    CHECK_FAILS(ckpt_list(f.c, NULL, NULL, &l), CKPT_CORRUPT, "cut short");
    s.body_says = 1;
    fake_set(f.d, &s);
    CHECK_FAILS(ckpt_list(f.c, NULL, NULL, &l), CKPT_CORRUPT, "memfd of a body");
    s.body_says = UINT64_C(2) << 30;
    fake_set(f.d, &s);
    CHECK_FAILS(ckpt_list(f.c, NULL, NULL, &l), CKPT_CORRUPT, "2147483648 bytes");
    s.body_says = 0;
    s.body_open = true;
    fake_set(f.d, &s);
    CHECK_FAILS(ckpt_list(f.c, NULL, NULL, &l), CKPT_CORRUPT, "not sealed");
    CHECK(l == NULL);
    cases += 5;
    fix_close(&f);
}

int main(void)
{
    honest();
    refusals();
    deaths();
    busy();
    lies();
    TEST_CASES(cases);
    return 0;
}
