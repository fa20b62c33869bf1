/* What the engines behind file_io.h share: the plain system calls, and cutting a
 * transfer into pieces.  For engines only; stores use file_io.h. */
#pragma once

#include "storage/store/file_io.h"

/* A run of bytes on its way between memory and a file.  Caller-owned slot. */
struct file_piece {
    int fd;
    bool write;
    unsigned stalls; /* results in a row that moved nothing */
    char *base;
    uint64_t bytes, offset;
};

/* Cuts an iovec (write) or ranges (read) into pieces of at most FILE_IO_PIECE. */
struct file_pieces {
    int fd;
    const struct iovec *iov;            /* write: NULL when reading */
    const struct file_io_range *ranges; /* read: NULL when writing */
    size_t count, index;
    uint64_t done;   /* bytes of entry `index` already handed out */
    uint64_t offset; /* write: where the next piece goes */
};
struct file_pieces file_pieces_of_write(int fd, const struct iovec *iov, int count,
                                        uint64_t offset);
struct file_pieces file_pieces_of_read(int fd, const struct file_io_range *ranges, size_t count);
/* False at the end; *ret is then untouched. */
bool file_pieces_next(struct file_pieces *pieces, struct file_piece *ret);
/* True if there are at least two pieces left: worth more than one thread. */
bool file_pieces_many(const struct file_pieces *pieces);

/* Takes the result of one pread/pwrite of the piece (bytes or -errno).
 * 0 = the piece is done, 1 = issue what is left of it, negative = it failed. */
int file_piece_advance(struct file_piece *piece, int64_t result);
/* The piece by blocking calls, to its end.  0 or -errno. */
int file_piece_run(struct file_piece *piece);
/* All pieces, one after the other, by blocking calls. */
int file_pieces_run(struct file_io *io, struct file_pieces *pieces);
/* -ECANCELED, -ETIMEDOUT or 0. */
int file_io_check(const struct file_io *io);

int file_sys_open(struct file_io *io, int dirfd, const char *path, int flags, unsigned mode);
int file_sys_close(struct file_io *io, int fd);
int file_sys_fallocate(struct file_io *io, int fd, uint64_t bytes);
int file_sys_truncate(struct file_io *io, int fd, uint64_t bytes);
int file_sys_fdatasync(struct file_io *io, int fd);
int file_sys_fsync(struct file_io *io, int fd);
int file_sys_rename(struct file_io *io, int dirfd, const char *from, const char *to);
int file_sys_link(struct file_io *io, int dirfd, const char *from, const char *to);
int file_sys_mkdir(struct file_io *io, int dirfd, const char *path);
int file_sys_rmdir(struct file_io *io, int dirfd, const char *path);
int file_sys_unlink(struct file_io *io, int dirfd, const char *path);
int file_sys_stat(struct file_io *io, int dirfd, const char *path, struct stat *ret);

/* The members of file_io_ops that no engine does in its own way. */
#define FILE_SYS_OPS                                                                         \
    .open = file_sys_open, .close = file_sys_close, .fallocate = file_sys_fallocate,         \
    .truncate = file_sys_truncate, .fdatasync = file_sys_fdatasync, .fsync = file_sys_fsync, \
    .rename = file_sys_rename, .link = file_sys_link, .mkdir = file_sys_mkdir,               \
    .rmdir = file_sys_rmdir, .unlink = file_sys_unlink, .stat = file_sys_stat
