/* What is saved by some ranks is restored by others, cut otherwise, byte for byte: all
 * kinds of tensors and objects, small arenas, very many and very large tensors. */
#include "e2e/kit.h"

#define TENSOR(n, t, d, how_, ...)                                                      \
    {                                                                                   \
        .name = (n), .dtype = (t), .ndim = (d), .how = (how_), .shape = { __VA_ARGS__ } \
    }
#define OBJECT(n, cap, len, sc)                                               \
    {                                                                         \
        .name = (n), .object = true, .shape = { (cap), (len) }, .scope = (sc) \
    }
/* Everything, cut by A, B, C. */
#define STATE(A, B, C, cap)                                                                        \
    {                                                                                              \
        TENSOR("m.w", CKPT_F32, 2, A, 1000, 1200), TENSOR("m.v", CKPT_BF16, 3, B, 7, 30, 64),      \
            TENSOR("scalar", CKPT_F64, 0, KIT_FIRST, 0), TENSOR("empty", CKPT_F32, 2, A, 0, 5),    \
            TENSOR("one", CKPT_U8, 1, C, 1), TENSOR("u4", CKPT_U4, 2, B, 12, 64),                  \
            TENSOR("f8", CKPT_F8_E4M3, 2, A, 33, 5), TENSOR("bool", CKPT_BOOL, 1, C, 129),         \
            TENSOR("c64", CKPT_C64, 2, C, 9, 9), TENSOR("same", CKPT_F32, 1, KIT_SAME, 4096),      \
            TENSOR("flat", CKPT_F32, 2, C, 77, 301), TENSOR("i4", CKPT_I4, 1, KIT_LAST, 64),       \
            TENSOR("4d", CKPT_I16, 4, B, 3, 5, 7, 12),                                             \
            { .name = "blocked",                                                                   \
              .dtype = CKPT_F32,                                                                   \
              .ndim = 2,                                                                           \
              .shape = { 64, 10 },                                                                 \
              .how = KIT_ROWS,                                                                     \
              .kind = CKPT_BLOCKED,                                                                \
              .block = { 8, 10 } },                                                                \
            { .name = "locked",                                                                    \
              .dtype = CKPT_U8,                                                                    \
              .ndim = 1,                                                                           \
              .shape = { 999 },                                                                    \
              .how = KIT_FIRST,                                                                    \
              .kind = CKPT_LOCKED },                                                               \
            { .name = "volatile",                                                                  \
              .dtype = CKPT_F32,                                                                   \
              .ndim = 1,                                                                           \
              .shape = { 50 },                                                                     \
              .how = A,                                                                            \
              .flags = CKPT_VOLATILE },                                                            \
            { .name = "tied",                                                                      \
              .dtype = CKPT_F32,                                                                   \
              .ndim = 2,                                                                           \
              .shape = { 1000, 1200 },                                                             \
              .alias = "m.w" },                                                                    \
            OBJECT("cfg", cap, 900, CKPT_OBJECT_SHARED),                                           \
            OBJECT("none", cap, 0, CKPT_OBJECT_SHARED), OBJECT("full", 77, 77, CKPT_OBJECT_SHARED) \
    }

static const struct kit_part layouts[][20] = {
    STATE(KIT_ROWS, KIT_ROWS, KIT_FLAT, 1000),
    STATE(KIT_COLS, KIT_FLAT, KIT_ROWS, 5000),
    STATE(KIT_FLAT, KIT_COLS, KIT_COLS, 901),
    STATE(KIT_FIRST, KIT_LAST, KIT_SAME, 70000),
};
#define LAYOUTS ARRAY_COUNT(layouts)

struct leg {
    uint32_t layout;
    uint64_t from, to; /* 0: nothing */
    uint64_t arena;
};

static void run_leg(struct kit_rank *r)
{
    const struct leg *g = r->arg;
    r->arena_bytes = g->arena;
    kit_open(r);
    CHECK_EQ(r->point.size ? r->point.step : 0, g->from);
    kit_declare(r, layouts[g->layout], ARRAY_COUNT(layouts[0]));
    if (g->from)
        kit_restore(r);
    if (g->to)
        KIT_OK(kit_save_local(r, g->to));
}

static void test_worlds(void)
{
    static const uint32_t worlds[] = { 1, 2, 3, 1, 4, 2 };
    uint64_t step = 0;
    for (size_t i = 0; i < ARRAY_COUNT(worlds) * 2; i++) {
        struct leg g = { (uint32_t)(i * 3 % LAYOUTS), step, step + 1, i % 2 };
        kit_run("worlds", worlds[i % ARRAY_COUNT(worlds)], run_leg, &g);
        step++;
    }
    struct leg last = { 1, step, 0, 1 };
    kit_run("worlds", 3, run_leg, &last);
    CHECK_EQ(kit_verify("worlds", step), step);
}

/* -- objects of all scopes ------------------------------------------------------------- */

