/* Layout files: rules that somebody wrote, over a few tensors of every kind.  What is
 * accepted deals every element to somebody at most once. */
#include "formats/decl.h"
#include "formats/topology.h"
#include "fuzz/fuzz.h"

#define PIECES_MAX 256
#define RANKS_MAX  64

static const uint64_t matrix[2] = { 10, 6 }, stack[3] = { 4, 5, 3 }, vector[1] = { 7 };
static const struct topology_tensor tensors[] = {
    { .name = "w.layers.1.q_proj", .dtype = CKPT_DTYPE_F32, .ndim = 2, .shape = matrix },
    { .name = "w.layers.0.experts", .dtype = CKPT_DTYPE_BF16, .ndim = 3, .shape = stack },
    { .name = "adamw.norm", .dtype = CKPT_DTYPE_F32, .ndim = 1, .shape = vector },
    { .name = "experts.2.w1", .dtype = CKPT_DTYPE_U8, .ndim = 2, .shape = matrix },
    { .name = "step", .dtype = CKPT_DTYPE_I64, .shape = vector },
    { .name = "rng@1", .dtype = CKPT_DTYPE_U8, .object = true, .ndim = 1, .shape = vector },
};

/* Pieces lie in the shape and in the rank's array. */
static uint64_t check_rank(const struct topology *t, size_t i, uint32_t rank)
{
    static struct layout_piece pieces[PIECES_MAX];
    struct layout_out out = { .piece = pieces, .cap = PIECES_MAX };
    struct topology_shard s;
    struct ckpt_err err = { 0 };
    uint64_t mine = 0;
    if (topology_pieces(t, i, rank, &out, &s, &err) != CKPT_OK) {
        FUZZ_CHECK(err.text[0]);
        return 0;
    }
    struct box room = box_whole(s.ndim, s.shape),
               whole = box_whole(tensors[i].ndim, tensors[i].shape);
    uint64_t bytes = box_volume(&room) * dtype_bits(tensors[i].dtype) / 8;
    FUZZ_CHECK(s.held || out.count == 0);
    for (size_t k = 0; k < out.count; k++) {
        FUZZ_CHECK(box_contains(&whole, &pieces[k].box) && box_volume(&pieces[k].box) > 0);
        FUZZ_CHECK(pieces[k].offset_bytes < bytes && pieces[k].replica < pieces[k].replica_count);
        mine += pieces[k].replica == 0 ? box_volume(&pieces[k].box) : 0;
    }
    return mine;
}

void fuzz_one(const uint8_t *bytes, size_t len)
{
    struct topology_source from = { .file = "file",
                                    .rules = (const char *)bytes,
                                    .rules_len = len };
    struct topology *t = NULL;
    struct ckpt_err err = { 0 };
    if (topology_new(&from, tensors, ARRAY_COUNT(tensors), &t, &err) != CKPT_OK) {
        FUZZ_CHECK(err.text[0] && !t);
        return;
    }
    uint32_t world = topology_mesh(t)->world;
    for (size_t i = 0; i < ARRAY_COUNT(tensors) && world <= RANKS_MAX; i++) {
        struct box whole = box_whole(tensors[i].ndim, tensors[i].shape);
        uint64_t dealt = 0;
        uint32_t holder;
        char text[64];
        for (uint32_t rank = 0; rank < world; rank++)
            dealt += check_rank(t, i, rank);
        FUZZ_CHECK(dealt <= box_volume(&whole));
        FUZZ_CHECK(topology_holder(t, i, &holder) || dealt == 0);
        fuzz_touch(topology_to_text(t, i, text, sizeof(text)), strlen(text));
    }
    topology_free(t);
}

/* There is no sum to make right; a line that is missing is what keeps most inputs out. */
void fuzz_fix(uint8_t *bytes, size_t len)
{
    static const char mesh[] = "mesh tp=2,pp=2\n";
    if (len >= sizeof(mesh))
        memcpy(bytes, mesh, sizeof(mesh) - 1);
}
