/* A job's records, put as launches, ranks and committers put them: for the tests of
 * launches, life and catalog.  Every call must succeed. */
#pragma once

#include <inttypes.h>

#include "formats/manifest.h"
#include "storage/repo/launch.h"
#include "storage/repo/repo.h"
#include "storage/repo/save.h"

#include "check.h"

#define FX_JOB   "run-1"
#define FX_WORLD 2

static inline struct store *fx_open(void)
{
    static int number;
    char url[64];
    struct store *s;
    snprintf(url, sizeof(url), "mem://history-%d-%d", (int)getpid(), number++);
    CHECK_OK(store_open(url, NULL, &s, NULL));
    return s;
}

static inline struct ckpt_name fx_name(uint64_t epoch, uint64_t step)
{
    return (struct ckpt_name){ .epoch = epoch,
                               .step = step,
                               .attempt = attempt_of(FX_JOB, epoch, FX_WORLD, step, 0) };
}

static inline void fx_put(struct store *s, struct key key, struct buf *b)
{
    CHECK(!b->failed);
    CHECK_OK(store_put_record(s, key.text, b->data, b->len, NULL));
    buf_fini(b);
}

static inline bool fx_there(struct store *s, struct key key)
{
    struct store_stat stat;
    enum ckpt_status st = store_stat(s, key.text, &stat, NULL);
    CHECK(st == CKPT_OK || st == CKPT_NOT_FOUND);
    return st == CKPT_OK;
}

static inline struct key fx_pack_key(const struct ckpt_name *name, uint32_t rank)
{
    struct digest id = { { (uint8_t)name->step, (uint8_t)rank } };
    return key_pack(FX_JOB, name, rank, 0, &id);
}

/* One rank's part of a checkpoint without tensors; a pack stands for its data. */
static inline enum ckpt_status fx_part(struct store *s, const struct ckpt_name *name, uint32_t rank,
                                       bool failed, struct ckpt_err *err)
{
    struct decl d = { 0 };
    struct manifest_header h = { .name = *name, .rank = rank, .world = FX_WORLD };
    snprintf(h.job, sizeof(h.job), "%s", FX_JOB);
    char data[4] = "data";
    struct iovec iov = { data, sizeof(data) };
    enum ckpt_status st = store_put(s, fx_pack_key(name, rank).text, &iov, 1, 0, err);
    if (st != CKPT_OK)
        return st;
    if (failed) {
        h.flags = MANIFEST_FLAG_FAILED;
        h.fail_status = CKPT_FULL;
        snprintf(h.fail_text, sizeof(h.fail_text), "disk full");
        return save_failed(s, &h, err);
    }
    st = decl_finish(&d, CKPT_SLOT_BYTES, err);
    if (st == CKPT_OK)
        st = save_finish(s, &h, &(struct manifest_source){ .d = &d }, 100 + rank, err);
    decl_fini(&d);
    return st;
}

static inline void fx_parts(struct store *s, const struct ckpt_name *name)
{
    for (uint32_t rank = 0; rank < FX_WORLD; rank++)
        CHECK_OK(fx_part(s, name, rank, false, NULL));
}

/* A whole checkpoint, by its records alone. */
static inline struct ckpt_name fx_commit(struct store *s, uint64_t epoch, uint64_t step)
{
    struct ckpt_name name = fx_name(epoch, step);
    struct record_commit c = { .name = name, .world = FX_WORLD, .raw_bytes = 1000 * step };
    struct record_held h = { .name = name, .world = FX_WORLD, .stored_bytes = 201 };
    struct buf b = { 0 };
    fx_parts(s, &name);
    record_commit_encode(&c, key_commit(FX_JOB, &name).text, &b);
    fx_put(s, key_commit(FX_JOB, &name), &b);
    record_held_encode(&h, key_held(FX_JOB, &name).text, &b);
    fx_put(s, key_held(FX_JOB, &name), &b);
    return name;
}

static inline void fx_tag(struct store *s, const struct ckpt_name *name, const char *tag,
                          uint64_t n, bool set)
{
    struct record_tag t = { .set = set };
    struct key key = key_tag(FX_JOB, name, tag, n);
    struct buf b = { 0 };
    snprintf(t.tag, sizeof(t.tag), "%s", tag);
    record_tag_encode(&t, key.text, &b);
    fx_put(s, key, &b);
}

static inline void fx_life(struct store *s, const struct ckpt_name *name, uint64_t n,
                           enum life life, int64_t time_ns)
{
    struct record_life r = { .life = life, .time_ns = time_ns };
    struct key key = key_life(FX_JOB, name, false, n);
    struct buf b = { 0 };
    record_life_encode(&r, key.text, &b);
    fx_put(s, key, &b);
}

/* A launch that claims the next epoch and resolves; returns the epoch. */
static inline uint64_t fx_resolve(struct store *s, const char *token)
{
    struct launch_who who = { .job = FX_JOB, .token = token, .world = FX_WORLD };
    struct lineage_wish wish = { 0 };
    struct record_resolved r;
    uint64_t epoch;
    CHECK_OK(launch_claim(s, &who, &epoch, NULL));
    CHECK_OK(launch_resolve(s, FX_JOB, epoch, &wish, &r, NULL));
    record_resolved_fini(&r);
    return epoch;
}
