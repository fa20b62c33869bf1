/* Random cases of the layout matrix: a model, and two layouts of it with memories; written down
 * in words for the oracle. */
#pragma once

#include "props/matrix/model_topology.h"

#define MATRIX_TENSORS 12
#define MATRIX_RANKS   16
#define MATRIX_BLOBS   (2 * MATRIX_TENSORS)
#define MATRIX_FILL    0xa5 /* what no restore touches stays this */

/* X(name, words): what must have occurred */
#define MATRIX_CENSUS(X)                                     \
    X(TP, "tensor parallel")                                 \
    X(PP, "pipeline, layers split")                          \
    X(STACK, "pipeline, prepended layer axis")               \
    X(VP, "virtual pipeline, layers split")                  \
    X(VP_STACK, "virtual pipeline, prepended layer axis")    \
    X(PP_INNER, "stages interleaved with ranks")             \
    X(DATA, "data parallel")                                 \
    X(HYBRID, "data parallel, replicas of shards")           \
    X(EP, "expert parallel, expert axis")                    \
    X(EP_ONE, "expert parallel, a tensor an expert")         \
    X(ETP, "expert and tensor parallel")                     \
    X(ZERO_1, "ZeRO stage 1")                                \
    X(ZERO_2, "ZeRO stage 2")                                \
    X(ZERO_3, "ZeRO stage 3")                                \
    X(ZERO_EXPERTS, "ZeRO over expert replicas")             \
    X(BOX, "shared out in boxes")                            \
    X(FLAT, "shared out flat, each tensor")                  \
    X(BUCKET, "shared out flat, one buffer of many tensors") \
    X(BUCKET_GAP, "... with gaps and padding")               \
    X(STRIDED, "FSDP2 over TP (strided shard)")              \
    X(STRIDED_UNEVEN, "... that does not divide")            \
    X(FUSED, "fused groups under TP")                        \
    X(FUSED_FLAT, "fused groups under TP, shared out flat")  \
    X(VOCAB, "padded vocabulary")                            \
    X(REPLICAS, "replicated")                                \
    X(SHARES, "replicas of 8 MiB or more (shares)")          \
    X(TILES, "a piece of several tiles")                     \
    X(UNEVEN, "uneven shards")                               \
    X(EMPTY_SHARD, "empty shards")                           \
    X(EMPTY, "empty tensors")                                \
    X(SCALAR, "0-d tensors")                                 \
    X(IDLE, "ranks with nothing")                            \
    X(OMITTED, "tensors not declared where not held")        \
    X(TIED, "tied weights")                                  \
    X(UNTIED, "tied weights restored as their own")          \
    X(BLOCKED, "blocked scales")                             \
    X(BLOCKED_CUT, "blocked scales, cut")                    \
    X(LOCKED, "locked")                                      \
    X(LOCKED_COPIES, "locked, several copies")               \
    X(SUB_BYTE, "sub-byte, cut")                             \
    X(FP8, "fp8, cut")                                       \
    X(TURNED_FROM, "saved from transposed memory")           \
    X(TURNED_TO, "restored to transposed memory")            \
    X(GAPS_FROM, "saved from memory with gaps")              \
    X(GAPS_TO, "restored to memory with gaps")               \
    X(BACKWARDS, "saved from negative strides")              \
    X(WIDE, "saved from stride 0")                           \
    X(UNALIGNED, "memory off its alignment")                 \
    X(GROWN, "to more ranks")                                \
    X(SHRUNK, "to fewer ranks")                              \
    X(EQUAL, "to as many ranks")
enum matrix_census_item {
#define X(name, words) MATRIX_##name,
    MATRIX_CENSUS(X)
#undef X
        MATRIX_ITEMS
};
struct matrix_census {
    unsigned long long item[MATRIX_ITEMS];
    unsigned long long dims[CKPT_MAX_DIMS + 1], dtypes[CKPT_I4 + 1];
};
/* Prints the tables; fails the test if `complete` and a field is zero. */
void matrix_census_check(const struct matrix_census *c, bool complete);

struct matrix_model {
    struct topo_tensor tensor[MATRIX_TENSORS];
    size_t count;
};
/* A layout of a model in one role, saved from or restored to, with what follows from it. */
struct matrix_side {
    struct topo topo;
    uint32_t world;
    struct topo_tensor tensor[MATRIX_TENSORS]; /* the model's; one that was tied need not be */
    struct topo_memory memory[MATRIX_TENSORS];
    struct topo_hold (*hold)[MATRIX_TENSORS]; /* [world] */
    size_t blobs[MATRIX_RANKS];
    uint64_t bytes[MATRIX_RANKS][MATRIX_BLOBS];
    uint8_t *memories;                         /* all, one behind the other */
    uint8_t *blob[MATRIX_RANKS][MATRIX_BLOBS]; /* in `memories` */
    uint64_t total;
};
/* large: one tensor has more than 8 MiB.  ranks_max: <= MATRIX_RANKS.  Memories are shared with
 * processes that are forked. */
void matrix_model_random(struct matrix_model *m, bool large, unsigned long long *rand);
void matrix_topo_random(struct topo *o, uint32_t ranks_max, unsigned long long *rand);
void matrix_side_init(struct matrix_side *s, const struct matrix_model *m, const struct topo *o,
                      bool restore, unsigned long long *rand);
/* To save from what lies as it is restored to: one declaration serves both. */
void matrix_side_like(struct matrix_side *s, const struct matrix_model *m,
                      const struct matrix_side *restored);
void matrix_side_fini(struct matrix_side *s);
void matrix_count(const struct matrix_model *m, const struct matrix_side *from,
                  const struct matrix_side *to, struct matrix_census *c);
/* True if the rank says nothing of the tensor, because it holds nothing of it. */
bool matrix_omits(const struct matrix_side *s, size_t count, uint32_t rank, size_t tensor);

/* The oracle: a process at two pipes. */
struct matrix_oracle {
    pid_t pid;
    FILE *to, *from;
};
void matrix_oracle_start(struct matrix_oracle *o);
void matrix_oracle_end(struct matrix_oracle *o);
/* The case in its words. */
void matrix_say(FILE *f, size_t tensors, const struct matrix_side *from,
                const struct matrix_side *to);
/* Tells it the case and fills from->memories. */
void matrix_oracle_make(struct matrix_oracle *o, unsigned long long id, unsigned long long seed,
                        size_t tensors, struct matrix_side *from, const struct matrix_side *to);
/* True if to->memories are what they must be; otherwise it has said what is not. */
bool matrix_oracle_check(struct matrix_oracle *o, unsigned long long id,
                         const struct matrix_side *to);
