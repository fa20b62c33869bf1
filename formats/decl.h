/* A rank's declared state: its tensors and where their pieces lie, declared once,
 * sealed once, saved many times, also the target of restore.
 *
 * Client and daemon hold the same declaration (it travels once, as bytes in a
 * write-sealed memfd) and derive everything else from it by arithmetic: which share
 * of each piece this rank writes, how it is cut into tiles, and in which slot at
 * which offset each tile lies.  So handing over a slot is one number.
 *
 *   tensor ─┬─ piece ── share (what this rank writes of it) ── tiles ── places
 *           └─ piece ...                                       └ chunk ordinal in rank
 */
#pragma once

#include "formats/cursor.h"
#include "formats/digest.h"
#include "formats/dtype.h"
#include "formats/image.h"
#include "formats/tile.h"

#ifndef DECL_CHUNKS_MAX                     /* a fuzzer has less time for numbering them */
#define DECL_CHUNKS_MAX (UINT32_C(1) << 24) /* tiles one rank writes: 64 TiB */
#endif
#define DECL_VERSION         1
#define DECL_PIECES_MAX      (UINT32_C(1) << 24) /* pieces of one rank */
#define DECL_SLOTS_MAX       (UINT32_C(1) << 21)
#define DECL_BYTES_MAX       (UINT64_C(1) << 50)  /* what one rank holds */
#define DECL_TABLE_BYTES_MAX (UINT64_C(60) << 20) /* one tensor's boxes in a manifest */
#define DECL_OBJECT_HEAD     8                    /* an object's length, in front of its bytes */

/* How a tensor may be cut on restore (G5). */
enum decl_kind {
    DECL_ELEMENTWISE = 0,
    DECL_BLOCKED = 1, /* cut only on borders of block[] */
    DECL_LOCKED = 2,  /* restored only as exactly the saved boxes */
};
enum decl_flags {
    DECL_OBJECT = 1,   /* opaque bytes: u8, 1-D: u64 length, the bytes, zeros to capacity */
    DECL_VOLATILE = 2, /* copied before save() returns (or before the stream goes on) */
    DECL_ALIAS = 4,    /* tied weights: no pieces, `alias` names the tensor that has the bytes */
    DECL_OPTIONAL = 8, /* restore: absent in the checkpoint is no error */
};

struct decl_piece {
    struct box box;                  /* global coordinates */
    uint64_t offset_bytes;           /* in the tensor's buffer on the client; local, not stored */
    int64_t stride[CKPT_DIMS_MAX];   /* elements; local, not stored */
    uint32_t replica, replica_count; /* r of R ranks that hold this box */
    size_t tensor;                   /* set by decl_add_piece */
    /* derived by decl_finish: */
    bool writes;
    struct box share; /* what this rank writes (layout_share); within box */
    uint64_t tile[CKPT_DIMS_MAX];
    uint64_t first_chunk, chunks; /* ordinals in this rank's sequence of chunks */
};
struct decl_tensor {
    char *name;  /* owned */
    char *alias; /* owned; NULL without DECL_ALIAS */
    uint8_t dtype;
    uint8_t kind;   /* enum decl_kind */
    uint16_t flags; /* enum decl_flags */
    uint32_t ndim;
    uint64_t shape[CKPT_DIMS_MAX];
    uint32_t block[CKPT_DIMS_MAX]; /* 0 = 1 */
    size_t first_piece, piece_count;
};
struct decl {
    struct decl_tensor *tensors; /* declaration order */
    size_t tensor_count, tensor_cap;
    struct decl_piece *pieces;
    size_t piece_count, piece_cap;
    /* derived by decl_finish: */
    uint64_t slot_bytes;
    uint64_t chunk_count, raw_bytes; /* what this rank writes */
    uint64_t hold_bytes;             /* what it holds, replicas included */
    uint64_t witness_count;          /* tiles that it holds and other replicas write */
    uint32_t slot_count;             /* slots of one save */
    struct decl_slot *slots;         /* slot_count of them */
    size_t *by_name;                 /* tensor ordinals sorted by name (bytes) */
    bool finished;
};
/* Where a slot's tiles start in the rank's sequence. */
struct decl_slot {
    uint64_t first_chunk;
    uint32_t chunks;
    uint64_t used; /* bytes */
    size_t piece;  /* piece and tile number of the first chunk */
    uint64_t tile;
};

void decl_fini(struct decl *d);
/* Adds a tensor (copied); pieces follow with decl_add_piece, for the last tensor
 * added.  Validates name, dtype, shape, kind, blocks, flags. */
enum ckpt_status decl_add_tensor(struct decl *d, const struct decl_tensor *t, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* The same from a description (desc.h). */
struct desc;
enum ckpt_status decl_add_desc(struct decl *d, const struct desc *desc, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* `p`: box, offset, strides, replica and replica_count are read. */
enum ckpt_status decl_add_piece(struct decl *d, const struct decl_piece *p, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* Validates the whole (duplicate names, aliases that exist and are not aliases
 * themselves, overlapping pieces within the rank, blocked cuts), derives shares,
 * tiles and places for slots of `slot_bytes`, sorts.  An empty declaration is legal. */
enum ckpt_status decl_finish(struct decl *d, uint64_t slot_bytes, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* Bytes for the other side: everything but local offsets and strides. */
void decl_encode(const struct decl *d, struct buf *out);
/* From hostile bytes; *ret is finished. */
enum ckpt_status decl_decode(const void *bytes, size_t len, uint64_t slot_bytes, struct decl *ret,
                             struct ckpt_err *err) CKPT_MUST_CHECK;
/* The tensor of that name, or NULL. */
const struct decl_tensor *decl_find(const struct decl *d, const char *name);
/* What replica number `replica` writes of a finished declaration's piece: with
 * another's number this says what that rank writes of the same box (G4).  Of a locked
 * tensor and of an object one replica writes the whole.  False if it writes nothing. */
bool decl_share(const struct decl_tensor *t, const struct decl_piece *p, uint32_t replica,
                struct box *ret);
/* One tile that this rank holds and another replica writes (not of objects): it digests one of them each
 * save, in turn, and the commit compares (G4). */
struct decl_witness {
    size_t tensor, piece;
    struct box box; /* global */
    uint32_t bytes;
};
/* Number i < witness_count of a finished declaration's. */
struct decl_witness decl_witness_at(const struct decl *d, uint64_t i);
/* What ranks must agree on (name, dtype, kind, shape, blocks, alias), as a digest: a
 * cheap first check between ranks and launches. */
struct digest decl_signature(const struct decl *d);

/* One tile of a rank's sequence. */
struct decl_tile {
    size_t tensor, piece;
    uint64_t chunk; /* ordinal in the rank */
    struct box box; /* global */
    uint32_t bytes;
    struct image_place place;
};
/* Walks the tiles of one slot in order:
 *     struct decl_walk w = decl_walk_slot(&d, slot);
 *     while (decl_walk_next(&w, &tile)) ... */
struct decl_walk {
    const struct decl *d;
    uint32_t slot, done;
    size_t piece;
    uint64_t tile, used;
};
struct decl_walk decl_walk_slot(const struct decl *d, uint32_t slot);
bool decl_walk_next(struct decl_walk *w, struct decl_tile *ret);
