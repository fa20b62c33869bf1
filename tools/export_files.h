/* Files that appear under their names only when all of them are complete: each is made
 * under a temporary name in the target directory, filled, made durable, and then all are
 * renamed.  A crash before that leaves names that start with ".ckpt-restore-" and nothing
 * else; the next restore into the directory removes them. */
#pragma once

#include "formats/base.h"

struct export_file {
    char *name; /* below the directory; owned */
    char *temp; /* temporary path; owned */
    int fd;
    void *map; /* the whole file, writable; NULL when empty or not mapped */
    uint64_t bytes;
};
struct export_files {
    const char *dir; /* borrowed */
    struct export_file *files;
    size_t count;
    bool made_dir;
};

/* Makes the directory (and its parents) or takes an existing one: CKPT_REFUSED unless it
 * is empty or `force`. */
enum ckpt_status export_files_init(struct export_files *f, const char *dir, bool force,
                                   struct ckpt_err *err) CKPT_MUST_CHECK;
/* A new file of that size, its blocks allocated (so that a full disk is an error here and
 * not a crash later) and mapped. */
enum ckpt_status export_files_map(struct export_files *f, const char *name, uint64_t bytes,
                                  void **ret, struct ckpt_err *err) CKPT_MUST_CHECK;
/* A new file with these bytes.  `name` may have parts ("objects/rng"); where the file
 * system refuses such a name, it is written as a flat one. */
enum ckpt_status export_files_write(struct export_files *f, const char *name, const void *bytes,
                                    uint64_t len, struct ckpt_err *err) CKPT_MUST_CHECK;
/* Makes everything durable and gives the files their names, in order of creation.  After
 * an error some may have theirs. */
enum ckpt_status export_files_commit(struct export_files *f, struct ckpt_err *err) CKPT_MUST_CHECK;
/* Removes what was not committed. */
void export_files_fini(struct export_files *f);
