/* Declaring through the public API: every refusal of ckpt.h, and pieces from layouts. */
#include "fakes/lib_fixture.h"
#include "libckpt/context.h"

static int cases;
static struct fixture f;

static void fresh(void)
{
    ckpt_state_free(f.s);
    CHECK_OK(ckpt_state_new(f.c, &f.s));
}

static struct ckpt_tensor_desc desc(const char *name, uint32_t dtype, uint32_t ndim,
                                    const uint64_t *shape)
{
    return (struct ckpt_tensor_desc){ .size = sizeof(struct ckpt_tensor_desc),
                                      .name = name,
                                      .dtype = dtype,
                                      .ndim = ndim,
                                      .shape = shape };
}

#define CHECK_TENSOR(d, p, n, status, word)                         \
    do {                                                            \
        CHECK_FAILS(ckpt_tensor(f.s, (d), (p), (n)), status, word); \
        cases++;                                                    \
    } while (0)

static void names(void)
{
    static const char *const bad[] = {
        "", "\xff\xfe", "a\xc0\x80", "..", "../x", "a/../b", "a\x01"
    };
    uint64_t shape[1] = { 4 };
    char name[1100];
    memset(name, 'n', sizeof(name));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct ckpt_tensor_desc t = desc(bad[i], CKPT_F32, 1, shape);
        enum ckpt_status st = ckpt_tensor(f.s, &t, NULL, 0);
        if (st == CKPT_OK) /* a path-like tensor name is only a name */
            CHECK(strstr(bad[i], ".."));
        else
            CHECK_EQ(st, CKPT_BAD_NAME);
        cases++;
    }
    name[1025] = 0;
    struct ckpt_tensor_desc t = desc(name, CKPT_F32, 1, shape);
    CHECK_TENSOR(&t, NULL, 0, CKPT_BAD_NAME, "");
    name[1024] = 0;
    CHECK_OK(ckpt_tensor(f.s, &t, NULL, 0));
    CHECK_FAILS(ckpt_object(f.s, name, 8, CKPT_OBJECT_RANK), CKPT_BAD_NAME, "");
    CHECK_FAILS(ckpt_object(f.s, "", 8, CKPT_OBJECT_SOLE), CKPT_BAD_NAME, "");
    CHECK_FAILS(ckpt_object(f.s, NULL, 8, CKPT_OBJECT_SOLE), CKPT_INVALID, "null");
    CHECK_FAILS(ckpt_object(f.s, "o", (1ull << 40) + 1, CKPT_OBJECT_SOLE), CKPT_INVALID,
                "capacity");
    CHECK_FAILS(ckpt_object(f.s, "o", 8, (enum ckpt_object_scope)3), CKPT_INVALID, "scope 3");
    CHECK_FAILS(ckpt_object(NULL, "o", 8, CKPT_OBJECT_SOLE), CKPT_INVALID, "NULL");
    cases += 6;
    fresh();
}

static void descriptions(void)
{
    uint64_t shape[2] = { 4, 8 }, huge[2] = { 1ull << 40, 1ull << 40 };
    struct ckpt_tensor_desc t = desc("w", CKPT_F32, 2, shape), good = t;
    CHECK_TENSOR(NULL, NULL, 0, CKPT_INVALID, "ckpt_tensor_desc");
    t.size = 8;
    CHECK_TENSOR(&t, NULL, 0, CKPT_INVALID, ".size");
    t = good, t.name = NULL;
    CHECK_TENSOR(&t, NULL, 0, CKPT_INVALID, "(null)");
    t = good, t.dtype = 0;
    CHECK_TENSOR(&t, NULL, 0, CKPT_INVALID, "dtype");
    t.dtype = 200;
    CHECK_TENSOR(&t, NULL, 0, CKPT_INVALID, "dtype");
    t.dtype = 256 + CKPT_F32;
    CHECK_TENSOR(&t, NULL, 0, CKPT_INVALID, "dtype");
    t = good, t.kind = 3;
    CHECK_TENSOR(&t, NULL, 0, CKPT_INVALID, "kind");
    t = good, t.kind = CKPT_BLOCKED;
    CHECK_TENSOR(&t, NULL, 0, CKPT_INVALID, "block");
    t = good, t.flags = 1;
    CHECK_TENSOR(&t, NULL, 0, CKPT_INVALID, "flags");
    t = good, t.ndim = 17;
    CHECK_TENSOR(&t, NULL, 0, CKPT_INVALID, "17 dim");
    t = good, t.shape = NULL;
    CHECK_TENSOR(&t, NULL, 0, CKPT_INVALID, "w");
    t = good, t.shape = huge;
    CHECK_TENSOR(&t, NULL, 0, CKPT_LIMIT, "too large");
    CHECK_TENSOR(&good, NULL, 1, CKPT_INVALID, "w");
    CHECK_FAILS(ckpt_tensor(NULL, &good, NULL, 0), CKPT_INVALID, "NULL");
    CHECK_OK(ckpt_tensor(f.s, &good, NULL, 0)); /* nothing was left behind under its name */
    CHECK_OK(ckpt_seal(f.s, 20000));
    CHECK_TENSOR(&good, NULL, 0, CKPT_WRONG_STATE, "sealed");
    CHECK_FAILS(ckpt_object(f.s, "x", 1, CKPT_OBJECT_SOLE), CKPT_WRONG_STATE, "sealed");
    fresh();
}

