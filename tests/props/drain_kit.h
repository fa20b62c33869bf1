/* For tests of drains: a store that remembers every put, and a drain driven by hand, one
 * step behind the other as ckptd's drainer would ask for them. */
#pragma once

#include "props/engine_kit.h"
#include "storage/repo/drain.h"
#include "storage/store/wrap.h"
#include "storage/store/wrap_pass.h"

#define TALLY_KEYS 4096

/* What was put through it, by key.  Checks that no record is put before what it vouches for
 * is named for good. */
struct tally {
    struct tally_key {
        char key[STORE_KEY_MAX + 1];
        uint64_t puts, bytes;
        bool named; /* for good */
    } * keys;
    size_t count;
    uint64_t puts, bytes;
    /* Called before each put, if not NULL. */
    void (*before_put)(void *arg, const char *key);
    void *arg;
};
struct store *tally_over(struct store *inner, struct tally *t);
void tally_fini(struct tally *t);
/* Keys that hold this text and were put more often than `most` times. */
size_t tally_more(const struct tally *t, const char *match, uint64_t most);
bool tally_is_pack(const char *key);

struct drain_kit {
    struct drain d;
    struct drain_work *w;
    struct drain_wait wait; /* of the last step; zeros: it was not there before */
    uint64_t packs;         /* put by this drive */
    int64_t steps;          /* that may still be done; then the drive ends with CKPT_CANCELLED */
};
void drain_kit_init(struct drain_kit *k, struct store *from, struct store *to,
                    const struct ckpt_name *name);
void drain_kit_fini(struct drain_kit *k);
/* All steps of one checkpoint, up to the first that does not succeed. */
enum ckpt_status drain_kit_drive(struct drain_kit *k, struct ckpt_err *err);
/* Everything is there, by every sum. */
enum ckpt_status drain_kit_verify(struct store *s, const char *job, const struct ckpt_name *name);
