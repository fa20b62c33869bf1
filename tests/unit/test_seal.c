/* Sealing: what the daemon may answer, empty states, arenas that are not what they should
 * be, and that binding stays quick with very many objects. */
#include "fakes/lib_fixture.h"

static int cases;

static void answers(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    uint64_t op;
    fix_open_with(&f, &s, 1000);
    struct ckpt_state *old = f.s;
    const struct {
        struct fake_script s;
        enum ckpt_status st;
        const char *word;
    } rows[] = {
        { { .refuse_state = CKPT_NO_MEMORY, .text = "asked 5, left 3" }, CKPT_NO_MEMORY, "left 3" },
        { { .unsealed = true }, CKPT_CORRUPT, "not a sealed memfd" },
        { { .small_arena = true }, CKPT_CORRUPT, "not a sealed memfd" },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++, cases++) {
        s = rows[i].s;
        s.grants = UINT32_MAX;
        fake_set(f.d, &s);
        CHECK_OK(ckpt_state_new(f.c, &f.s));
        fix_declare(&f, 1000);
        CHECK_FAILS(ckpt_seal(f.s, 20000), rows[i].st, rows[i].word);
        CHECK_FAILS(fix_save(&f, 1, &op), CKPT_WRONG_STATE, "ckpt_seal first");
        CHECK_FAILS(ckpt_seal(f.s, 20000), CKPT_WRONG_STATE, "new state");
        ckpt_state_free(f.s);
    }
    CHECK_OK(ckpt_state_new(f.c, &f.s));
    CHECK_FAILS(ckpt_seal(f.s, -1), CKPT_INVALID, "negative");
    CHECK_FAILS(ckpt_seal(NULL, 1), CKPT_INVALID, "NULL");
    ckpt_state_free(f.s);
    f.s = old; /* others go on */
    CHECK_OK(fix_save(&f, 1, &op));
    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000));
    cases += 3;
    fix_close(&f);
}

/* A state given back while its memory is being made is not used afterwards. */
static void freed_early(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    fix_open_with(&f, &s, 1000);
    for (int i = 0; i < 7; i++, cases++) {
        struct ckpt_state *other;
        CHECK_OK(ckpt_state_new(f.c, &other));
        enum ckpt_status st = ckpt_seal(other, 0);
        CHECK(st == CKPT_OK || st == CKPT_TIMEOUT);
        ckpt_state_free(other);
    }
    fix_close(&f);
}

static void nothing_at_all(void)
{
    struct fixture f = { 0 };
    uint64_t op;
    f.d = fake_start(NULL);
    struct ckpt_open_opts o = fix_opts(f.d);
    struct ckpt_save_opts so = { .size = sizeof(so), .step = 1 };
    struct ckpt_point p = fix_point(1);
    CHECK_OK(ckpt_open(&o, &f.c));
    CHECK_OK(ckpt_state_new(f.c, &f.s));
    CHECK_OK(ckpt_seal(f.s, 20000));
    CHECK_OK(ckpt_save(f.s, &so, NULL, 0, NULL, &op));
    CHECK_OK(ckpt_fence(f.s, 20000));
    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000));
    CHECK_OK(ckpt_restore(f.s, &p, NULL, 0, NULL, NULL));
    cases++;
    fix_close(&f);
}

static void many_objects(void)
{
    enum { COUNT = 100000 };
    struct fixture f = { 0 };
    struct ckpt_save_opts so = { .size = sizeof(so), .step = 1 };
    struct ckpt_point p = fix_point(1);
    struct ckpt_buffer *b = calloc(COUNT, sizeof(*b));
    uint64_t *value = calloc(COUNT, sizeof(*value)), op;
    f.d = fake_start(NULL);
    struct ckpt_open_opts o = fix_opts(f.d);
    CHECK_OK(ckpt_open(&o, &f.c));
    CHECK_OK(ckpt_state_new(f.c, &f.s));
    for (size_t i = 0; i < COUNT; i++) {
        char name[32];
        snprintf(name, sizeof(name), "object.%zu", i);
        CHECK_OK(ckpt_object(f.s, name, 8, CKPT_OBJECT_SOLE));
        value[i] = i;
        b[i] = (struct ckpt_buffer){ &value[i], 8 };
    }
    CHECK_OK(ckpt_seal(f.s, 20000));
    CHECK_OK(ckpt_save(f.s, &so, b, COUNT, NULL, &op));
    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 60000));
    memset(value, 0, COUNT * sizeof(*value));
    CHECK_OK(ckpt_restore(f.s, &p, b, COUNT, NULL, NULL));
    for (size_t i = 0; i < COUNT; i++)
        CHECK_EQ(value[i], i);
    cases++;
    fix_close(&f);
    free(b);
    free(value);
}

int main(void)
{
    answers();
    freed_early();
    nothing_at_all();
    many_objects();
    TEST_CASES(cases);
    return 0;
}
