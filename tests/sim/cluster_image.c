/* What ranks declare and save: a few tensors of 64-bit cells, cut into pieces that are dealt
 * out anew in each launch.  What a cell holds follows from the checkpoint's name and the
 * cell, whoever saved it, so that any later launch of any size can tell what it was given. */
#include <stdio.h>

#include "sim/cluster.h"
#include "sim/sim_wraps.h"

#define TENSORS     2
#define CELLS       128
#define PIECE_MIN   33
#define PIECE_MAX   64
#define DECL_BYTES  4096
#define SPLIT_BYTES 1024 /* of a slot that are used */

static struct shard {
    struct decl decl;
    uint8_t bytes[DECL_BYTES];
    uint64_t len;
} images[SIM_RANKS];

uint64_t image_value(const struct ckpt_name *name, uint32_t tensor, uint64_t cell)
{
    unsigned long long s = name->attempt ^ name->step << 32 ^ name->epoch << 48;
    s ^= (tensor + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ (cell + 1) << 8;
    return test_rand(&s);
}

static uint32_t index_of(const struct sim_rank *r)
{
    return (uint32_t)(r - sim_ranks);
}

static void add_tensor(struct decl *d, uint32_t tensor)
{
    char name[16];
    struct decl_tensor t = { .name = name, .dtype = CKPT_DTYPE_I64, .ndim = 1, .shape = { CELLS } };
    snprintf(name, sizeof(name), "t%u", tensor);
    CHECK(decl_add_tensor(d, &t, NULL) == CKPT_OK);
}

static void add_piece(struct decl *d, uint64_t from, uint64_t cells, uint32_t r, uint32_t of)
{
    struct decl_piece p = { .box = { .ndim = 1, .off = { from }, .len = { cells } },
                            .stride = { 1 },
                            .replica = r,
                            .replica_count = of };
    CHECK(decl_add_piece(d, &p, NULL) == CKPT_OK);
}

/* Cuts one tensor and deals out its pieces, some of them to two ranks. */
static void deal(uint32_t first_rank, uint32_t world, uint32_t tensor)
{
    uint64_t at = 0;
    for (uint32_t r = 0; r < world; r++)
        add_tensor(&images[first_rank + r].decl, tensor);
    while (at < CELLS) {
        uint64_t cells = PIECE_MIN + sim_rand(PIECE_MAX - PIECE_MIN + 1);
        cells = min_u64(cells, CELLS - at);
        uint32_t rank = (uint32_t)sim_rand(world);
        uint32_t other = (rank + 1 + (uint32_t)sim_rand(world)) % world;
        uint32_t of = other != rank && sim_rand(4) == 0 ? 2 : 1;
        add_piece(&images[first_rank + rank].decl, at, cells, 0, of);
        if (of == 2)
            add_piece(&images[first_rank + other].decl, at, cells, 1, of);
        at += cells;
    }
}

/* Slots have 8 MiB and more; here they are as small as they can be, so that a save has
 * several: the tiles of the one slot that there is are dealt out again. */
static void split_slots(struct decl *d)
{
    struct decl_walk w = decl_walk_slot(d, 0);
    struct decl_tile t;
    struct decl_slot *slots = calloc(d->chunk_count, sizeof(*slots));
    uint32_t n = 0;
    uint64_t in_piece = 0, piece = UINT64_MAX;
    CHECK(slots);
    while (decl_walk_next(&w, &t)) {
        in_piece = t.piece == piece ? in_piece + 1 : 0;
        piece = t.piece;
        if (n == 0 || slots[n - 1].used + t.bytes > SPLIT_BYTES)
            slots[n++] =
                (struct decl_slot){ .first_chunk = t.chunk, .piece = t.piece, .tile = in_piece };
        slots[n - 1].used = align_up(slots[n - 1].used, 64) + t.bytes;
        slots[n - 1].chunks++;
    }
    free(d->slots);
    d->slots = slots;
    d->slot_count = n;
}

enum ckpt_status __wrap_decl_finish(struct decl *d, uint64_t slot_bytes, struct ckpt_err *err)
{
    struct sim_node *n = sim_current;
    if (d->tensor_count == 0) /* which the worker keeps in static memory: it outlives him */
        sim_current = NULL;
    (void)slot_bytes;
    enum ckpt_status st = __real_decl_finish(d, CKPT_SLOT_BYTES_MIN, err);
    if (st == CKPT_OK && d->slot_count > 0)
        split_slots(d);
    d->slot_bytes = sim_suite.slot_bytes;
    sim_current = n;
    return st;
}

void sim_image_plan(uint32_t first_rank, uint32_t world)
{
    for (uint32_t r = 0; r < world; r++) {
        decl_fini(&images[first_rank + r].decl);
        images[first_rank + r].decl = (struct decl){ 0 };
    }
    for (uint32_t t = 0; t < TENSORS; t++)
        deal(first_rank, world, t);
    for (uint32_t r = 0; r < world; r++) {
        struct shard *i = &images[first_rank + r];
        struct buf b = { 0 };
        struct ckpt_err err = { 0 };
        SIM_CHECK(decl_finish(&i->decl, sim_suite.slot_bytes, &err) == CKPT_OK, "%s",
                  err_text(&err));
        CHECK(i->decl.slot_count <= SIM_PARTS && i->decl.chunk_count <= SIM_CHUNKS);
        decl_encode(&i->decl, &b);
        CHECK(!b.failed && b.len <= DECL_BYTES);
        memcpy(i->bytes, b.data, b.len);
        i->len = b.len;
        buf_fini(&b);
        sim_ranks[first_rank + r].image_slots = i->decl.slot_count;
    }
}

uint64_t sim_image_decl_bytes(const struct sim_rank *r)
{
    return images[index_of(r)].len;
}

void sim_image_decl(const struct sim_rank *r, void *to, size_t len)
{
    const struct shard *i = &images[index_of(r)];
    SIM_CHECK(len == i->len, "rank %u declared %llu bytes, %zu are asked for", r->rank,
              (unsigned long long)i->len, len);
    memcpy(to, i->bytes, len);
}

void sim_image_fill(const struct sim_rank *r, uint64_t *slot, const struct ckpt_name *name,
                    uint32_t part)
{
    struct decl_walk w = decl_walk_slot(&images[index_of(r)].decl, part);
    struct decl_tile t;
    while (decl_walk_next(&w, &t))
        for (uint64_t i = 0; i < t.box.len[0]; i++)
            slot[t.place.offset / 8 + i] = image_value(name, (uint32_t)t.tensor, t.box.off[0] + i);
}

void sim_image_witness(const struct sim_rank *r, const struct ckpt_name *name,
                       struct wire_full *full)
{
    const struct decl *d = &images[index_of(r)].decl;
    uint64_t words[PIECE_MAX];
    if (d->witness_count == 0)
        return;
    full->flags |= WIRE_FULL_WITNESS;
    full->witness = sim_rand(d->witness_count);
    struct decl_witness w = decl_witness_at(d, full->witness);
    for (uint64_t i = 0; i < w.box.len[0]; i++)
        words[i] = image_value(name, (uint32_t)w.tensor, w.box.off[0] + i);
    if (sim_chance(sim_faults.differs)) {
        struct sim_attempt *a = sim_attempt_find(name);
        sim_saw(SEEN_replicas_differ);
        words[0]++;
        if (a)
            a->bad = true;
    }
    struct digest digest = digest_of(words, w.bytes);
    memcpy(full->digest, digest.b, sizeof(full->digest));
}

uint32_t sim_image_check(const struct sim_rank *r, const uint64_t *slot,
                         const struct ckpt_name *name, const struct wire_frags *w,
                         const uint8_t *tail, size_t len)
{
    uint32_t bytes = 0;
    size_t at = 0;
    for (uint32_t i = 0; i < w->count; i++) {
        struct wire_frag f;
        uint64_t box[2];
        SIM_CHECK(len - at >= sizeof(f) + sizeof(box), "rank %u: a fragment is cut short", r->rank);
        memcpy(&f, tail + at, sizeof(f));
        memcpy(box, tail + at + sizeof(f), sizeof(box));
        at += sizeof(f) + sizeof(box);
        SIM_CHECK(f.ndim == 1 && f.tensor < TENSORS && box[0] + box[1] <= CELLS &&
                      f.offset % 8 == 0 && f.offset + 8 * box[1] <= sim_suite.slot_bytes,
                  "rank %u: a fragment makes no sense", r->rank);
        for (uint64_t k = 0; k < box[1]; k++)
            if (slot[f.offset / 8 + k] != image_value(name, f.tensor, box[0] + k))
                return UINT32_MAX;
        bytes += 8 * (uint32_t)box[1];
    }
    return bytes;
}
