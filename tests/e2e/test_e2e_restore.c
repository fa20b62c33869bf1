/* Restores that ask for other than what was saved: other floating-point types, parts of it,
 * other names; what they report; and keys that are dealt to another number of ranks, found by
 * asking (control_list.c). */
#include "e2e/kit.h"
#include "formats/convert.h"
#include "formats/dtype.h"

#define TENSOR(n, t, d, how_, ...)                                                      \
    {                                                                                   \
        .name = (n), .dtype = (t), .ndim = (d), .how = (how_), .shape = { __VA_ARGS__ } \
    }

/* As it is saved. */
static const struct kit_part saved[] = {
    TENSOR("model.w", CKPT_F32, 2, KIT_ROWS, 700, 500),
    TENSOR("model.h", CKPT_BF16, 2, KIT_COLS, 64, 33),
    TENSOR("model.e", CKPT_F8_E4M3, 1, KIT_SAME, 4096),
    TENSOR("opt.m", CKPT_F64, 2, KIT_FLAT, 77, 301),
    TENSOR("opt.s", CKPT_F16, 0, KIT_FIRST, 0),
    TENSOR("ids", CKPT_I32, 1, KIT_ROWS, 90),
    { .name = "head", .dtype = CKPT_F32, .ndim = 2, .shape = { 700, 500 }, .alias = "model.w" },
    { .name = "cfg", .object = true, .shape = { 500, 300 }, .scope = CKPT_OBJECT_SHARED },
};
#define PARTS ARRAY_COUNT(saved)

static void save_two(struct kit_rank *r)
{
    kit_open(r);
    kit_declare(r, saved, PARTS);
    KIT_OK(kit_save_local(r, 1));
}

static enum ckpt_status restore(struct kit_rank *r, const struct ckpt_restore_opts *o)
{
    kit_scribble(r);
    return ckpt_restore(r->s, NULL, r->buffers, r->count, NULL, o);
}

static bool scribbled(const struct kit_rank *r, size_t i)
{
    const uint8_t *b = r->buffers[i].base;
    for (uint64_t k = 0; k < r->buffers[i].bytes; k++)
        if (b[k] != 0xa5)
            return false;
    return true;
}

static struct ckpt_restored fate(struct kit_rank *r, uint64_t i)
{
    struct ckpt_restored f = { .size = sizeof(f) };
    KIT_OK(ckpt_restored(r->s, i, &f));
    return f;
}

/* -- conversion ------------------------------------------------------------------------ */

struct asked {
    struct kit_part parts[PARTS];
};

/* The same pieces as they were saved, then in the other types: dense buffers of the same
 * elements, so one is the conversion of the other. */
