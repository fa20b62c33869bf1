/* dir: writing an object.
 *
 *   plain      temp ─ fallocate ─ write ─ truncate ─ fdatasync ─ rename
 *   IF_ABSENT  temp ─ write ─ fdatasync ─ link ─ unlink temp ─ fsync of the directories
 *
 * A crash before rename or link leaves a temporary file, which nobody lists and
 * the next open removes.  After rename the name may be lost in a power cut until
 * store_sync; the bytes under it are always whole.
 *
 * Large files are written with direct I/O: what lies aligned in the caller's
 * memory, at an aligned position of the object, goes to the disk without a copy;
 * everything else passes through the handle's bounce buffer. */
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>

#include "storage/store/store_dir.h"

#define NAME_TRIES 64 /* against a remover that takes empty directories away */
#define OUT_MAX    32

/* Gathers the object into aligned runs; `position` counts what was taken in. */
struct writer {
    struct store_dir *d;
    int fd;
    bool direct;
    char *bounce;
    uint64_t position, written, used; /* used: of the bounce buffer */
    struct iovec out[OUT_MAX];
    int outs;
};

static int writer_flush(struct writer *w)
{
    if (w->outs == 0)
        return 0;
    struct file_io *io = w->d->io;
    int rc = io->ops->write(io, w->fd, w->out, w->outs, w->written);
    if (rc == -EINVAL && w->direct) {
        w->d->buffered = true; /* shown in to_text */
        w->direct = false;
        rc = dir_set_direct(w->fd, false);
        if (rc == 0)
            rc = io->ops->write(io, w->fd, w->out, w->outs, w->written);
    }
    if (rc < 0)
        return rc;
    for (int i = 0; i < w->outs; i++)
        w->written += w->out[i].iov_len;
    w->outs = 0;
    w->used = 0;
    return 0;
}

/* Bytes from `base` that can go to the file without a copy. */
static uint64_t writer_straight(const struct writer *w, const char *base, uint64_t bytes)
{
    if (bytes < CKPT_BLOCK)
        return 0;
    if (!w->direct)
        return bytes;
    bool aligned = ((uintptr_t)base | w->position) % CKPT_BLOCK == 0;
    return aligned ? bytes - bytes % CKPT_BLOCK : 0;
}

/* Copies up to the next place where memory and file are both aligned again. */
static uint64_t writer_copy(struct writer *w, const char *base, uint64_t bytes)
{
    uint64_t n = min_u64(bytes, DIR_BOUNCE_BYTES - w->used);
    uint64_t into = w->position % CKPT_BLOCK;
    if (into != 0 && ((uintptr_t)base - into) % CKPT_BLOCK == 0)
        n = min_u64(n, CKPT_BLOCK - into);
    char *to = w->bounce + w->used;
    memcpy(to, base, n);
    struct iovec *last = w->outs ? &w->out[w->outs - 1] : NULL;
    if (last && (char *)last->iov_base + last->iov_len == to)
        last->iov_len += n;
    else
        w->out[w->outs++] = (struct iovec){ .iov_base = to, .iov_len = n };
    w->used += n;
    return n;
}

static int writer_add(struct writer *w, const struct iovec *entry)
{
    char *base = entry->iov_base;
    uint64_t left = entry->iov_len;
    while (left > 0) {
        /* A full buffer or list ends on a block: both grow by whole blocks between copies. */
        bool full =
            w->used == DIR_BOUNCE_BYTES || (w->outs == OUT_MAX && w->position % CKPT_BLOCK == 0);
        int rc = full || (w->outs == OUT_MAX && !w->direct) ? writer_flush(w) : 0;
        if (rc < 0)
            return rc;
        uint64_t n = writer_straight(w, base, left);
        if (n > 0)
            w->out[w->outs++] = (struct iovec){ .iov_base = base, .iov_len = n };
        else
            n = writer_copy(w, base, left);
        base += n;
        left -= n;
        w->position += n;
    }
    return 0;
}

/* The last block is filled up with zeros; truncate cuts them off again. */
static int writer_finish(struct writer *w)
{
    uint64_t pad = w->direct ? align_up(w->position, CKPT_BLOCK) - w->position : 0;
    if (pad > 0) {
        memset(w->bounce + w->used, 0, pad);
        w->out[w->outs - 1].iov_len += pad;
    }
    return writer_flush(w);
}

/* Writes the bytes; the file ends with exactly those.  0 or -errno. */
static int write_object(struct store_dir *d, int fd, bool direct, const struct iovec *iov,
                        int count)
{
    uint64_t bytes = store_iov_bytes(iov, count);
    struct writer w = { .d = d, .fd = fd, .direct = direct, .bounce = dir_bounce(d) };
    if (!w.bounce)
        return -ENOMEM;
    if (direct) {
        int rc = d->io->ops->fallocate(d->io, fd, align_up(bytes, CKPT_BLOCK));
        if (rc < 0 && rc != -EOPNOTSUPP && rc != -ENOSYS && rc != -EINVAL)
            return rc;
    }
    for (int i = 0; i < count; i++) {
        int rc = writer_add(&w, &iov[i]);
        if (rc < 0)
            return rc;
    }
    int rc = writer_finish(&w);
    if (rc == 0 && direct)
        rc = d->io->ops->truncate(d->io, fd, bytes);
    return rc;
}

