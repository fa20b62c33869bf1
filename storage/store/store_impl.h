/* What store.c shares with backends and wrappers: the parsed URL, the openers of
 * the table, and the first member of every store.  Users include store.h. */
#pragma once

#include "storage/store/store.h"

/* A URL taken apart; all strings are borrowed from store_open. */
struct store_url {
    const char *text;  /* as given */
    const char *path;  /* dir: the directory; mem: the name; others: host and path */
    const char *query; /* after '?', or NULL */
    bool shared;
};

enum ckpt_status store_dir_open(const struct store_url *url, const struct store_options *options,
                                struct store **ret, struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status store_mem_open(const struct store_url *url, const struct store_options *options,
                                struct store **ret, struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status store_s3_open(const struct store_url *url, const struct store_options *options,
                               struct store **ret, struct ckpt_err *err) CKPT_MUST_CHECK;

/* Fills the first member; copies `url`.  store_base_fini frees what it took. */
enum ckpt_status store_base_init(struct store *s, const struct store_ops *ops, const char *url,
                                 struct ckpt_err *err) CKPT_MUST_CHECK;
void store_base_fini(struct store *s);
/* CKPT_CANCELLED, CKPT_TIMEOUT or CKPT_OK, by the handle's limits. */
enum ckpt_status store_check(const struct store *s, const char *what, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* CKPT_CORRUPT: the object under `key` has `bytes`, more than store_get_all's `max`. */
enum ckpt_status store_too_long(const struct store *s, const char *key, uint64_t bytes, size_t max,
                                struct ckpt_err *err) CKPT_MUST_CHECK;
/* Sum of the lengths; UINT64_MAX when it does not fit. */
uint64_t store_iov_bytes(const struct iovec *iov, int count);
/* Compares `bytes` at stream position `offset` of iov with `data`. */
bool store_iov_equal(const struct iovec *iov, int count, uint64_t offset, const void *data,
                     size_t bytes);