static void convert(struct kit_rank *r)
{
    const struct asked *a = r->arg;
    struct ckpt_restore_opts o = { .size = sizeof(o), .flags = CKPT_RESTORE_CONVERT };
    void *plain[PARTS];
    uint64_t bytes[PARTS];
    r->arena_bytes = r->rank; /* the least, but for rank 0 */
    kit_open(r);
    kit_declare(r, a->parts, PARTS);
    KIT_FAILS(restore(r, NULL), CKPT_MISMATCH, "a restore converts only when");
    CHECK(strstr(ckpt_error(), "rank ") && strstr(ckpt_error(), "tensor "));
    kit_meet(r, 0); /* ranks restore together, and fail together */
    struct kit_part same[PARTS];
    for (size_t i = 0; i < PARTS; i++) {
        same[i] = a->parts[i];
        same[i].dtype = saved[i].dtype;
    }
    kit_declare(r, same, PARTS);
    kit_restore(r);
    for (size_t i = 0; i < PARTS; i++) {
        bytes[i] = r->buffers[i].bytes;
        plain[i] = malloc(bytes[i] + 1);
        memcpy(plain[i], r->buffers[i].base, bytes[i]);
        CHECK_EQ(fate(r, i).fate, same[i].alias ? CKPT_FATE_TIED : CKPT_FATE_LOADED);
        CHECK(fate(r, i).overflowed == 0 &&
              fate(r, i).dtype == (same[i].object ? CKPT_U8 : same[i].dtype));
    }
    kit_declare(r, a->parts, PARTS);
    KIT_OK(restore(r, &o));
    for (size_t i = 0; i < PARTS; i++) {
        unsigned from = saved[i].dtype, to = a->parts[i].dtype;
        struct ckpt_restored f = fate(r, i);
        uint64_t over = 0, n = r->buffers[i].bytes;
        CHECK_STR(f.name, saved[i].name);
        if (saved[i].alias || saved[i].object || from == to) {
            CHECK(n == bytes[i] && memcmp(plain[i], r->buffers[i].base, n) == 0);
            CHECK(f.overflowed == 0 && f.saved_dtype == (saved[i].alias ? 0 : f.dtype));
        } else {
            uint8_t *want = malloc(n + 1);
            uint64_t count = n / (dtype_bits(to) / 8);
            CHECK_EQ(count, bytes[i] / (dtype_bits(from) / 8));
            over = convert_run(to, want, from, plain[i], count);
            CHECK(memcmp(want, r->buffers[i].base, n) == 0);
            CHECK(f.saved_dtype == from && f.dtype == to && f.fate == CKPT_FATE_LOADED);
            CHECK_EQ(f.overflowed, over);
            CHECK_EQ(f.bytes, n);
            free(want);
        }
        free(plain[i]);
    }
    KIT_OK(ckpt_progress(r->c, CKPT_FINISHED)); /* no crash: the next launch is none of many */
}

static void test_convert(void)
{
    static const uint32_t types[][5] = {
        { CKPT_BF16, CKPT_F32, CKPT_F16, CKPT_F32, CKPT_F64 },
        { CKPT_F16, CKPT_F8_E5M2, CKPT_F32, CKPT_BF16, CKPT_F8_E4M3FNUZ },
        { CKPT_F64, CKPT_F16, CKPT_F64, CKPT_F8_E5M2FNUZ, CKPT_F32 },
        { CKPT_F8_E4M3, CKPT_BF16, CKPT_F8_E5M2, CKPT_F64, CKPT_F16 },
    };
    for (size_t i = 0; i < ARRAY_COUNT(types); i++) {
        struct asked a;
        memcpy(a.parts, saved, sizeof(saved));
        for (size_t k = 0; k < 5; k++)
            a.parts[k].dtype = types[i][k];
        a.parts[0].how = i % 2 ? KIT_COLS : KIT_FLAT;
        a.parts[1].how = i % 2 ? KIT_FLAT : KIT_ROWS;
        a.parts[3].how = KIT_COLS;
        a.parts[6].dtype = types[i][0]; /* what is tied has its target's type */
        kit_run("convert", 1 + (uint32_t)i % 3, convert, &a);
    }
}

/* -- parts, names, reports --------------------------------------------------------------- */

static const struct kit_part other[] = {
    TENSOR("m.w", CKPT_F32, 2, KIT_COLS, 700, 500),
    TENSOR("m.h", CKPT_BF16, 2, KIT_ROWS, 64, 33),
    TENSOR("m.e", CKPT_F8_E4M3, 1, KIT_SAME, 4096),
    TENSOR("fresh", CKPT_F32, 1, KIT_ROWS, 50),
    TENSOR("left.s", CKPT_F32, 1, KIT_ROWS, 7),
    { .name = "maybe", .dtype = CKPT_F32, .ndim = 1, .shape = { 9 }, .flags = CKPT_OPTIONAL },
    { .name = "config", .object = true, .shape = { 500, 300 }, .scope = CKPT_OBJECT_SHARED },
    { .name = "nothing", .object = true, .shape = { 500, 300 }, .scope = CKPT_OBJECT_SHARED },
};