/* Gives the temporary file its name, making directories that are missing. */
static int give_name(struct store_dir *d, const char *temp, const char *key, bool if_absent)
{
    const struct file_io_ops *ops = d->io->ops;
    for (int i = 0;; i++) {
        int rc = if_absent ? ops->link(d->io, d->root_fd, temp, key)
                           : ops->rename(d->io, d->root_fd, temp, key);
        if (rc != -ENOENT || i == NAME_TRIES)
            return rc;
        rc = dir_make_above(d, key);
        if (rc < 0 && rc != -ENOENT)
            return rc;
        if (dir_vanished(d))
            return -ENOENT;
    }
}

/* The key exists: OK if it holds the same bytes. */
static enum ckpt_status compare(struct store_dir *d, const char *key, const struct iovec *iov,
                                int count, struct ckpt_err *err)
{
    struct store_stat stat;
    enum ckpt_status st = d->base.ops->stat(&d->base, key, &stat, err);
    if (st != CKPT_OK)
        return st;
    bool equal = stat.bytes == store_iov_bytes(iov, count);
    for (uint64_t at = 0; equal && at < stat.bytes; at += DIR_BOUNCE_BYTES) {
        struct store_range range = { .offset = at,
                                     .bytes = min_u64(DIR_BOUNCE_BYTES, stat.bytes - at),
                                     .base = dir_bounce(d) };
        st = dir_get(&d->base, key, &range, 1, err);
        if (st != CKPT_OK)
            return st;
        equal = store_iov_equal(iov, count, at, range.base, range.bytes);
    }
    if (equal)
        return CKPT_OK;
    return err_set(err, CKPT_CONFLICT,
                   "put %s/%s: there are other bytes under this name, and it is written once",
                   d->root, key);
}

/* Linked, or found: named for good when this returns OK.  The sync also covers a
 * writer that linked the same bytes and died before its own. */
static enum ckpt_status finish_if_absent(struct store_dir *d, const char *temp, const char *key,
                                         const struct iovec *iov, int count, struct ckpt_err *err)
{
    int rc = give_name(d, temp, key, true);
    d->io->ops->unlink(d->io, d->root_fd, temp);
    if (rc < 0 && rc != -EEXIST)
        return dir_error(d, err, rc, "link", key);
    if (rc == -EEXIST) {
        enum ckpt_status st = compare(d, key, iov, count, err);
        if (st != CKPT_OK)
            return st;
    }
    rc = dir_fsync_above(d, key);
    return rc < 0 ? dir_error(d, err, rc, "fsync the directories of", key) : CKPT_OK;
}

static enum ckpt_status finish_plain(struct store_dir *d, const char *temp, const char *key,
                                     struct ckpt_err *err)
{
    int rc = give_name(d, temp, key, false);
    if (rc == 0)
        return CKPT_OK;
    d->io->ops->unlink(d->io, d->root_fd, temp);
    return dir_error(d, err, rc, "rename to", key);
}

/* One temporary file, written and made durable; open and locked on return.
 * Returns an fd or -errno with *ret_what saying where. */
static int write_temp(struct store_dir *d, const struct iovec *iov, int count, char *temp,
                      const char **ret_what)
{
    bool direct = !d->buffered && store_iov_bytes(iov, count) >= DIR_DIRECT_MIN;
    *ret_what = "make a temporary file for";
    int fd = dir_temp_open(d, &direct, temp);
    if (fd < 0)
        return fd;
    *ret_what = "write";
    int rc = write_object(d, fd, direct, iov, count);
    if (rc == 0) {
        *ret_what = "fdatasync";
        rc = d->io->ops->fdatasync(d->io, fd);
    }
    if (rc == 0)
        return fd;
    d->io->ops->close(d->io, fd);
    d->io->ops->unlink(d->io, d->root_fd, temp);
    return rc;
}

enum ckpt_status dir_put(struct store *s, const char *key, const struct iovec *iov, int count,
                         unsigned flags, struct ckpt_err *err)
{
    struct store_dir *d = store_dir_of(s);
    char temp[DIR_TEMP_NAME_MAX];
    const char *what = "";
    dir_begin(d);
    enum ckpt_status st = dir_in_place(d, "put", key, err);
    if (st != CKPT_OK)
        return st;
    int fd = write_temp(d, iov, count, temp, &what);
    /* After a failed sync the kernel may hold the pages for clean, so asking the same
     * file again proves nothing.  One new file, from memory, then it is an error. */
    if (fd < 0 && strcmp(what, "fdatasync") == 0)
        fd = write_temp(d, iov, count, temp, &what);
    if (fd < 0)
        return dir_error(d, err, fd, what, key);
    st = flags & STORE_IF_ABSENT ? finish_if_absent(d, temp, key, iov, count, err)
                                 : finish_plain(d, temp, key, err);
    d->io->ops->close(d->io, fd); /* the bytes are durable: it has nothing left to report */
    return st;
}