static void pieces(void)
{
    uint64_t shape[2] = { 4, 8 };
    struct ckpt_tensor_desc t = desc("w", CKPT_F32, 2, shape);
    struct ckpt_piece p = { .len = { 2, 8 }, .stride = { 8, 1 } }, good = p;
    p.off[0] = 3;
    CHECK_TENSOR(&t, &p, 1, CKPT_INVALID, "rank 0, piece 0: tensor w: dimension 0");
    p = good, p.len[1] = UINT64_MAX;
    CHECK_TENSOR(&t, &p, 1, CKPT_INVALID, "dimension 1");
    p = good, p.replica = 2, p.replica_count = 2;
    CHECK_TENSOR(&t, &p, 1, CKPT_INVALID, "replica 2 of 2");
    p = good, p.replica = 1, p.replica_count = 0;
    CHECK_TENSOR(&t, &p, 1, CKPT_INVALID, "replica 1 of 1");
    struct ckpt_piece two[2] = { good, p };
    CHECK_TENSOR(&t, two, 2, CKPT_INVALID, "piece 1"); /* and the tensor is forgotten whole */
    CHECK_OK(ckpt_tensor(f.s, &t, &good, 1));
    CHECK_OK(ckpt_seal(f.s, 20000));
    fresh();
    uint64_t four[1] = { 64 };
    struct ckpt_tensor_desc nib = desc("n", CKPT_U4, 1, four);
    p = (struct ckpt_piece){ .off = { 1 }, .len = { 8 }, .stride = { 1 } };
    CHECK_TENSOR(&nib, &p, 1, CKPT_INVALID, "byte");
    p = (struct ckpt_piece){ .len = { 8 }, .stride = { 2 } };
    CHECK_TENSOR(&nib, &p, 1, CKPT_INVALID, "stride 2");
    /* What only the whole shows. */
    two[0] = good, two[1] = good, two[1].off[0] = 1;
    CHECK_OK(ckpt_tensor(f.s, &t, two, 2));
    CHECK_FAILS(ckpt_seal(f.s, 20000), CKPT_COVER, "two pieces of this rank both hold [1:2, 0:8]");
    CHECK_FAILS(ckpt_seal(f.s, 20000), CKPT_WRONG_STATE, "declare a new state");
    fresh();
    CHECK_OK(ckpt_tensor(f.s, &t, &good, 1));
    CHECK_OK(ckpt_tensor(f.s, &t, NULL, 0));
    CHECK_FAILS(ckpt_seal(f.s, 20000), CKPT_INVALID, "declared twice");
    fresh();
    p = good, p.stride[0] = -8;
    CHECK_OK(ckpt_tensor(f.s, &t, &p, 1));
    CHECK_FAILS(ckpt_seal(f.s, 20000), CKPT_INVALID, "\"w\", piece 0: offset 0 and its strides");
    fresh();
    p = good, p.offset_bytes = UINT64_MAX - 3;
    CHECK_OK(ckpt_tensor(f.s, &t, &p, 1));
    CHECK_FAILS(ckpt_seal(f.s, 20000), CKPT_INVALID, "outside any buffer");
    fresh();
    t.alias = "other";
    CHECK_OK(ckpt_tensor(f.s, &t, NULL, 0));
    CHECK_FAILS(ckpt_seal(f.s, 20000), CKPT_INVALID, "other");
    cases += 6;
    fresh();
}

