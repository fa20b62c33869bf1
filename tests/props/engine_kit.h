/* Small models for tests of the engine: tensors whose every byte follows from name and
 * place, random layouts over ranks, and saving and restoring them through a store. */
#pragma once

#include "storage/repo/load.h"
#include "storage/repo/publish.h"
#include "storage/repo/save.h"

#include "check.h"

#define KIT_SLOT CKPT_SLOT_BYTES_MIN
#define KIT_JOB  "kit"

/* What saving and restoring take their own memory from, so that a test that fails the
 * engine's allocations can spare these. */
extern void *(*kit_calloc)(size_t count, size_t bytes);
extern void *(*kit_aligned)(size_t align, size_t bytes);

/* Goes into the bytes of all tensors, so that two saves can differ; 0 at start. */
extern uint64_t kit_salt;
/* The bytes of `box` (dense row-major) of the tensor called `name`: noise, but for names
 * that begin with z, which can be coded. */
void kit_bytes(const char *name, const uint64_t *shape, const struct box *box, unsigned bits,
               uint8_t *to);

struct kit_tensor {
    char name[40];
    char alias[40]; /* "" = none */
    unsigned dtype, kind, flags;
    uint32_t ndim;
    uint64_t shape[CKPT_DIMS_MAX];
    uint32_t block[CKPT_DIMS_MAX];
};
struct kit_model {
    struct kit_tensor tensors[16];
    size_t count;
};
/* What the random models and layouts were made of; a test shows that none is zero. */
struct kit_census {
    uint64_t whole, grid, flat, replicated, mesh, scattered; /* layouts */
    uint64_t large, scalar, empty, subbyte, blocked, locked, object, alias;
};
void kit_model_random(struct kit_model *m, unsigned long long *rand, struct kit_census *census);
/* One plain f32 tensor [rows, 16] called `name` is added. */
void kit_model_add(struct kit_model *m, const char *name, unsigned dtype, uint32_t ndim,
                   const uint64_t *shape);

/* A layout: one finished declaration a rank. */
struct kit_layout {
    struct decl *d;
    const struct decl **list;
    uint32_t world;
    /* Where the pieces lie, [rank][piece]: saved from and restored to.  NULL: kit_bytes makes them
     * up, and compares. */
    struct strided **at;
};
void kit_layout_random(struct kit_layout *l, const struct kit_model *m, uint32_t world,
                       unsigned long long *rand, struct kit_census *census);
/* Every tensor cut along dimension 0, as evenly as can be. */
void kit_layout_rows(struct kit_layout *l, const struct kit_model *m, uint32_t world);
void kit_layout_fini(struct kit_layout *l);

struct kit_save {
    struct ckpt_name name;
    struct save_codec codec;
    unsigned flags; /* MANIFEST_FLAG_* of rank 0 */
    bool has_parent;
    struct ckpt_name parent;
    const struct manifest_seen *seen; /* of rank seen_rank */
    size_t seen_count;
    uint32_t seen_rank;
    uint32_t per_node; /* ranks of a node, whose id begins with its number; 0: all are of one */
};
/* All parts of all ranks, without publishing. */
void kit_save_parts(struct store *s, const struct kit_layout *l, const struct kit_save *how);
/* One rank's part. */
enum ckpt_status kit_save_part(struct store *s, const struct kit_layout *l, uint32_t rank,
                               const struct kit_save *how, struct ckpt_err *err);
void kit_header(struct manifest_header *h, const struct kit_layout *l, uint32_t rank,
                const struct kit_save *how);
/* Plans for all ranks of the layout at once, loads, lays out and compares every byte.
 * On an error nothing was found wrong; wrong bytes fail the test. */
enum ckpt_status kit_restore(struct store *const *tiers, size_t tier_count,
                             const struct ckpt_name *name, const struct kit_layout *l,
                             struct load_stats *stats, struct ckpt_err *err);
struct store *kit_store(const char *url);
/* Removes all objects of a store that is done with, and closes it: those in memory would stay. */
void kit_store_drop(struct store *s);