static const struct kit_part objects[][3] = {
    { OBJECT("rng", 100, 60, CKPT_OBJECT_RANK), OBJECT("all", 100, 50, CKPT_OBJECT_SHARED),
      OBJECT("loader", 100, 70, CKPT_OBJECT_SOLE) },
    { OBJECT("rng", 4000, 60, CKPT_OBJECT_RANK), OBJECT("all", 50, 50, CKPT_OBJECT_SHARED),
      OBJECT("loader", 71, 70, CKPT_OBJECT_SOLE) },
    { OBJECT("rng", 20, 60, CKPT_OBJECT_RANK), OBJECT("all", 9000, 50, CKPT_OBJECT_SHARED),
      OBJECT("loader", 100, 70, CKPT_OBJECT_SOLE) },
};

static void scopes(struct kit_rank *r)
{
    int k = *(const int *)r->arg;
    kit_open(r);
    kit_declare(r, objects[k], r->rank == 1 ? 3 : 2); /* SOLE: of rank 1 alone */
    if (k == 0) {
        KIT_OK(kit_save_local(r, 5));
        KIT_OK(kit_save_local(r, 6));
    } else if (k == 1) {
        kit_restore(r);
    } else {
        kit_scribble(r);
        KIT_FAILS(ckpt_restore(r->s, NULL, r->buffers, r->count, NULL, NULL), CKPT_MISMATCH, "rng");
    }
}

static void test_scopes(void)
{
    for (int k = 0; k < 3; k++)
        kit_run("scopes", 2, scopes, &k);
    int k = 1;
    kit_run("scopes", 2, scopes, &k); /* a refused object is no damage */
    kit_verify("scopes", 6);
}

/* A shared object in which the ranks differ, in bytes and in length (clocks, host names): all get
 * one rank's, whole, though it is large enough to be split if it were a tensor. */
#define UNEQUAL_CAP    (16 * MIB)
#define UNEQUAL_LEN(r) (9 * MIB + (r) * (2 * MIB + 8))

static void unequal(struct kit_rank *r)
{
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 1 };
    struct ckpt_buffer b = { malloc(UNEQUAL_CAP), UNEQUAL_LEN(r->rank) };
    uint64_t op, *words = b.base;
    kit_open(r);
    KIT_OK(ckpt_state_new(r->c, &r->s));
    KIT_OK(ckpt_object(r->s, "host", UNEQUAL_CAP, CKPT_OBJECT_SHARED));
    KIT_OK(ckpt_seal(r->s, 40000));
    if (r->point.size) {
        b.bytes = UNEQUAL_CAP;
        KIT_OK(ckpt_restore(r->s, NULL, &b, 1, NULL, NULL));
        unsigned long long first = 0, whose = words[0] >> 32;
        CHECK_EQ(b.bytes, UNEQUAL_LEN(whose));
        for (uint64_t i = 0; i < b.bytes / sizeof(*words); i++)
            CHECK_EQ(words[i], whose << 32 | i);
        CHECK(atomic_compare_exchange_strong(&r->board->value[0], &first, whose + 1) ||
              first == whose + 1); /* the same one for all */
    } else {
        for (uint64_t i = 0; i < b.bytes / sizeof(*words); i++)
            words[i] = (uint64_t)r->rank << 32 | i;
        KIT_OK(ckpt_save(r->s, &o, &b, 1, NULL, &op));
        KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 60000));
    }
    free(b.base);
}

static void test_unequal(void)
{
    kit_run("unequal", 4, unequal, NULL);
    kit_run("unequal", 3, unequal, NULL);
    CHECK_EQ(kit_verify("unequal", 1), 1);
}

/* -- very many, very large ----------------------------------------------------------------- */

static struct kit_part many[20000];
static char many_names[20000][24];

static void tiny_tensors(struct kit_rank *r)
{
    kit_open(r);
    kit_declare(r, many, ARRAY_COUNT(many));
    if (r->point.size)
        kit_restore(r);
    else
        KIT_OK(kit_save_local(r, 1));
}

static const struct kit_part large[] = { TENSOR("large", CKPT_F64, 1, KIT_ROWS, 39321600) };

static void large_tensor(struct kit_rank *r)
{
    struct ckpt_info info = { .size = sizeof(info) };
    r->arena_bytes = 1;
    kit_open(r);
    kit_declare(r, large, 1);
    KIT_OK(ckpt_info(r->c, &info));
    CHECK_EQ(info.arena_bytes, 16 * MIB);
    if (r->point.size)
        kit_restore(r);
    else
        KIT_OK(kit_save_local(r, 1));
}

static void test_sizes(void)
{
    for (size_t i = 0; i < ARRAY_COUNT(many); i++) {
        snprintf(many_names[i], sizeof(many_names[i]), "layer.%zu", i);
        many[i] = (struct kit_part){
            .name = many_names[i], .dtype = CKPT_F32, .ndim = 1, .shape = { i % 7 }, .how = KIT_ROWS
        };
    }
    kit_run("many", 2, tiny_tensors, NULL);
    kit_run("many", 3, tiny_tensors, NULL);
    kit_verify("many", 1);
    kit_run("large", 1, large_tensor, NULL);
    kit_run("large", 1, large_tensor, NULL);
    kit_verify("large", 1);
}

int main(void)
{
    kit_begin("layout");
    test_worlds();
    test_scopes();
    test_unequal();
    test_sizes();
    return kit_end();
}
