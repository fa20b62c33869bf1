/* File operations of the dir store, behind one seam: io_uring where the kernel
 * allows it, else a pool of threads with the same O_DIRECT calls.  This is also
 * the place where tests record, cut and fail operations.
 *
 * Blocking: each call returns when the operation is done.  Depth is made inside
 * (2 MiB pieces, up to FILE_IO_DEPTH of them in flight).  One thread per file_io.
 * All paths are relative to a directory fd that the caller owns. */
#pragma once

#include <dirent.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "formats/base.h"

#define FILE_IO_DEPTH 32 /* more than the pieces of a default slot and its head */
#define FILE_IO_PIECE (UINT64_C(2) << 20)

struct file_io;

struct file_io_range {
    uint64_t offset, bytes;
    void *base;
};

/* Every engine implements all of these; negative errno on failure, as syscalls. */
struct file_io_ops {
    const char *name;
    /* O_CLOEXEC is added.  Returns an fd or -errno. */
    int (*open)(struct file_io *io, int dirfd, const char *path, int flags, unsigned mode);
    int (*close)(struct file_io *io, int fd);
    int (*fallocate)(struct file_io *io, int fd, uint64_t bytes);
    int (*truncate)(struct file_io *io, int fd, uint64_t bytes);
    /* All of iov at `offset`, looping over short writes; 0 or -errno. */
    int (*write)(struct file_io *io, int fd, const struct iovec *iov, int count, uint64_t offset);
    /* Fills all ranges; -ENODATA when the file ends before one. */
    int (*read)(struct file_io *io, int fd, const struct file_io_range *ranges, size_t count);
    int (*fdatasync)(struct file_io *io, int fd);
    int (*fsync)(struct file_io *io, int fd); /* directories too */
    int (*rename)(struct file_io *io, int dirfd, const char *from, const char *to);
    int (*link)(struct file_io *io, int dirfd, const char *from, const char *to);
    int (*mkdir)(struct file_io *io, int dirfd, const char *path);
    int (*rmdir)(struct file_io *io, int dirfd, const char *path);
    int (*unlink)(struct file_io *io, int dirfd, const char *path);
    int (*stat)(struct file_io *io, int dirfd, const char *path, struct stat *ret);
    void (*free)(struct file_io *io);
};

struct file_io {
    const struct file_io_ops *ops;
    char why[128]; /* why this engine: "asked for", "io_uring refused: EPERM", ... */
    int64_t deadline_ns;
    const atomic_bool *cancel; /* checked between pieces: -ECANCELED */
};

/* "auto", "uring" or "threads".  auto falls back and says why. */
enum ckpt_status file_io_new(const char *engine, struct file_io **ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
enum ckpt_status file_io_uring_new(struct file_io **ret, struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status file_io_threads_new(struct file_io **ret, struct ckpt_err *err) CKPT_MUST_CHECK;
void file_io_free(struct file_io *io);
/* Tests put their own maker in the place of file_io_new (NULL = back). */
void file_io_set_maker(enum ckpt_status (*maker)(const char *engine, struct file_io **ret,
                                                 struct ckpt_err *err));
