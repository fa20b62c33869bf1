/* Which rank reads what for all (fanout_plan.c): for random declarations, layouts in memory and
 * numbers of ranks the ranks' plans are one plan, every byte of what is dealt is in one unit, and
 * every chunk that replicas saved is read by one rank. */
#include "libckpt/fanout_plan.h"

#include "check.h"

#define RANKS_MAX 9
#define SLOT      (UINT64_C(8) << 20)

struct world {
    struct decl decl;
    struct select select;
    struct strided *at;
    uint8_t *on;
    uint32_t count;
    struct fanout_plan plan[RANKS_MAX];
};
static unsigned long long seed;
static long units, tiles, left;

static uint64_t pick(uint64_t n)
{
    return test_rand(&seed) % n;
}

static void add_piece(struct world *w, const struct box *box, bool replicas)
{
    struct decl_piece p = { .box = *box,
                            .replica = 0,
                            .replica_count = replicas ? w->count : 1 + (uint32_t)pick(2) };
    int64_t stride = 1;
    for (uint32_t d = box->ndim; d-- > 0;) {
        p.stride[d] = stride;
        stride *= (int64_t)box->len[d];
    }
    CHECK_OK(decl_add_piece(&w->decl, &p, NULL));
}

/* Two pieces now and then, of any kind and place. */
static void add_tensor(struct world *w, int i)
{
    static const uint8_t types[] = { CKPT_DTYPE_F32, CKPT_DTYPE_BF16, CKPT_DTYPE_U8,
                                     CKPT_DTYPE_F64 };
    char name[16];
    struct decl_tensor t = { .name = name, .ndim = 1 + (uint32_t)pick(3) };
    snprintf(name, sizeof(name), "t%d", i);
    t.dtype = types[pick(ARRAY_COUNT(types))];
    t.kind = pick(6) == 0 ? DECL_LOCKED : DECL_ELEMENTWISE;
    t.flags = pick(8) == 0 ? DECL_OPTIONAL : 0;
    uint64_t most = t.ndim == 1 ? 30000000 : t.ndim == 2 ? 5000 : 300;
    for (uint32_t d = 0; d < t.ndim; d++)
        t.shape[d] = 1 + pick(pick(3) ? most : 20);
    CHECK_OK(decl_add_tensor(&w->decl, &t, NULL));
    struct box box = box_whole(t.ndim, t.shape);
    uint64_t cut = pick(t.shape[0]) + 1;
    bool two = pick(3) == 0 && cut < t.shape[0];
    if (two)
        box.len[0] = cut;
    add_piece(w, &box, pick(5) > 0);
    if (two) {
        box.off[0] = cut;
        box.len[0] = t.shape[0] - cut;
        add_piece(w, &box, pick(5) > 0);
    }
}

/* Addresses are numbers here; nothing is behind them.  Some pieces have gaps between rows. */
static void place(struct world *w)
{
    w->at = calloc(w->decl.piece_count + 1, sizeof(*w->at));
    w->on = calloc(w->decl.piece_count + 1, 1);
    for (size_t i = 0; i < w->decl.piece_count; i++) {
        const struct decl_piece *p = &w->decl.pieces[i];
        unsigned bits = dtype_bits(w->decl.tensors[p->tensor].dtype);
        w->at[i] = dense_at(&p->box, bits, (void *)(uintptr_t)((i + 1) << 40));
        if (pick(7) == 0 && p->box.ndim > 1)
            w->at[i].stride_bits[0] += 8 * bits;
        w->on[i] = (uint8_t)(pick(6) ? 2 : pick(3));
    }
}

static void make_world(struct world *w)
{
    *w = (struct world){ .count = 1 + (uint32_t)pick(RANKS_MAX) };
    int n = 1 + (int)pick(8);
    for (int i = 0; i < n; i++)
        add_tensor(w, i);
    CHECK_OK(decl_finish(&w->decl, SLOT, NULL));
    if (pick(3) == 0)
        CHECK_OK(select_add(&w->select, SELECT_EXCEPT, "t1", NULL, NULL));
    place(w);
}