static void parts_and_names(struct kit_rank *r)
{
    static const struct ckpt_rename renames[] = { { "model.*", "m.*" }, { "cfg", "config" } };
    static const char *const left[] = { "left.*" };
    static const char *const most[] = { "m.*", "fresh", "maybe", "config", "nothing", "opt.?" };
    struct ckpt_restore_opts o = { .size = sizeof(o) };
    struct ckpt_info info = { .size = sizeof(info) };
    struct ckpt_restored f = { .size = sizeof(f) };
    kit_open(r);
    kit_declare(r, other, ARRAY_COUNT(other));
    KIT_FAILS(ckpt_restored(r->s, 0, &f), CKPT_WRONG_STATE, "ended well");
    KIT_FAILS(restore(r, &o), CKPT_NOT_FOUND, "tensor m.w");
    KIT_FAILS(ckpt_restored(r->s, 0, &f), CKPT_WRONG_STATE, "ended well");
    o.renames = renames;
    o.rename_count = 2;
    KIT_FAILS(restore(r, &o), CKPT_NOT_FOUND, "tensor fresh");
    o.except = left;
    o.except_count = 1;
    o.only = most;
    o.only_count = ARRAY_COUNT(most);
    KIT_FAILS(restore(r, &o), CKPT_NOT_FOUND, "tensor fresh");
    o.flags = CKPT_RESTORE_PARTIAL;
    kit_scribble(r);
    kit_meet(r, 0); /* what nobody asks for is known when all restore together */
    KIT_OK(ckpt_restore(r->s, NULL, r->buffers, r->count, NULL, &o));
    /* m.w is model.w byte for byte; the kit's bytes follow from the name, so by the old one. */
    struct kit_part as_saved[ARRAY_COUNT(other)];
    memcpy(as_saved, other, sizeof(other));
    as_saved[0].name = "model.w";
    as_saved[1].name = "model.h";
    as_saved[2].name = "model.e";
    as_saved[6].name = "cfg";
    r->parts = as_saved;
    for (size_t i = 0; i < ARRAY_COUNT(other); i++) {
        static const uint32_t fates[] = { CKPT_FATE_LOADED,  CKPT_FATE_LOADED,   CKPT_FATE_LOADED,
                                          CKPT_FATE_MISSING, CKPT_FATE_LEFT_OUT, CKPT_FATE_MISSING,
                                          CKPT_FATE_LOADED,  CKPT_FATE_MISSING };
        f = fate(r, i);
        CHECK_EQ(f.fate, fates[i]);
        CHECK_STR(f.name, other[i].name);
        if (f.fate == CKPT_FATE_LOADED) {
            CHECK(kit_part_is(r, i, 1));
            CHECK_STR(f.saved_name, as_saved[i].name);
        } else {
            CHECK(scribbled(r, i) && f.saved_name == NULL && f.bytes == 0);
        }
    }
    r->parts = other;
    /* Declared by no rank, wanted by the patterns. */
    f = fate(r, ARRAY_COUNT(other));
    CHECK(f.fate == CKPT_FATE_UNASKED && f.name == NULL);
    CHECK_STR(f.saved_name, "opt.m");
    CHECK_STR(fate(r, ARRAY_COUNT(other) + 1).saved_name, "opt.s");
    KIT_FAILS(ckpt_restored(r->s, ARRAY_COUNT(other) + 2, &f), CKPT_NOT_FOUND, "has 10 entries");
    KIT_OK(ckpt_info(r->c, &info));
    CHECK(info.restore_missing == 3 && info.restore_unasked == 2);
    /* Two saved names for one. */
    static const struct ckpt_rename both[] = { { "model.w", "m.w" }, { "head*", "m.w*" } };
    o.renames = both;
    KIT_FAILS(restore(r, &o), CKPT_INVALID, "head and model.w of the checkpoint both become m.w");
    static const struct ckpt_rename stars[] = { { "a.*", "b" } };
    o.renames = stars;
    o.rename_count = 1;
    KIT_FAILS(restore(r, &o), CKPT_INVALID, "\"a.*\" to \"b\"");
    static const struct ckpt_rename wrong[] = { { "opt.m", "m.w" } };
    o.renames = wrong;
    KIT_FAILS(restore(r, &o), CKPT_MISMATCH, "tensor m.w");
    KIT_OK(ckpt_progress(r->c, CKPT_FINISHED)); /* no crash: the next launch is none of many */
}

