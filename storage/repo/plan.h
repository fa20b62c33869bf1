/* From what is wanted to what is read: box ∩ box, nothing else (rules G2, G6).
 *
 * Consumers (the ranks of one node, or one reader) say what they hold as finished
 * declarations.  The plan is a list of batches; a batch is some chunks of one pack
 * and, for each consumer that needs any of them, the fragments (dense boxes) to be
 * laid into one slot of that consumer.  Each chunk is read and decoded once for all
 * consumers.  Whoever runs a batch first reserves a slot for each of its consumers.
 * Batches come in order of packs, chunks in order of place, so reads are sequential. */
#pragma once

#include "formats/decl.h"
#include "formats/select.h"
#include "storage/repo/reader.h"

struct plan_frag {
    uint32_t consumer;      /* which decl */
    uint32_t tensor, piece; /* ordinals: tensor in the decl, piece within the tensor */
    uint8_t dtype;          /* of the bytes, when it is not the consumer's; else 0 */
    uint64_t slot_offset;   /* where the dense common box starts in the consumer's slot */
    struct box common;      /* global coordinates, of the saved tensor */
};
struct plan_chunk {
    uint32_t index; /* number in the pack */
    uint32_t raw_bytes;
    uint32_t bits; /* of the dtype */
    struct digest digest;
    struct box tile;
    uint32_t first_frag, frag_count; /* in the batch */
    const char *tensor;              /* name, for messages; borrowed from the reader */
};
struct plan_batch {
    uint32_t rank; /* who wrote the pack */
    struct manifest_pack pack;
    uint32_t chunk_count, frag_count, use_count;
    struct plan_chunk *chunks;
    struct plan_frag *frags; /* grouped by chunk */
    struct plan_use {        /* consumers of this batch, each once, ascending */
        uint32_t consumer;
        uint64_t slot_used; /* bytes of its slot */
    } * uses;
};
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
 * was saved with other bytes than its target is CKPT_MISMATCH, unless PLAN_PARTIAL.
 * Tensors that the patterns leave out are not looked at.  Two saved names that become one
 * that is asked for: CKPT_INVALID.  With PLAN_CONVERT fragments are of the saved dtype. */
enum ckpt_status plan_make(struct reader *r, const struct plan_ask *ask, struct plan **ret,
                           struct ckpt_err *err) CKPT_MUST_CHECK;
/* The same for everything under its own name. */
enum ckpt_status plan_new(struct reader *r, const struct decl *const *consumers, size_t count,
                          uint64_t slot_bytes, unsigned flags, struct plan **ret,
                          struct ckpt_err *err) CKPT_MUST_CHECK;
void plan_free(struct plan *p);
