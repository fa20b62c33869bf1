/* What a restore takes and what it says afterwards, against a peer that lies. */
#include "fakes/lib_fixture.h"
#include "formats/dtype.h"
#include "formats/report.h"

static int cases;

static void saved(struct fixture *f, struct fake_script *s)
{
    uint64_t op;
    fix_open_with(f, s, 1000);
    CHECK_OK(fix_save(f, 1, &op));
    CHECK_OK(ckpt_wait(f->c, op, CKPT_LEVEL_LOCAL, 20000));
}

/* Tells the fake to send this report before its fragments. */
static void tell(struct fixture *f, struct fake_script *s, const struct report *r, struct buf *b)
{
    b->len = 0;
    report_encode(r, b);
    s->body = b->data;
    s->body_len = b->len;
    fake_set(f->d, s);
}

static enum ckpt_status restore(struct fixture *f, const struct ckpt_restore_opts *o)
{
    struct ckpt_point p = fix_point(1);
    return ckpt_restore(f->s, &p, f->buf, FIX_TENSORS, NULL, o);
}

static struct ckpt_restored entry(struct fixture *f, uint64_t i)
{
    struct ckpt_restored r = { .size = sizeof(r) };
    CHECK_OK(ckpt_restored(f->s, i, &r));
    return r;
}

static void told(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    CLEANUP_BUF struct buf b = { 0 };
    struct ckpt_restore_opts o = { .size = sizeof(o), .flags = CKPT_RESTORE_PARTIAL };
    struct ckpt_restored r = { .size = sizeof(r) };
    saved(&f, &s);
    CHECK_FAILS(ckpt_restored(f.s, 0, &r), CKPT_WRONG_STATE, "ended well");
    CHECK_OK(restore(&f, NULL));
    for (uint64_t i = 0; i < FIX_TENSORS; i++)
        CHECK_EQ(entry(&f, i).fate, CKPT_FATE_LOADED);
    CHECK_EQ(entry(&f, 1).bytes, 96);
    CHECK(entry(&f, 1).dtype == CKPT_BF16 && entry(&f, 1).saved_dtype == CKPT_BF16);
    CHECK_FAILS(ckpt_restored(f.s, FIX_TENSORS, &r), CKPT_NOT_FOUND, "6 entries");
    r.size = 8;
    CHECK_FAILS(ckpt_restored(f.s, 0, &r), CKPT_INVALID, ".size");
    CHECK_FAILS(ckpt_restored(f.s, 0, NULL), CKPT_INVALID, "NULL");
    CHECK_FAILS(ckpt_restored(NULL, 0, &r), CKPT_INVALID, "NULL");
    r = (struct ckpt_restored){ .size = offsetof(struct ckpt_restored, dtype), .bytes = 777 };
    CHECK_OK(ckpt_restored(f.s, 1, &r)); /* an older program's struct */
    CHECK_EQ(r.bytes, 777);
    struct report_note notes[] = { { 3, false, 0, (char[]){ "old" } },
                                   { 4, true, 0, NULL },
                                   { 5, true, 0, NULL } };
    char *names[] = { (char[]){ "alone" } };
    const struct report some = { notes, 3, names, 1, 900 };
    s.omit_objects = true;
    tell(&f, &s, &some, &b);
    CHECK_OK(restore(&f, &o));
    CHECK_STR(entry(&f, 3).saved_name, "old");
    CHECK_EQ(entry(&f, 5).fate, CKPT_FATE_MISSING);
    CHECK_STR(entry(&f, FIX_TENSORS).saved_name, "alone");
    CHECK_EQ(entry(&f, FIX_TENSORS).fate, CKPT_FATE_UNASKED);
    s.refuse_op = CKPT_IO; /* what the last one said is void */
    fake_set(f.d, &s);
    CHECK_EQ(restore(&f, &o), CKPT_IO);
    r.size = sizeof(r);
    CHECK_FAILS(ckpt_restored(f.s, 0, &r), CKPT_WRONG_STATE, "ended well");
    cases += 8;
    fix_close(&f);
}

