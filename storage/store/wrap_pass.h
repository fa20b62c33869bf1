/* What every wrapper is made of: a store, the store under it, and operations that
 * only pass the call on (with the limits of the handle above).  For wrappers. */
#pragma once

#include "storage/store/store_impl.h"

/* First member of every wrapper's struct. */
struct wrap {
    struct store base;
    struct store *inner;
};

/* Allocates `bytes` (>= sizeof(struct wrap), zeroed); takes `inner` on success. */
enum ckpt_status wrap_new(size_t bytes, const struct store_ops *ops, struct store *inner,
                          struct wrap **ret, struct ckpt_err *err) CKPT_MUST_CHECK;
/* The store below, with the deadline and cancel flag of `s`. */
struct store *wrap_inner(struct store *s);

enum ckpt_status wrap_pass_put(struct store *s, const char *key, const struct iovec *iov, int count,
                               unsigned flags, struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status wrap_pass_get(struct store *s, const char *key, const struct store_range *ranges,
                               size_t count, struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status wrap_pass_get_all(struct store *s, const char *key, size_t max, void **ret,
                                   size_t *ret_len, struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status wrap_pass_stat(struct store *s, const char *key, struct store_stat *ret,
                                struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status wrap_pass_list(struct store *s, const char *prefix, bool one_level,
                                const char *after, struct store_entry *entries, size_t cap,
                                size_t *ret_count, bool *ret_more, struct ckpt_err *err)
    CKPT_MUST_CHECK;
enum ckpt_status wrap_pass_remove(struct store *s, const char *key, struct ckpt_err *err)
    CKPT_MUST_CHECK;
enum ckpt_status wrap_pass_sync(struct store *s, const char *prefix, struct ckpt_err *err)
    CKPT_MUST_CHECK;
enum ckpt_status wrap_pass_now(struct store *s, int64_t *ret_ns, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* "<scheme> over <inner>" */
void wrap_pass_to_text(const struct store *s, char *buf, size_t cap);
void wrap_pass_close(struct store *s);
