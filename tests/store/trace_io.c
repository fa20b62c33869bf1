/* The recording, failing engine. */
#include "store/trace_io.h"

#include <fcntl.h>
#include <stdio.h>

struct trace trace;

struct trace_io {
    struct file_io io;
    struct file_io *under;
};

void trace_reset(const char *fail, int from, int count, int error)
{
    trace = (struct trace){ .fail = fail, .fail_from = from, .fail_count = count, .error = error };
}

static bool fails(const char *op)
{
    if (!trace.fail || strcmp(trace.fail, op) != 0)
        return false;
    int n = trace.seen++;
    return n >= trace.fail_from && n < trace.fail_from + trace.fail_count;
}

static int note(const char *op, const char *path, bool temp_name)
{
    size_t len = strlen(trace.text);
    const char *shown = temp_name && strncmp(path, ".tmp/", 5) == 0 ? "TEMP" : path;
    snprintf(trace.text + len, sizeof(trace.text) - len, "%s%s%s%s", len ? " " : "", op,
             shown[0] ? ":" : "", shown);
    return fails(op) ? trace.error : 0;
}

static struct file_io *under(struct file_io *io)
{
    struct trace_io *t = (struct trace_io *)io;
    t->under->deadline_ns = io->deadline_ns;
    t->under->cancel = io->cancel;
    return t->under;
}

static int t_open(struct file_io *io, int dirfd, const char *path, int flags, unsigned mode)
{
    int rc = note("open", path, true);
    if (rc == 0 && (flags & O_DIRECT) == O_DIRECT && fails("open!"))
        rc = trace.error;
    return rc < 0 ? rc : under(io)->ops->open(under(io), dirfd, path, flags, mode);
}
static int t_close(struct file_io *io, int fd)
{
    return under(io)->ops->close(under(io), fd);
}
static int t_fallocate(struct file_io *io, int fd, uint64_t bytes)
{
    int rc = note("fallocate", "", false);
    return rc < 0 ? rc : under(io)->ops->fallocate(under(io), fd, bytes);
}
static int t_truncate(struct file_io *io, int fd, uint64_t bytes)
{
    int rc = note("truncate", "", false);
    return rc < 0 ? rc : under(io)->ops->truncate(under(io), fd, bytes);
}
static int t_write(struct file_io *io, int fd, const struct iovec *iov, int count, uint64_t offset)
{
    int rc = note("write", "", false);
    return rc < 0 ? rc : under(io)->ops->write(under(io), fd, iov, count, offset);
}
static int t_read(struct file_io *io, int fd, const struct file_io_range *ranges, size_t count)
{
    bool direct = (fcntl(fd, F_GETFL) & O_DIRECT) == O_DIRECT;
    int rc = note(direct ? "read!" : "read", "", false);
    return rc < 0 ? rc : under(io)->ops->read(under(io), fd, ranges, count);
}
static int t_fdatasync(struct file_io *io, int fd)
{
    int rc = note("fdatasync", "", false);
    return rc < 0 ? rc : under(io)->ops->fdatasync(under(io), fd);
}
static int t_fsync(struct file_io *io, int fd)
{
    int rc = note("fsync", "", false);
    return rc < 0 ? rc : under(io)->ops->fsync(under(io), fd);
}
static int t_rename(struct file_io *io, int dirfd, const char *from, const char *to)
{
    int rc = note("rename", to, true);
    return rc < 0 ? rc : under(io)->ops->rename(under(io), dirfd, from, to);
}
static int t_link(struct file_io *io, int dirfd, const char *from, const char *to)
{
    int rc = note("link", to, true);
    return rc < 0 ? rc : under(io)->ops->link(under(io), dirfd, from, to);
}
static int t_mkdir(struct file_io *io, int dirfd, const char *path)
{
    int rc = note("mkdir", path, true);
    return rc < 0 ? rc : under(io)->ops->mkdir(under(io), dirfd, path);
}
static int t_rmdir(struct file_io *io, int dirfd, const char *path)
{
    int rc = note("rmdir", path, true);
    return rc < 0 ? rc : under(io)->ops->rmdir(under(io), dirfd, path);
}
static int t_unlink(struct file_io *io, int dirfd, const char *path)
{
    int rc = note("unlink", path, true);
    return rc < 0 ? rc : under(io)->ops->unlink(under(io), dirfd, path);
}
static int t_stat(struct file_io *io, int dirfd, const char *path, struct stat *ret)
{
    int rc = note("stat", path, true);
    return rc < 0 ? rc : under(io)->ops->stat(under(io), dirfd, path, ret);
}
static void t_free(struct file_io *io)
{
    file_io_free(((struct trace_io *)io)->under);
    free(io);
}

static const struct file_io_ops trace_ops = {
    .name = "trace",
    .open = t_open,
    .close = t_close,
    .fallocate = t_fallocate,
    .truncate = t_truncate,
    .write = t_write,
    .read = t_read,
    .fdatasync = t_fdatasync,
    .fsync = t_fsync,
    .rename = t_rename,
    .link = t_link,
    .mkdir = t_mkdir,
    .rmdir = t_rmdir,
    .unlink = t_unlink,
    .stat = t_stat,
    .free = t_free,
};

enum ckpt_status trace_maker(const char *engine, struct file_io **ret, struct ckpt_err *err)
{
    (void)engine;
    struct trace_io *t = calloc(1, sizeof(*t));
    if (!t)
        return err_set(err, CKPT_NO_MEMORY, "no memory");
    t->io.ops = &trace_ops;
    enum ckpt_status st = file_io_threads_new(&t->under, err);
    if (st != CKPT_OK)
        free(t);
    else
        *ret = &t->io;
    return st;
}