static void states(void)
{
    struct ckpt_state *s[8];
    struct ckpt_save_opts o = { .size = sizeof(o) };
    CHECK_FAILS(ckpt_state_new(f.c, NULL), CKPT_INVALID, "NULL");
    CHECK_FAILS(ckpt_state_new(NULL, &s[0]), CKPT_INVALID, "NULL");
    for (int i = 0; i < 7; i++)
        CHECK_OK(ckpt_state_new(f.c, &s[i]));
    CHECK_FAILS(ckpt_state_new(f.c, &s[7]), CKPT_LIMIT, "at most 8");
    CHECK_FAILS(ckpt_save(s[0], &o, NULL, 0, NULL, NULL), CKPT_WRONG_STATE, "ckpt_seal first");
    for (int i = 0; i < 7; i++)
        ckpt_state_free(s[i]);
    cases += 4;
}

static void mesh(void)
{
    uint32_t size[2] = { 2, 2 }, coord[2] = { 1, 0 };
    uint64_t shape[2] = { 5, 4 };
    struct ckpt_placement place[2] = { { .place = CKPT_SHARD }, { .place = CKPT_REPLICATE } };
    struct ckpt_mesh m = { 2, size, coord, place, NULL };
    struct ckpt_piece p[4];
    size_t n = 99;
    CHECK_OK(ckpt_mesh_pieces(&m, 2, shape, CKPT_F32, p, 4, &n));
    CHECK_EQ(n, 1);
    CHECK(p[0].off[0] == 3 && p[0].len[0] == 2 && p[0].len[1] == 4 && p[0].stride[0] == 4);
    CHECK(p[0].replica == 0 && p[0].replica_count == 2);
    CHECK_FAILS(ckpt_mesh_pieces(&m, 2, shape, CKPT_F32, NULL, 0, &n), CKPT_LIMIT, "");
    CHECK_EQ(n, 1);
    CHECK_FAILS(ckpt_mesh_pieces(&m, 2, shape, CKPT_F32, NULL, 4, &n), CKPT_INVALID, "NULL");
    CHECK_FAILS(ckpt_mesh_pieces(NULL, 2, shape, CKPT_F32, p, 4, &n), CKPT_INVALID, "NULL");
    CHECK_FAILS(ckpt_mesh_pieces(&m, 2, NULL, CKPT_F32, p, 4, &n), CKPT_INVALID, "NULL");
    CHECK_FAILS(ckpt_mesh_pieces(&m, 2, shape, 250, p, 4, &n), CKPT_INVALID, "");
    coord[0] = 2;
    CHECK_FAILS(ckpt_mesh_pieces(&m, 2, shape, CKPT_F32, p, 4, &n), CKPT_INVALID, "");
    coord[0] = 0, place[0].place = 9;
    CHECK_FAILS(ckpt_mesh_pieces(&m, 2, shape, CKPT_F32, p, 4, &n), CKPT_INVALID, "");
    uint64_t section[2] = { 3, 2 }, padded[2] = { 8, 4 };
    place[0] =
        (struct ckpt_placement){ .place = CKPT_SHARD, .section = section, .section_count = 2 };
    CHECK_OK(ckpt_mesh_pieces(&m, 2, shape, CKPT_F32, p, 4, &n));
    CHECK_EQ(n, 2); /* rows 0..1 of 3 and row 3, of 2 */
    CHECK(p[0].len[0] == 2 && p[1].off[0] == 3 && p[1].offset_bytes == 2 * 4 * 4);
    place[0].section_count = 0, m.padded = padded, coord[0] = 1;
    CHECK_OK(ckpt_mesh_pieces(&m, 2, shape, CKPT_F32, p, 4, &n));
    CHECK(n == 1 && p[0].off[0] == 4 && p[0].len[0] == 1); /* of four rows it has room for */
    m.padded = NULL, coord[0] = 0;
    place[0].place = CKPT_SHARD, m.size = NULL;
    CHECK_FAILS(ckpt_mesh_pieces(&m, 2, shape, CKPT_F32, p, 4, &n), CKPT_INVALID, "NULL");
    cases += 9;
}

