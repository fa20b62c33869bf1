/* The dir store's insides, shared by its four files: store_dir.c (handle, small
 * operations, words for errors), _put, _get and _list. */
#pragma once

#include "storage/store/file_io.h"
#include "storage/store/store_impl.h"

#define DIR_TMP          ".tmp"
#define DIR_BOUNCE_BYTES (UINT64_C(1) << 20)
/* Smaller transfers gain nothing from direct I/O. */
#define DIR_DIRECT_MIN (UINT64_C(64) << 10)

struct store_dir {
    struct store base;
    char *root;  /* for messages and dup */
    char *place; /* the same as an absolute path; NULL: not known */
    int root_fd;
    char *engine; /* as asked for */
    char *node;   /* first part of temporary names */
    bool shared;
    struct file_io *io;
    char *bounce;    /* DIR_BOUNCE_BYTES, aligned; made at first use */
    bool buffered;   /* direct I/O was refused */
    bool no_dirsync; /* this filesystem cannot fsync directories */
};

static inline struct store_dir *store_dir_of(struct store *s)
{
    return (struct store_dir *)s;
}

/* Hands the handle's limits to its engine; first thing in every operation. */
void dir_begin(struct store_dir *d);
/* Fills err from a negative errno: what failed, the full path, what to do. */
enum ckpt_status dir_error(const struct store_dir *d, struct ckpt_err *err, int rc,
                           const char *what, const char *key);
/* True if the root was removed under the handle: nothing in it can be "not there". */
bool dir_vanished(const struct store_dir *d);
/* CKPT_UNREACHABLE if the root is no longer what its path leads to. */
enum ckpt_status dir_in_place(const struct store_dir *d, const char *what, const char *key,
                              struct ckpt_err *err) CKPT_MUST_CHECK;
/* The bounce buffer, or NULL. */
char *dir_bounce(struct store_dir *d);
/* Sets or clears O_DIRECT on an open file.  0 or -errno. */
int dir_set_direct(int fd, bool direct);

/* fsync of one directory ("" = the root).  0 or -errno; not there is -ENOENT. */
int dir_fsync(struct store_dir *d, const char *path);
/* fsync of the directories above `path` (a key or prefix), deepest first, up to the root. */
int dir_fsync_above(struct store_dir *d, const char *path);
/* mkdir of every directory above `key`.  The names are made good with what goes into them:
 * by dir_fsync_above for a record, by store_sync for packs. */
int dir_make_above(struct store_dir *d, const char *key);
/* Opens a new temporary file, locked against being taken for a leftover.
 * Returns an fd and its path in `name`, or -errno. */
#define DIR_TEMP_NAME_MAX 320
int dir_temp_open(struct store_dir *d, bool *direct, char name[DIR_TEMP_NAME_MAX]);
/* Removes temporary files whose writers are dead. */
void dir_temp_clean(struct store_dir *d);

enum ckpt_status dir_put(struct store *s, const char *key, const struct iovec *iov, int count,
                         unsigned flags, struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status dir_get(struct store *s, const char *key, const struct store_range *ranges,
                         size_t count, struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status dir_list(struct store *s, const char *prefix, bool one_level, const char *after,
                          struct store_entry *entries, size_t cap, size_t *ret_count,
                          bool *ret_more, struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status dir_sync(struct store *s, const char *prefix, struct ckpt_err *err)
    CKPT_MUST_CHECK;