static void free_world(struct world *w)
{
    for (uint32_t i = 0; i < w->count; i++)
        fanout_plan_fini(&w->plan[i]);
    decl_fini(&w->decl);
    select_fini(&w->select);
    free(w->at);
    free(w->on);
}

static bool dealt(const struct world *w, size_t piece)
{
    for (size_t i = 0; i < w->plan[0].count; i++)
        if (w->plan[0].units[i].piece == piece)
            return true;
    return false;
}

static bool may_be_dealt(const struct world *w, size_t piece)
{
    const struct decl_piece *p = &w->decl.pieces[piece];
    const struct decl_tensor *t = &w->decl.tensors[p->tensor];
    return p->replica_count == w->count && w->on[piece] == 2 && !(t->flags & DECL_OPTIONAL) &&
           select_wants(&w->select, t->name);
}

/* -- the laws ----------------------------------------------------------------------------- */

static void check_alike(const struct world *w)
{
    for (uint32_t r = 0; r < w->count; r++) {
        const struct fanout_plan *p = &w->plan[r], *first = &w->plan[0];
        uint64_t bytes = 0;
        CHECK_EQ(p->count, first->count);
        CHECK(digest_equal(&p->digest, &first->digest));
        for (size_t i = 0; i < p->count; i++) {
            const struct fanout_unit *u = &p->units[i], *v = &first->units[i];
            CHECK(u->owner == v->owner && u->piece == v->piece && u->at == v->at);
            CHECK(box_equal(&u->box, &v->box) && u->bytes == v->bytes && u->bytes > 0);
            CHECK_EQ(u->part_piece != SIZE_MAX, u->owner == r);
            if (u->owner != r)
                continue;
            CHECK(box_equal(&p->part.pieces[u->part_piece].box, &u->box));
            CHECK_EQ(p->of[u->part_piece], u->piece);
            bytes += u->bytes;
        }
        CHECK_EQ(bytes, p->bytes_mine);
        CHECK_EQ(p->bytes, first->bytes);
        CHECK_EQ(p->part.tensor_count, w->decl.tensor_count);
    }
}

static const unsigned char *last_byte(const struct decl_piece *p, const struct strided *at,
                                      const struct box *box, unsigned bits)
{
    int64_t last = bits / 8 - 1;
    for (uint32_t d = 0; d < box->ndim; d++)
        last += (int64_t)(box->off[d] + box->len[d] - 1 - p->box.off[d]) * at->stride_bits[d] / 8;
    return at->base + last;
}

/* What is dealt is in one unit, and in one rank's part; the rest is in all. */
static void check_whole(const struct world *w)
{
    for (size_t k = 0; k < w->decl.piece_count; k++) {
        const struct decl_piece *p = &w->decl.pieces[k];
        unsigned bits = dtype_bits(w->decl.tensors[p->tensor].dtype);
        const struct fanout_plan *plan = &w->plan[0];
        uint64_t bytes = 0;
        for (size_t i = 0; i < plan->count; i++) {
            const struct fanout_unit *u = &plan->units[i];
            struct box common;
            if (u->piece != k)
                continue;
            bytes += u->bytes;
            CHECK(box_contains(&p->box, &u->box));
            CHECK(last_byte(p, &w->at[k], &u->box, bits) == u->at + u->bytes - 1);
            for (size_t j = 0; j < i; j++) {
                const struct fanout_unit *v = &plan->units[j];
                if (v->piece != k)
                    continue;
                CHECK(!box_intersect(&u->box, &v->box, &common));
                CHECK(u->at + u->bytes <= v->at || v->at + v->bytes <= u->at);
            }
        }
        units += bytes > 0;
        left += bytes == 0;
        CHECK(bytes == 0 || bytes == box_bytes(&p->box, bits));
        CHECK(bytes == 0 || may_be_dealt(w, k));
        for (uint32_t r = 0; r < w->count && bytes == 0; r++) {
            bool asked = false;
            for (size_t i = 0; i < w->plan[r].part.piece_count; i++)
                asked |=
                    w->plan[r].of[i] == k && box_equal(&w->plan[r].part.pieces[i].box, &p->box);
            CHECK(asked);
        }
    }
}

