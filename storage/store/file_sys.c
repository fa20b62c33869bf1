/* The plain system calls behind every file I/O engine, and the arithmetic of
 * pieces: where to cut, and what a short result means.
 *
 * Direct I/O wants offset, length and memory aligned.  A short result inside an
 * aligned piece is therefore rounded down to a whole block, and the rest of that
 * block is transferred again: the bytes are the same, so this is harmless. */
#include "storage/store/file_sys.h"

#include <fcntl.h>
#include <stdio.h>
#include <time.h>

#define STALLS_MAX 16 /* results that move nothing, before a piece is given up */

struct file_pieces file_pieces_of_write(int fd, const struct iovec *iov, int count, uint64_t offset)
{
    return (struct file_pieces){ .fd = fd, .iov = iov, .count = (size_t)count, .offset = offset };
}

struct file_pieces file_pieces_of_read(int fd, const struct file_io_range *ranges, size_t count)
{
    return (struct file_pieces){ .fd = fd, .ranges = ranges, .count = count };
}

static uint64_t entry_bytes(const struct file_pieces *p, size_t i)
{
    return p->iov ? p->iov[i].iov_len : p->ranges[i].bytes;
}

bool file_pieces_next(struct file_pieces *p, struct file_piece *ret)
{
    while (p->index < p->count && p->done == entry_bytes(p, p->index)) {
        p->index++;
        p->done = 0;
    }
    if (p->index == p->count)
        return false;
    uint64_t bytes = min_u64(entry_bytes(p, p->index) - p->done, FILE_IO_PIECE);
    char *base = p->iov ? p->iov[p->index].iov_base : p->ranges[p->index].base;
    *ret = (struct file_piece){
        .fd = p->fd,
        .write = p->iov != NULL,
        .base = base + p->done,
        .bytes = bytes,
        .offset = p->iov ? p->offset : p->ranges[p->index].offset + p->done,
    };
    p->done += bytes;
    p->offset += bytes;
    return true;
}

bool file_pieces_many(const struct file_pieces *pieces)
{
    struct file_pieces ahead = *pieces;
    struct file_piece piece;
    bool one = file_pieces_next(&ahead, &piece);
    return one && file_pieces_next(&ahead, &piece);
}

static bool piece_aligned(const struct file_piece *p)
{
    return ((uintptr_t)p->base | p->bytes | p->offset) % CKPT_BLOCK == 0;
}

int file_piece_advance(struct file_piece *p, int64_t result)
{
    if (result < 0 && result != -EINTR && result != -EAGAIN)
        return (int)result;
    if (result == 0)
        return p->write ? -EIO : -ENODATA;
    uint64_t moved = result < 0 ? 0 : (uint64_t)result;
    if (moved > p->bytes)
        return -EIO; /* no kernel does that; never run past the memory */
    if (moved < p->bytes && piece_aligned(p))
        moved -= moved % CKPT_BLOCK;
    p->stalls = moved ? 0 : p->stalls + 1;
    if (p->stalls > STALLS_MAX)
        return result < 0 ? (int)result : p->write ? -EIO : -ENODATA;
    p->base += moved;
    p->offset += moved;
    p->bytes -= moved;
    return p->bytes > 0;
}

int file_piece_run(struct file_piece *p)
{
    for (;;) {
        ssize_t n = p->write ? pwrite(p->fd, p->base, p->bytes, (off_t)p->offset)
                             : pread(p->fd, p->base, p->bytes, (off_t)p->offset);
        int more = file_piece_advance(p, n < 0 ? -errno : n);
        if (more <= 0)
            return more;
    }
}

int file_pieces_run(struct file_io *io, struct file_pieces *pieces)
{
    struct file_piece piece;
    while (file_pieces_next(pieces, &piece)) {
        int rc = file_io_check(io);
        if (rc == 0)
            rc = file_piece_run(&piece);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int file_io_check(const struct file_io *io)
{
    if (io->cancel && atomic_load(io->cancel))
        return -ECANCELED;
    if (io->deadline_ns == 0)
        return 0;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec >= io->deadline_ns ? -ETIMEDOUT : 0;
}

static int result_of(int rc)
{
    return rc < 0 ? -errno : rc;
}

int file_sys_open(struct file_io *io, int dirfd, const char *path, int flags, unsigned mode)
{
    (void)io;
    return result_of(openat(dirfd, path, flags | O_CLOEXEC, mode));
}

int file_sys_close(struct file_io *io, int fd)
{
    (void)io;
    return close(fd) < 0 && errno != EINTR ? -errno : 0; /* on EINTR Linux has closed it */
}

int file_sys_fallocate(struct file_io *io, int fd, uint64_t bytes)
{
    (void)io;
    return result_of(fallocate(fd, 0, 0, (off_t)bytes));
}

int file_sys_truncate(struct file_io *io, int fd, uint64_t bytes)
{
    (void)io;
    return result_of(ftruncate(fd, (off_t)bytes));
}

int file_sys_fdatasync(struct file_io *io, int fd)
{
    (void)io;
    return result_of(fdatasync(fd));
}

int file_sys_fsync(struct file_io *io, int fd)
{
    (void)io;
    return result_of(fsync(fd));
}

int file_sys_rename(struct file_io *io, int dirfd, const char *from, const char *to)
{
    (void)io;
    return result_of(renameat(dirfd, from, dirfd, to));
}

int file_sys_link(struct file_io *io, int dirfd, const char *from, const char *to)
{
    (void)io;
    return result_of(linkat(dirfd, from, dirfd, to, 0));
}

int file_sys_mkdir(struct file_io *io, int dirfd, const char *path)
{
    (void)io;
    return result_of(mkdirat(dirfd, path, 0777));
}

int file_sys_rmdir(struct file_io *io, int dirfd, const char *path)
{
    (void)io;
    return result_of(unlinkat(dirfd, path, AT_REMOVEDIR));
}

int file_sys_unlink(struct file_io *io, int dirfd, const char *path)
{
    (void)io;
    return result_of(unlinkat(dirfd, path, 0));
}

int file_sys_stat(struct file_io *io, int dirfd, const char *path, struct stat *ret)
{
    (void)io;
    return result_of(fstatat(dirfd, path, ret, AT_SYMLINK_NOFOLLOW));
}