/* Ranks that leave out different parts: each gets what it asked for.  head is tied to model.w. */
static void apart(struct kit_rank *r)
{
    static const char *const left[][2] = { { "model.*", "head" },
                                           { "opt.*", "opt.*" },
                                           { "*", "*" } };
    struct ckpt_restore_opts o = { .size = sizeof(o), .except = left[r->rank], .except_count = 2 };
    kit_open(r);
    kit_declare(r, saved, PARTS);
    KIT_OK(restore(r, &o));
    for (size_t i = 0; i < PARTS; i++) {
        const char *n = saved[i].name;
        bool out = r->rank == 2 || (r->rank == 0 && (n[0] == 'm' || n[0] == 'h')) ||
                   (r->rank == 1 && n[0] == 'o');
        CHECK_EQ(fate(r, i).fate, out              ? CKPT_FATE_LEFT_OUT
                                  : saved[i].alias ? CKPT_FATE_TIED
                                                   : CKPT_FATE_LOADED);
        CHECK(out ? scribbled(r, i) : kit_part_is(r, i, 1));
    }
    KIT_OK(ckpt_progress(r->c, CKPT_FINISHED));
}

/* What is tied has no memory: without its target there is nothing to ask for. */
static void ties(struct kit_rank *r)
{
    static const struct kit_part fresh[] = {
        TENSOR("fresh.w", CKPT_F32, 2, KIT_ROWS, 70, 50),
        { .name = "crown", .dtype = CKPT_F32, .ndim = 2, .shape = { 70, 50 }, .alias = "fresh.w" },
        TENSOR("model.e", CKPT_F8_E4M3, 1, KIT_SAME, 4096),
    };
    static const char *const head[] = { "head", "model.w" }, *const left[] = { "model.w" };
    struct ckpt_restore_opts o = { .size = sizeof(o), .only = head, .only_count = 1 };
    kit_open(r);
    kit_declare(r, saved, PARTS);
    KIT_FAILS(restore(r, &o), CKPT_INVALID, "tensor head is tied to model.w, which");
    CHECK(scribbled(r, 0));
    kit_meet(r, 0); /* ranks restore together, and fail together */
    o.flags = CKPT_RESTORE_PARTIAL;
    KIT_FAILS(restore(r, &o), CKPT_INVALID, "ask for both, or for neither");
    kit_meet(r, 1);
    o = (struct ckpt_restore_opts){ .size = sizeof(o), .except = left, .except_count = 1 };
    KIT_FAILS(restore(r, &o), CKPT_INVALID, "tensor head is tied to model.w, which");
    kit_meet(r, 2);
    o = (struct ckpt_restore_opts){ .size = sizeof(o), .only = head, .only_count = 2 };
    KIT_OK(restore(r, &o));
    CHECK(kit_part_is(r, 0, 1) && fate(r, 6).fate == CKPT_FATE_TIED);
    o = (struct ckpt_restore_opts){ .size = sizeof(o), .flags = CKPT_RESTORE_PARTIAL };
    kit_declare(r, fresh, ARRAY_COUNT(fresh));
    KIT_OK(restore(r, &o));
    CHECK(scribbled(r, 0) && kit_part_is(r, 2, 1));
    CHECK_EQ(fate(r, 0).fate, CKPT_FATE_MISSING);
    CHECK_EQ(fate(r, 1).fate, CKPT_FATE_MISSING); /* not tied to anything that came */
    CHECK_EQ(fate(r, 2).fate, CKPT_FATE_LOADED);
    KIT_OK(ckpt_progress(r->c, CKPT_FINISHED));
}

/* -- what a checkpoint holds ---------------------------------------------------------------- */

