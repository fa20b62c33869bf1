/* A store: a place that keeps whole, bounded objects under keys.
 *
 * Everything is written once and whole; a name once seen is complete (rule S1).
 *   plain put      packs, repairs: replaces atomically; durable on return, *named for
 *                  good* only after store_sync of a prefix above it.
 *   IF_ABSENT put  records, manifests, index: durable and named on return; if the key
 *                  exists: equal bytes = success, other bytes = CKPT_CONFLICT.
 *                  CKPT_EXISTS is no store's answer: those above say it, who have looked.
 * One thread per handle (no locks in backends); a handle carries the deadline and
 * the cancel flag of the operation under way.  Memory is borrowed until return.
 * Wrappers are stores over stores.  A new backend is one file and one row in
 * store.c. */
#pragma once

#include <stdatomic.h>
#include <sys/uio.h>

#include "formats/base.h"

#define STORE_KEY_MAX    1024 /* bytes, without NUL; '/'-separated, no empty part, no "." or ".." */
#define STORE_PART_MAX   255  /* bytes between two '/'; a first part ".tmp" is reserved */
#define STORE_RANGES_MAX 16384
#define STORE_OBJECT_MAX (UINT64_C(5) << 30)

enum store_flags {
    STORE_IF_ABSENT = 1,
    STORE_DIRECT_HINT = 2, /* iov bases, and all lengths but the last, are multiples of 4 KiB */
};

/* n bytes of an object from `offset`, to `base` (borrowed until return). */
struct store_range {
    uint64_t offset;
    uint64_t bytes;
    void *base;
};
struct store_stat {
    uint64_t bytes;
    int64_t mtime_ns; /* the store's clock */
};
struct store_entry {
    char key[STORE_KEY_MAX + 1];
    struct store_stat stat; /* bytes == UINT64_MAX: a common prefix ("directory") */
};

struct store;

/* What every backend and wrapper implements; callers use store_*() below. */
struct store_ops {
    const char *scheme;
    enum ckpt_status (*put)(struct store *s, const char *key, const struct iovec *iov, int count,
                            unsigned flags, struct ckpt_err *err);
    enum ckpt_status (*get)(struct store *s, const char *key, const struct store_range *ranges,
                            size_t count, struct ckpt_err *err);
    /* May be NULL: then it is a stat and a get. */
    enum ckpt_status (*get_all)(struct store *s, const char *key, size_t max, void **ret,
                                size_t *ret_len, struct ckpt_err *err);
    enum ckpt_status (*stat)(struct store *s, const char *key, struct store_stat *ret,
                             struct ckpt_err *err);
    enum ckpt_status (*list)(struct store *s, const char *prefix, bool one_level, const char *after,
                             struct store_entry *entries, size_t cap, size_t *ret_count,
                             bool *ret_more, struct ckpt_err *err);
    enum ckpt_status (*remove)(struct store *s, const char *key, struct ckpt_err *err);
    enum ckpt_status (*sync)(struct store *s, const char *prefix, struct ckpt_err *err);
    enum ckpt_status (*now)(struct store *s, int64_t *ret_ns, struct ckpt_err *err);
    enum ckpt_status (*dup)(const struct store *s, struct store **ret, struct ckpt_err *err);
    void (*to_text)(const struct store *s, char *buf, size_t cap);
    void (*close)(struct store *s);
};

/* First member of every backend's struct. */
struct store {
    const struct store_ops *ops;
    char *url;                 /* as given, for messages */
    int64_t deadline_ns;       /* CLOCK_MONOTONIC; 0 = none */
    const atomic_bool *cancel; /* NULL = none; when true the operation ends with CKPT_CANCELLED */
    bool readonly;             /* store_*() refuse every write with CKPT_DENIED */
    bool racy; /* two that put one key if absent at the same moment may both be told that they were
                  first: the server cannot say better; known after the first such put */
};

