/* From what is wanted to what is read: box ∩ box, nothing else (rules G2, G6).
 *
 * Consumers (the ranks of one node, or one reader) say what they hold as finished
 * declarations.  The plan is a list of batches; a batch is some chunks of one pack
 * and, for each consumer that needs any of them, the fragments (dense boxes) to be
 * laid into one slot of that consumer.  Each chunk is read and decoded once for all
 * consumers.  Whoever runs a batch first reserves a slot for each of its consumers.
 * Batches come in order of packs, chunks in order of place, so reads are sequential.
 *
 * A node that takes its ranks of a large job has millions of fragments, so what follows by
 * arithmetic is not kept: a fragment is where tile and piece meet (plan_iter). */
#pragma once

#include "formats/decl.h"
#include "formats/select.h"
#include "storage/repo/reader.h"

struct plan_part {                    /* a piece that is asked for, and what has its bytes */
    const struct index_tensor *saved; /* borrowed from the reader */
    uint32_t consumer;                /* which decl */
    uint32_t tensor, piece;           /* ordinals: tensor in the decl, piece within the tensor */
    uint8_t dtype;                    /* of the bytes, when it is not the consumer's; else 0 */
    struct box box;                   /* the piece */
};
struct plan_frag {
    uint32_t part;        /* which */
    uint32_t slot_offset; /* where the dense common box starts in the consumer's slot */
};
struct plan_chunk {
    struct digest digest;
    uint32_t index; /* number in the pack */
    uint32_t raw_bytes;
    uint32_t first_frag, frag_count; /* in the batch; one at least */
    uint32_t tile;                   /* where its box stands among the words of the batch */
};
struct plan_batch {
    uint32_t rank; /* who wrote the pack */
    struct manifest_pack pack;
    uint32_t chunk_count, frag_count, use_count, word_count;
    struct plan_chunk *chunks;
    struct plan_frag *frags;       /* grouped by chunk, of which each has one tensor */
    const struct plan_part *parts; /* of the whole plan */
    uint64_t *words;               /* per chunk: offsets of its tile, then lengths */
    struct plan_use {              /* consumers of this batch, each once, ascending */
        uint32_t consumer;
        uint64_t slot_used; /* bytes of its slot */
    } * uses;
};
/* The tile that a chunk has the bytes of, and whose: global coordinates of that tensor. */
struct box plan_tile(const struct plan_batch *b, const struct plan_chunk *c);
const struct index_tensor *plan_saved(const struct plan_batch *b, const struct plan_chunk *c);
/* Visits the fragments of a batch, chunk by chunk: of one consumer, or of all:
 *     struct plan_iter it = plan_iter_init(b, PLAN_ALL);
 *     while (plan_iter_next(&it)) ... it.part, it.slot_offset, it.common */
#define PLAN_ALL UINT32_MAX
struct plan_iter {
    const struct plan_batch *batch;
    uint32_t consumer;
    uint32_t chunk, frag; /* the next one */
    const struct plan_part *part;
    uint32_t slot_offset;
    struct box common; /* what lies there, dense: global coordinates */
};
struct plan_iter plan_iter_init(const struct plan_batch *b, uint32_t consumer);
bool plan_iter_next(struct plan_iter *it);

struct plan_gap { /* a declared tensor that the checkpoint does not have */
    uint32_t consumer, tensor;
};
struct plan_note { /* a declared tensor that was saved under another name or dtype */
    uint32_t consumer, tensor;
    const struct index_tensor *saved; /* borrowed from the reader */
};
struct plan {
    struct plan_batch *batches;
    size_t batch_count;
    struct plan_part *parts; /* by name of what was saved, then consumer, tensor, piece */
    size_t part_count;
    uint64_t *consumer_bytes; /* fragment bytes, per consumer */
    uint64_t read_bytes;      /* raw bytes of all chunks, each once */
    uint32_t manifests_hit;
    struct plan_gap *gaps; /* OPTIONAL or PLAN_PARTIAL only; otherwise planning fails */
    size_t gap_count;
    struct plan_note *notes; /* as gaps: rising by consumer and tensor */
    size_t note_count;
    char **unasked; /* tensors of the checkpoint that no consumer asked for (not aliases) */
    size_t unasked_count;
};
enum plan_flags {
    PLAN_PARTIAL = 1,    /* missing tensors become gaps */
    PLAN_NO_UNASKED = 2, /* do not compute `unasked` */
    PLAN_CONVERT = 4,    /* other floating-point types are read: the consumer converts */
};
struct plan_ask {
    const struct decl *const *consumers;
    size_t count;
    uint64_t slot_bytes;
    unsigned flags;              /* enum plan_flags */
    const struct select *select; /* what of it, under which names; NULL = all */
    const uint32_t *ranks;       /* the consumers', for messages; may be NULL */
};
/* slot_bytes: of the consumers' slots; every fragment fits into one (<= 4 MiB each).
 * CKPT_NOT_FOUND names the tensor; CKPT_MISMATCH names tensor, both dtypes or shapes;
 * CKPT_COVER cannot happen on a committed checkpoint (it is CORRUPT then). Kind LOCKED:
 * only exactly the saved boxes, else CKPT_REFUSED.  A tensor that was saved as an alias
 * takes its bytes from the saved target.  A declared alias has no memory of its own; that it
 * was saved with other bytes than its target is CKPT_MISMATCH, with PLAN_PARTIAL too.
 * Tensors that the patterns leave out are not looked at; an alias that they take without its
 * target, which has the memory, is CKPT_INVALID.  Two saved names that become one
 * that is asked for: CKPT_INVALID.  With PLAN_CONVERT fragments are of the saved dtype. */
enum ckpt_status plan_make(struct reader *r, const struct plan_ask *ask, struct plan **ret,
                           struct ckpt_err *err) CKPT_MUST_CHECK;
/* The same for everything under its own name. */
enum ckpt_status plan_new(struct reader *r, const struct decl *const *consumers, size_t count,
                          uint64_t slot_bytes, unsigned flags, struct plan **ret,
                          struct ckpt_err *err) CKPT_MUST_CHECK;
void plan_free(struct plan *p);