static void look(struct kit_rank *r)
{
    static const char *const names[] = { "cfg",     "head",    "ids",   "model.e",
                                         "model.h", "model.w", "opt.m", "opt.s" };
    struct ckpt_list_opts o = { .size = sizeof(o) };
    struct ckpt_listed e = { .size = sizeof(e) };
    struct ckpt_list *l = NULL;
    kit_open(r);
    KIT_OK(ckpt_list(r->c, NULL, NULL, &l));
    CHECK_EQ(ckpt_list_count(l), ARRAY_COUNT(names));
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        KIT_OK(ckpt_list_at(l, i, &e));
        CHECK_STR(e.name, names[i]);
        CHECK_EQ(e.object, i == 0);
    }
    KIT_OK(ckpt_list_at(l, 0, &e));
    CHECK(e.bytes == 500 && e.dtype == CKPT_U8);
    KIT_OK(ckpt_list_at(l, 1, &e));
    CHECK_STR(e.alias, "model.w");
    CHECK_EQ(e.bytes, 0);
    KIT_OK(ckpt_list_at(l, 5, &e));
    CHECK(e.ndim == 2 && e.shape[0] == 700 && e.shape[1] == 500 && e.bytes == 1400000 && !e.alias);
    KIT_FAILS(ckpt_list_at(l, 8, &e), CKPT_NOT_FOUND, "8 entries");
    ckpt_list_free(l);
    o.pattern = "o*.?";
    KIT_OK(ckpt_list(r->c, &r->point, &o, &l));
    CHECK_EQ(ckpt_list_count(l), 2);
    ckpt_list_free(l);
    o.flags = CKPT_LIST_OBJECTS;
    KIT_OK(ckpt_list(r->c, NULL, &o, &l));
    CHECK_EQ(ckpt_list_count(l), 0);
    ckpt_list_free(l);
    struct ckpt_point none = { sizeof(none), 99, 1, 1 };
    KIT_FAILS(ckpt_list(r->c, &none, NULL, &l), CKPT_NOT_FOUND, "");
    o.pattern = "";
    KIT_FAILS(ckpt_list(r->c, NULL, &o, &l), CKPT_INVALID, "empty pattern");
    KIT_OK(ckpt_progress(r->c, CKPT_FINISHED)); /* no crash: the next launch is none of many */
}

/* -- keys over 4, 2, 3 ranks ------------------------------------------------------------------ */

#define KEYS 7

struct loader {
    char name[16];
    uint64_t position; /* what a data loader would keep */
};

struct leg {
    uint64_t step; /* saved at its end; the one before was saved by the leg before */
    bool drop;     /* rank 0 forgets its first key */
    bool twice;    /* the last rank declares the first key, too */
};

/* The first launch makes the keys, later ones find them. */
static size_t my_keys(struct kit_rank *r, struct loader *mine)
{
    uint64_t first, count, n = KEYS;
    struct ckpt_list_opts o = { .size = sizeof(o),
                                .flags = CKPT_LIST_OBJECTS,
                                .pattern = "loader/*" };
    struct ckpt_list *l = NULL;
    if (r->point.size)
        KIT_OK(ckpt_list(r->c, NULL, &o, &l));
    if (l)
        n = ckpt_list_count(l);
    CHECK_EQ(n, KEYS);
    KIT_OK(ckpt_deal(n, r->rank, r->world, &first, &count));
    for (uint64_t i = 0; i < count; i++) {
        struct ckpt_listed e = { .size = sizeof(e) };
        snprintf(mine[i].name, sizeof(mine[i].name), "loader/%03u", (unsigned)(first + i));
        mine[i].position = 1000 * (first + i);
        if (!l)
            continue;
        KIT_OK(ckpt_list_at(l, first + i, &e));
        CHECK_STR(e.name, mine[i].name);
        CHECK_EQ(e.bytes, sizeof(uint64_t));
        mine[i].position = 0;
    }
    ckpt_list_free(l);
    return count;
}