struct store_options {
    const char *io;   /* "auto" (default), "uring", "threads" */
    const char *node; /* uuid, part of temporary names; NULL = pid and random */
    bool create;      /* make the root when it is not there */
    bool readonly;    /* any write is CKPT_DENIED */
    bool attended;    /* somebody waits for the first answer: a place that cannot be reached by
                         its name, and never could, is told soon */
};

/* Opens a handle on a URL: "dir:///p", "/p" or "p" (a private directory),
 * "dir:///p?shared=1", "mem://name" (one namespace per name in this process),
 * "s3://bucket/prefix?options" (s3_url.h).  Opening an object store asks it nothing yet.
 * Unknown scheme: CKPT_UNSUPPORTED naming those there are. */
enum ckpt_status store_open(const char *url, const struct store_options *options,
                            struct store **ret, struct ckpt_err *err) CKPT_MUST_CHECK;
/* A second handle on the same place for another thread. */
enum ckpt_status store_dup(const struct store *s, struct store **ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
void store_close(struct store *s);
/* True if other nodes may reach this URL too (shared=1, s3). */
bool store_url_shared(const char *url);

/* Writes the concatenation of `iov` as the object `key`.  See above. */
enum ckpt_status store_put(struct store *s, const char *key, const struct iovec *iov, int count,
                           unsigned flags, struct ckpt_err *err) CKPT_MUST_CHECK;
/* One buffer, IF_ABSENT: the usual put of a record. */
enum ckpt_status store_put_record(struct store *s, const char *key, const void *bytes, size_t len,
                                  struct ckpt_err *err) CKPT_MUST_CHECK;
/* Fills `count` ranges of one version of one object; depth is made inside.
 * CKPT_NOT_FOUND; CKPT_CORRUPT when a range lies beyond the object's end. */
enum ckpt_status store_get(struct store *s, const char *key, const struct store_range *ranges,
                           size_t count, struct ckpt_err *err) CKPT_MUST_CHECK;
/* The whole object into malloc'ed memory (caller frees).  For records and manifests, not for
 * packs.  max: no object of its kind is longer, so one that is, is damaged: CKPT_CORRUPT. */
enum ckpt_status store_get_all(struct store *s, const char *key, size_t max, void **ret,
                               size_t *ret_len, struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status store_stat(struct store *s, const char *key, struct store_stat *ret,
                            struct ckpt_err *err) CKPT_MUST_CHECK;
/* Lists keys that start with `prefix` (ends in '/', or is ""), in byte order, those
 * > `after` ("" = all), at most `cap` at a time; *ret_more says whether to call
 * again with the last key.  one_level: what lies deeper is folded into common
 * prefixes "a/b/" (bytes UINT64_MAX).  A prefix that is not there lists nothing. */
enum ckpt_status store_list(struct store *s, const char *prefix, bool one_level, const char *after,
                            struct store_entry *entries, size_t cap, size_t *ret_count,
                            bool *ret_more, struct ckpt_err *err) CKPT_MUST_CHECK;
/* Removes one object; not there is success. */
enum ckpt_status store_remove(struct store *s, const char *key, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* On return every object put before (by any handle) under `prefix`, and every
 * directory above it up to the root, is named for good. */
enum ckpt_status store_sync(struct store *s, const char *prefix, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* The store's own clock (ages come from it). */
enum ckpt_status store_now(struct store *s, int64_t *ret_ns, struct ckpt_err *err) CKPT_MUST_CHECK;

/* Deadline (CLOCK_MONOTONIC ns, 0 = none) and cancel flag for what follows. */
void store_set_limits(struct store *s, int64_t deadline_ns, const atomic_bool *cancel);
/* True if `key` obeys STORE_KEY_MAX and its alphabet (printable ASCII but '\\'). */
bool store_key_valid(const char *key);
/* One line: scheme, root, engine and why. */
void store_to_text(const struct store *s, char *buf, size_t cap);
