/* dir: reading ranges of an object.
 *
 * One open file is one version, whatever is renamed over its name meanwhile.  The
 * part of a range that is aligned in file and memory is read with direct I/O,
 * the rest through the page cache, both with depth, over one descriptor whose
 * O_DIRECT is switched in between. */
#include <fcntl.h>

#include "storage/store/store_dir.h"

struct reader {
    struct file_io_range *direct, *plain; /* two halves of one allocation */
    size_t directs, plains;
};

static void add(struct file_io_range *to, size_t *count, struct file_io_range range)
{
    if (range.bytes > 0)
        to[(*count)++] = range;
}

/* Ranges of at least `direct_min` go by direct I/O, as far as they are aligned. */
static void split(struct reader *r, const struct store_range *range, uint64_t direct_min)
{
    uint64_t into = range->offset % CKPT_BLOCK;
    uint64_t head = into ? CKPT_BLOCK - into : 0;
    bool alike = (uintptr_t)range->base % CKPT_BLOCK == into;
    char *base = range->base;
    if (!alike || range->bytes < head || range->bytes - head < direct_min) {
        add(r->plain, &r->plains, (struct file_io_range){ range->offset, range->bytes, base });
        return;
    }
    uint64_t body = (range->bytes - head) / CKPT_BLOCK * CKPT_BLOCK;
    uint64_t tail = range->bytes - head - body;
    add(r->plain, &r->plains, (struct file_io_range){ range->offset, head, base });
    add(r->direct, &r->directs, (struct file_io_range){ range->offset + head, body, base + head });
    add(r->plain, &r->plains,
        (struct file_io_range){ range->offset + head + body, tail, base + head + body });
}

static int read_direct(struct store_dir *d, int fd, const struct reader *r)
{
    if (r->directs == 0)
        return 0;
    int rc = dir_set_direct(fd, true);
    if (rc == 0)
        rc = d->io->ops->read(d->io, fd, r->direct, r->directs);
    if (rc == -EINVAL) {
        d->buffered = true; /* shown in to_text */
        rc = dir_set_direct(fd, false);
        return rc < 0 ? rc : d->io->ops->read(d->io, fd, r->direct, r->directs);
    }
    if (rc < 0)
        return rc;
    posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM); /* the edges alone want no read-ahead */
    return dir_set_direct(fd, false);
}

static enum ckpt_status check_ranges(const struct store_dir *d, const char *key, uint64_t bytes,
                                     const struct store_range *ranges, size_t count,
                                     struct ckpt_err *err)
{
    for (size_t i = 0; i < count; i++) {
        if (ranges[i].offset > bytes || ranges[i].bytes > bytes - ranges[i].offset)
            return err_set(err, CKPT_CORRUPT,
                           "get %s/%s: bytes %llu + %llu lie beyond its end (%llu bytes)", d->root,
                           key, (unsigned long long)ranges[i].offset,
                           (unsigned long long)ranges[i].bytes, (unsigned long long)bytes);
    }
    return CKPT_OK;
}

static enum ckpt_status read_ranges(struct store_dir *d, int fd, const char *key,
                                    const struct store_range *ranges, size_t count,
                                    struct ckpt_err *err)
{
    CLEANUP_FREE struct file_io_range *all = malloc((count * 3 + 1) * sizeof(*all));
    if (!all)
        return err_set(err, CKPT_NO_MEMORY, "get %s: no memory for %zu ranges", key, count);
    struct reader r = { .direct = all, .plain = all + count };
    uint64_t longest = 0;
    for (size_t i = 0; i < count; i++)
        longest = max_u64(longest, ranges[i].bytes);
    /* Beside a long range a short one goes the same way, in the same flight. */
    uint64_t direct_min = longest < DIR_DIRECT_MIN ? DIR_DIRECT_MIN : CKPT_BLOCK;
    for (size_t i = 0; i < count; i++)
        split(&r, &ranges[i], d->buffered ? UINT64_MAX : direct_min);
    int rc = read_direct(d, fd, &r);
    if (rc == 0 && r.plains > 0)
        rc = d->io->ops->read(d->io, fd, r.plain, r.plains);
    if (rc == -ENODATA)
        return err_set(err, CKPT_CORRUPT, "get %s/%s: the file ended while it was read", d->root,
                       key);
    return rc < 0 ? dir_error(d, err, rc, "read", key) : CKPT_OK;
}

enum ckpt_status dir_get(struct store *s, const char *key, const struct store_range *ranges,
                         size_t count, struct ckpt_err *err)
{
    struct store_dir *d = store_dir_of(s);
    dir_begin(d);
    /* O_NONBLOCK: a FIFO that somebody put there must not block us. */
    int fd = d->io->ops->open(d->io, d->root_fd, key, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
    if (fd < 0)
        return dir_error(d, err, fd, "open", key);
    struct stat st;
    enum ckpt_status status = CKPT_OK;
    if (fstat(fd, &st) < 0)
        status = dir_error(d, err, -errno, "stat", key);
    else if (!S_ISREG(st.st_mode))
        status = dir_error(d, err, -ENOENT, "open", key);
    if (status == CKPT_OK)
        status = check_ranges(d, key, (uint64_t)st.st_size, ranges, count, err);
    if (status == CKPT_OK)
        status = read_ranges(d, fd, key, ranges, count, err);
    d->io->ops->close(d->io, fd);
    return status;
}