static void flat(void)
{
    struct ckpt_piece box = { .len = { 4, 6 } }, p[8];
    struct ckpt_flat fl = { 2, CKPT_F32, &box, 1, 3, 16 };
    size_t n = 0;
    uint64_t sum = 0;
    CHECK_OK(ckpt_flat_pieces(&fl, p, 8, &n)); /* tail of a row, whole rows, head of a row */
    CHECK_EQ(n, 3);
    for (size_t i = 0; i < n; i++) {
        CHECK_EQ(p[i].offset_bytes, sum * 4);
        sum += p[i].len[0] * p[i].len[1];
    }
    CHECK_EQ(sum, 16);
    CHECK_FAILS(ckpt_flat_pieces(&fl, p, 2, &n), CKPT_LIMIT, "");
    CHECK_EQ(n, 3);
    fl.count = 100;
    CHECK_FAILS(ckpt_flat_pieces(&fl, p, 8, &n), CKPT_INVALID, "of 24 elements");
    box.stride[0] = 8, box.stride[1] = 1; /* rows with two elements of padding behind them */
    box.replica = 1, box.replica_count = 2;
    fl.start = 6, fl.count = 100;
    CHECK_OK(ckpt_flat_pieces(&fl, p, 8, &n));
    CHECK_EQ(n, 1);
    CHECK(p[0].off[0] == 1 && p[0].len[0] == 3 && p[0].offset_bytes == 2 * 4);
    CHECK(p[0].stride[0] == 8 && p[0].replica == 1 && p[0].replica_count == 2);
    box.stride[0] = 3;
    CHECK_FAILS(ckpt_flat_pieces(&fl, p, 8, &n), CKPT_INVALID, "row-major");
    fl.boxes = NULL;
    CHECK_FAILS(ckpt_flat_pieces(&fl, p, 8, &n), CKPT_INVALID, "NULL");
    CHECK_FAILS(ckpt_flat_pieces(NULL, p, 8, &n), CKPT_INVALID, "NULL");
    cases += 5;
}

/* ckptd hears of each sealed state that is freed, once, and of no other. */
static void forgets(void)
{
    struct ckpt_state *plain, *sealed;
    struct fake_script full = { .refuse_state = CKPT_NO_MEMORY, .text = "no room" };
    fake_set(f.d, &full);
    CHECK_OK(ckpt_state_new(f.c, &plain));
    ckpt_state_free(plain);
    CHECK_OK(ckpt_state_new(f.c, &sealed));
    CHECK_FAILS(ckpt_seal(sealed, 20000), CKPT_NO_MEMORY, "no room"); /* told all the same */
    /* The answer came behind all that earlier cases said. */
    uint32_t before = fake_seen(f.d).forgets;
    ckpt_state_free(sealed);
    fake_await(f.d, WIRE_FORGET, before + 1);
    for (uint32_t i = 2; i <= 40; i++) {
        CHECK_OK(ckpt_state_new(f.c, &sealed));
        CHECK_FAILS(ckpt_seal(sealed, 20000), CKPT_NO_MEMORY, "no room");
        ckpt_state_free(sealed);
        fake_await(f.d, WIRE_FORGET, before + i);
        cases++;
    }
    CHECK_EQ(fake_seen(f.d).forgets, before + 40);
    ckpt_state_free(NULL);
}

/* A rule of ours that does not hold, brought about by hand: the context is broken, the process
 * goes on.  (Where nothing was allocated before: that would be lost, and LeakSanitizer sees
 * it.) */
static void broken_rules(void)
{
    struct fixture b;
    struct fake_script s = fix_script();
    uint64_t op = 0;
    for (int i = 0; i < 2; i++) {
        fix_open_with(&b, &s, 1000);
        if (i == 0) {
            CHECK_OK(ckpt_state_new(b.c, &b.s));
            b.s->decl.finished = true;
        } else {
            b.s->decl.finished = false;
        }
        if (i == 0)
            CHECK_FAILS(ckpt_object(b.s, "o", 8, CKPT_OBJECT_SOLE), CKPT_BUG, "decl.c:");
        if (i == 1 && fix_save(&b, 1, &op) == CKPT_OK)
            CHECK_FAILS(ckpt_wait(b.c, op, CKPT_LEVEL_STAGED, 20000), CKPT_BUG, "decl.c:");
        CHECK_FAILS(ckpt_progress(b.c, 9), CKPT_BUG, "does not hold"); /* for good */
        fix_close(&b);
        cases++;
    }
}

int main(void)
{
    f.d = fake_start(NULL);
    struct ckpt_open_opts o = fix_opts(f.d);
    CHECK_OK(ckpt_open(&o, &f.c));
    fresh();
    names();
    descriptions();
    pieces();
    states();
    mesh();
    flat();
    forgets();
    broken_rules();
    fix_close(&f);
    TEST_CASES(cases);
    return 0;
}