static void deal(struct kit_rank *r)
{
    const struct leg *leg = r->arg;
    struct loader mine[KEYS + 1];
    struct ckpt_buffer b[KEYS + 1];
    struct ckpt_save_opts so = { .size = sizeof(so), .step = leg->step };
    uint64_t op;
    kit_open(r);
    size_t n = my_keys(r, mine), skip = leg->drop && r->rank == 0;
    if (leg->twice && r->rank + 1 == r->world)
        mine[n++] = (struct loader){ "loader/000", 0 };
    KIT_OK(ckpt_state_new(r->c, &r->s));
    for (size_t i = skip; i < n; i++) {
        KIT_OK(ckpt_object(r->s, mine[i].name, sizeof(uint64_t), CKPT_OBJECT_SOLE));
        b[i] = (struct ckpt_buffer){ &mine[i].position, sizeof(uint64_t) };
    }
    KIT_OK(ckpt_seal(r->s, 40000));
    if (r->point.size) {
        KIT_OK(ckpt_restore(r->s, NULL, b + skip, n - skip, NULL, NULL));
        for (size_t i = skip; i < n; i++) {
            uint64_t key = strtoull(mine[i].name + 7, NULL, 10);
            CHECK_EQ(mine[i].position, 1000 * key + (r->point.step - 1)); /* as it went on */
        }
    }
    for (size_t i = skip; i < n; i++)
        mine[i].position += r->point.size ? leg->step - r->point.step : 0;
    KIT_OK(ckpt_save(r->s, &so, b + skip, n - skip, NULL, &op));
    if (leg->drop)
        KIT_FAILS(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 60000), CKPT_VANISHED, "loader/000");
    else if (leg->twice)
        KIT_FAILS(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 60000), CKPT_COVER, "loader/000");
    else
        KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 60000));
    ckpt_state_free(r->s);
    r->s = NULL;
}

static void test_keys(void)
{
    static const uint32_t worlds[] = { 4, 2, 3, 8, 1, 4 };
    for (size_t i = 0; i < ARRAY_COUNT(worlds); i++) {
        struct leg leg = { .step = i + 1 };
        kit_run("keys", worlds[i], deal, &leg);
    }
    struct leg drop = { .step = 20, .drop = true }, twice = { .step = 30, .twice = true };
    kit_run("keys", 3, deal, &drop);
    kit_run("keys", 2, deal, &twice);
    CHECK_EQ(kit_verify("keys", ARRAY_COUNT(worlds)), ARRAY_COUNT(worlds));
}

/* Every thing goes to exactly one rank, in order, and no rank has two more than another. */
static void test_deal(void)
{
    for (uint64_t n = 0; n < 40; n++) {
        for (uint32_t world = 1; world < 20; world++) {
            uint64_t next = 0, first, count, most = 0, least = UINT64_MAX;
            for (uint32_t r = 0; r < world; r++) {
                KIT_OK(ckpt_deal(n, r, world, &first, &count));
                CHECK_EQ(first, next);
                next += count;
                most = count > most ? count : most;
                least = count < least ? count : least;
            }
            CHECK(next == n && most - least <= 1);
        }
    }
    uint64_t first, count;
    KIT_FAILS(ckpt_deal(1, 3, 3, &first, &count), CKPT_INVALID, "rank 3 of 3");
    KIT_FAILS(ckpt_deal(1, 0, 0, &first, &count), CKPT_INVALID, "rank 0 of 0");
    KIT_OK(ckpt_deal(UINT64_MAX, 6, 7, &first, &count));
    CHECK_EQ(first + count, UINT64_MAX);
    kit.cases++;
}

int main(void)
{
    kit_begin("restore");
    kit_run("convert", 2, save_two, NULL);
    test_convert();
    kit_run("convert", 3, parts_and_names, NULL);
    kit_run("convert", 1, parts_and_names, NULL);
    kit_run("convert", 3, apart, NULL);
    kit_run("convert", 2, ties, NULL);
    kit_run("convert", 2, look, NULL);
    test_keys();
    test_deal();
    return kit_end();
}