/* Reports that cannot be, or that do not fit what came. */
static void lies(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    CLEANUP_BUF struct buf b = { 0 };
    struct ckpt_restore_opts partial = { .size = sizeof(partial), .flags = CKPT_RESTORE_PARTIAL };
    struct report_note missing[] = { { 0, true, 0, NULL } };
    struct report_note beyond[] = { { FIX_TENSORS, true, 0, NULL } };
    const struct report a = { missing, 1, NULL, 0, 0 }, far = { beyond, 1, NULL, 0, 0 };
    saved(&f, &s);
    tell(&f, &s, &a, &b);
    CHECK_FAILS(restore(&f, NULL), CKPT_CORRUPT, "\"big\" is missing, and that all is done");
    CHECK_FAILS(restore(&f, &partial), CKPT_CORRUPT, "4000 of 0 bytes of tensor \"big\"");
    tell(&f, &s, &far, &b);
    CHECK_FAILS(restore(&f, &partial), CKPT_CORRUPT, "report");
    for (size_t cut = 1; cut < b.len; cut++, cases++) {
        s.body_len = cut;
        fake_set(f.d, &s);
        CHECK_FAILS(restore(&f, &partial), CKPT_CORRUPT, "report");
    }
    s.body_len = b.len;
    s.body_says = b.len + 1;
    fake_set(f.d, &s);
    CHECK_FAILS(restore(&f, &partial), CKPT_CORRUPT, "memfd of a body has");
    s.body_says = UINT64_C(1) << 40;
    fake_set(f.d, &s);
    CHECK_FAILS(restore(&f, &partial), CKPT_CORRUPT, "a report of 1099511627776 bytes");
    s.body_says = 0;
    s.body_open = true;
    fake_set(f.d, &s);
    CHECK_FAILS(restore(&f, &partial), CKPT_CORRUPT, "not sealed");
    s.body = NULL;
    s.body_open = false;
    s.lie = FAKE_LOSES; /* partial is no leave to lose what is there */
    fake_set(f.d, &s);
    CHECK_FAILS(restore(&f, &partial), CKPT_CORRUPT, "of tensor \"");
    s.lie = FAKE_HEADLESS;
    fake_set(f.d, &s);
    CHECK_FAILS(restore(&f, &partial), CKPT_CORRUPT, "100 of 108 bytes of object \"rng@0\"");
    s.lie = FAKE_SHORT;
    fake_set(f.d, &s);
    CHECK_FAILS(restore(&f, &partial), CKPT_CORRUPT, "9 of 85 bytes of object \"rng@0\"");
    s.lie = FAKE_HONEST;
    s.omit_objects = true;
    fake_set(f.d, &s);
    CHECK_FAILS(restore(&f, NULL), CKPT_CORRUPT, "nothing of object \"rng@0\"");
    CHECK_FAILS(restore(&f, &partial), CKPT_CORRUPT, "nothing of object \"rng@0\"");
    struct report_note one[] = { { 4, true, 0, NULL } };
    const struct report first = { one, 1, NULL, 0, 0 };
    tell(&f, &s, &first, &b); /* that one is not there; the other one is, and does not come */
    CHECK_FAILS(restore(&f, &partial), CKPT_CORRUPT, "nothing of object \"cfg\"");
    partial.except = (const char *const[]){ "cfg" }, partial.except_count = 1;
    CHECK_OK(restore(&f, &partial));
    cases += 12;
    fix_close(&f);
}

static void patterns(void)
{
    static const char *const none[] = { "" }, *const two[] = { "two", "vol" };
    static const struct ckpt_rename renames[] = { { "a.*", "b.*" }, { "a.*", "c.*" } };
    struct fixture f;
    struct fake_script s = fix_script();
    struct ckpt_restore_opts o = { .size = sizeof(o), .only = none, .only_count = 1 };
    saved(&f, &s);
    CHECK_FAILS(restore(&f, &o), CKPT_INVALID, "only: an empty pattern");
    o.only = NULL;
    CHECK_FAILS(restore(&f, &o), CKPT_INVALID, "1 patterns at NULL");
    o.only_count = 0, o.except_count = 2;
    CHECK_FAILS(restore(&f, &o), CKPT_INVALID, "2 patterns at NULL");
    o.except_count = 0, o.rename_count = 2;
    CHECK_FAILS(restore(&f, &o), CKPT_INVALID, "2 renames at NULL");
    o.renames = renames;
    CHECK_FAILS(restore(&f, &o), CKPT_INVALID, "rename \"a.*\": twice");
    CHECK_EQ(fake_seen(f.d).loads, 0); /* nobody was asked */
    o.rename_count = 1;
    o.flags = CKPT_RESTORE_CONVERT;
    CHECK_OK(restore(&f, &o));
    CHECK_EQ(fake_seen(f.d).rules_len, 1 + 2 + 3 + 2 + 3);
    CHECK(memcmp(fake_seen(f.d).rules, "\3\3\0a.*\3\0b.*", 11) == 0);
    CHECK_EQ(fake_seen(f.d).load_flags & WIRE_LOAD_CONVERT, WIRE_LOAD_CONVERT);
    o.except = two, o.except_count = 2; /* this peer sends it all the same */
    CHECK_FAILS(restore(&f, &o), CKPT_CORRUPT, "\"two\", which is left out");
    CHECK_OK(restore(&f, NULL)); /* the rules were of that call alone */
    CHECK_EQ(fake_seen(f.d).rules_len, 0);
    /* An older program's struct ends before the patterns. */
    o.size = offsetof(struct ckpt_restore_opts, only);
    CHECK_OK(restore(&f, &o));
    CHECK_EQ(fake_seen(f.d).rules_len, 0);
    cases += 8;
    fix_close(&f);
}

/* Fragments of another type: converted if they may be, with the bytes that they really have. */
static void types(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    struct ckpt_restore_opts o = { .size = sizeof(o), .flags = CKPT_RESTORE_CONVERT };
    saved(&f, &s);
    s.lie = FAKE_DTYPE;
    fake_set(f.d, &s);
    CHECK_FAILS(restore(&f, NULL), CKPT_CORRUPT, "\"big\" as dtype 10, not F32");
    float *got = f.buf[0].base;
    memset(got, 0, f.buf[0].bytes);
    CHECK_OK(restore(&f, &o)); /* what lies in the slot, taken for F16 */
    CHECK_EQ(entry(&f, 0).bytes, 4000);
    bool any = false;
    for (int i = 0; i < 1000; i++)
        any |= got[i] != 0;
    CHECK(any);
    cases += 2;
    fix_close(&f);
}

int main(void)
{
    told();
    lies();
    patterns();
    types();
    TEST_CASES(cases);
    return 0;
}
