/* Running a batch of a plan: one vectored get, decode, check, lay out.
 * A stored chunk that one consumer wants whole goes straight into its slot; others are
 * read into working memory, decoded once and copied to each consumer.  A chunk whose
 * bytes do not check: the head is reread once, then the next tier is asked (rule S2);
 * wrong bytes never come out. */
#pragma once

#include "formats/codec.h"
#include "storage/repo/plan.h"

/* Working memory of one crew thread. */
struct load_work;
struct load_work *load_work_new(uint64_t slot_bytes);
void load_work_free(struct load_work *w);

struct load_stats {
    uint64_t read_bytes;   /* asked of stores, heads included */
    uint64_t raw_bytes;    /* decoded */
    uint64_t retries;      /* chunks that came from a later tier or a second read */
    uint32_t damaged_tier; /* bit i: tier i had a bad or missing copy */
    uint32_t away_tier;    /* bit i: tier i could not be reached */
};
/* slots[i]: memory of uses[i]'s slot, with room for slot_used rounded up to 4 KiB.  tiers: this thread's own handles, nearest first
 * (same places as the reader's).  CKPT_CORRUPT: no tier has the right bytes; names
 * tensor, box and object.  CKPT_IO: no tier has the object at all (absent is not bad).  Adds to *stats. */
enum ckpt_status load_batch(struct load_work *w, struct store *const *tiers, size_t tier_count,
                            const char *job, const struct ckpt_name *name,
                            const struct plan_batch *batch, void *const *slots,
                            struct load_stats *stats, struct ckpt_err *err) CKPT_MUST_CHECK;
/* The bytes that load_batch would ask of this tier if all is sound there; reads the pack's
 * head and nothing else.  slots: addresses alone, nothing is written to them. */
enum ckpt_status load_measure(struct load_work *w, struct store *s, const char *job,
                              const struct ckpt_name *name, const struct plan_batch *batch,
                              void *const *slots, uint64_t *ret_bytes, struct ckpt_err *err)
    CKPT_MUST_CHECK;