/* Tiles as any number of replicas saved them: read by one rank. */
static void check_tiles(const struct world *w)
{
    for (size_t k = 0; k < w->decl.piece_count; k++) {
        struct decl_piece p = w->decl.pieces[k];
        const struct decl_tensor *t = &w->decl.tensors[p.tensor];
        if (!dealt(w, k))
            continue;
        p.replica_count = 1 + (uint32_t)pick(12);
        for (uint32_t r = 0; r < p.replica_count; r++) {
            struct box share, tile, common;
            uint64_t n = decl_share(t, &p, r, &share) ? tile_count(&share, p.tile) : 0;
            for (uint64_t i = 0; i < n; i++, tiles++) {
                uint32_t owner = UINT32_MAX;
                tile = tile_at(&share, p.tile, i);
                for (size_t j = 0; j < w->plan[0].count; j++) {
                    const struct fanout_unit *u = &w->plan[0].units[j];
                    if (u->piece != k || !box_intersect(&tile, &u->box, &common))
                        continue;
                    CHECK(owner == UINT32_MAX || owner == u->owner);
                    owner = u->owner;
                }
                CHECK(owner != UINT32_MAX);
            }
        }
    }
}

static void check_rounds(const struct fanout_plan *p)
{
    size_t end;
    for (size_t first = 0; first < p->count; first = end) {
        uint64_t bytes = 0;
        end = fanout_plan_round(p, first);
        CHECK(end > first && end <= p->count && end - first <= 64);
        for (size_t i = first; i < end; i++)
            bytes += p->units[i].bytes;
        CHECK(end == first + 1 || bytes <= FANOUT_UNIT_BYTES);
    }
}

/* Of a change that is told to one rank alone, the digest tells. */
static void check_digest(struct world *w)
{
    struct fanout_plan other;
    struct fanout_ask ask = { .decl = &w->decl,
                              .select = &w->select,
                              .at = w->at,
                              .on = w->on,
                              .device = 2,
                              .rank = 0,
                              .count = w->count };
    size_t piece = w->plan[0].units[pick(w->plan[0].count)].piece;
    w->on[piece] = 0;
    struct ckpt_err err = { 0 };
    enum ckpt_status st = fanout_plan_make(&ask, &other, &err);
    w->on[piece] = 2;
    CHECK(st == CKPT_OK || st == CKPT_UNSUPPORTED);
    if (st == CKPT_OK) {
        CHECK(!digest_equal(&other.digest, &w->plan[0].digest));
        fanout_plan_fini(&other);
    }
}

static bool run(struct world *w)
{
    make_world(w);
    bool any = true;
    for (uint32_t r = 0; r < w->count && any; r++) {
        struct ckpt_err err = { 0 };
        const struct fanout_ask ask = { .decl = &w->decl,
                                        .select = &w->select,
                                        .at = w->at,
                                        .on = w->on,
                                        .device = 2,
                                        .rank = r,
                                        .count = w->count };
        enum ckpt_status st = fanout_plan_make(&ask, &w->plan[r], &err);
        any = st == CKPT_OK;
        CHECK(any || (st == CKPT_UNSUPPORTED && r == 0));
        CHECK(any || strstr(err_text(&err), "no tensor is declared as held by all"));
    }
    if (any) {
        check_alike(w);
        check_whole(w);
        check_tiles(w);
        check_rounds(&w->plan[0]);
        check_digest(w);
    }
    free_world(w);
    return any;
}

int main(void)
{
    static struct world w;
    seed = test_seed(20261123);
    int rounds = (getenv("CKPT_DEEP") ? 50000 : 2000) / TEST_TENTH, made = 0;
    for (int i = 0; i < rounds; i++)
        made += run(&w);
    printf("%ld pieces dealt, %ld left, %ld tiles\n", units, left, tiles);
    CHECK(units > 0 && left > 0 && tiles > 0);
    TEST_CASES(made);
    return 0;
}
