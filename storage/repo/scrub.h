/* Verify: reads a checkpoint whole and checks every sum, digest, gap and link of the
 * chain.  Repair: puts good objects of one store in the place of bad ones of another. */
#pragma once

#include "storage/repo/load.h"

enum scrub_kind {
    SCRUB_MISSING, /* an object that must be there is not */
    SCRUB_DAMAGED, /* its bytes are not what they were */
    SCRUB_EXTRA,   /* under the attempt's keys but nobody refers to it */
    SCRUB_AWAITED, /* a pack that is not there, of a rank whose packs never all were: it is in
                      another tier, and a drain brings it */
};
struct scrub_finding {
    enum scrub_kind kind;
    char key[STORE_KEY_MAX + 1];
    char text[512]; /* what is wrong; names the tensor and box where there is one */
};
struct scrub_report {
    uint64_t objects, chunks, bytes; /* checked */
    uint64_t damaged, missing, extra, awaited, repaired;
    bool dropped; /* this store's copy was (rule D5): of its packs nothing is expected here */
};
/* progress may be NULL: called between packs with bytes done and total. */
struct scrub_callbacks {
    void (*finding)(void *arg, const struct scrub_finding *f);
    void (*progress)(void *arg, uint64_t done, uint64_t total);
    void *arg;
};
/* CKPT_OK: everything is right (EXTRA alone is right); CKPT_CORRUPT: findings were
 * reported; CKPT_BUSY: nothing is wrong, but not everything has arrived in this store
 * (AWAITED); anything else: could not be looked at. */
enum ckpt_status scrub_verify(struct store *s, const char *job, const struct ckpt_name *name,
                              uint64_t slot_bytes_max, const struct scrub_callbacks *cb,
                              struct scrub_report *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
/* Verifies `bad` and replaces each missing or damaged object by the one of `good`, if
 * that one checks.  Records (commit, manifests) included.  CKPT_CORRUPT if anything
 * could not be repaired. */
enum ckpt_status scrub_repair(struct store *bad, struct store *good, const char *job,
                              const struct ckpt_name *name, const struct scrub_callbacks *cb,
                              struct scrub_report *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
