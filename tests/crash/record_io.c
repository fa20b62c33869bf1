/* The recording engine.  See record_io.h. */
#include "crash/record_io.h"

#include <fcntl.h>
#include <stdio.h>

#include "storage/store/file_sys.h"
#include "storage/store/wrap_pass.h"

struct recording recording = { .kill_at = SIZE_MAX };

struct record_io {
    struct file_io io;
    struct file_io *under;
};

void recording_start(const char *base)
{
    recording = (struct recording){ .next_ino = DISK_ROOT + 1, .kill_at = SIZE_MAX, .phase = "" };
    snprintf(recording.base, sizeof(recording.base), "%s", base);
    disk_init(&recording.live);
}

void recording_fini(void)
{
    disk_log_fini(&recording.log);
    disk_fini(&recording.live);
}

void recording_mark(int mark)
{
    disk_log_add(&recording.log, DISK_MARK)->mark = mark;
}

static struct file_io *under(struct file_io *io)
{
    struct record_io *r = (struct record_io *)io;
    r->under->deadline_ns = io->deadline_ns;
    r->under->cancel = io->cancel;
    return r->under;
}

static bool dead(void)
{
    return recording.log.count >= recording.kill_at;
}

/* The path below the base; NULL if it lies elsewhere. */
static const char *path_of(int dirfd, const char *path, char *buf, size_t cap)
{
    char link[64];
    char dir[1024] = "";
    if (path[0] != '/') {
        snprintf(link, sizeof(link), "/proc/self/fd/%d", dirfd);
        CHECK(dirfd >= 0 && readlink(link, dir, sizeof(dir) - 1) > 0);
    }
    if (strcmp(path, ".") == 0)
        path = "";
    CHECK((size_t)snprintf(buf, cap, "%s%s%s", dir, dir[0] ? "/" : "", path) < cap);
    size_t len = strlen(recording.base);
    if (strncmp(buf, recording.base, len) != 0 || (buf[len] != '/' && buf[len] != 0))
        return NULL;
    return buf + len;
}

/* Applied at once, so that the next path is found. */
static void done(void)
{
    disk_apply(&recording.live, &recording.log.events[recording.log.count - 1], false);
}

static void named(enum disk_op op, int dirfd, const char *path, uint32_t ino)
{
    char buf[2048];
    const char *at = path_of(dirfd, path, buf, sizeof(buf));
    if (!at)
        return;
    struct disk_event *e = disk_log_add(&recording.log, op);
    e->ino = ino;
    e->dir = disk_parent(&recording.live, at, e->name);
    CHECK(e->dir != 0);
    done();
}

static uint32_t find(int dirfd, const char *path)
{
    char buf[2048];
    const char *at = path_of(dirfd, path, buf, sizeof(buf));
    return at ? disk_find(&recording.live, at) : 0;
}

static int r_open(struct file_io *io, int dirfd, const char *path, int flags, unsigned mode)
{
    if (dead())
        return -EIO;
    bool creates = (flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL);
    int fd = under(io)->ops->open(under(io), dirfd, path, flags, mode);
    if (fd < 0)
        return fd;
    CHECK((size_t)fd < ARRAY_COUNT(recording.fds));
    if (creates)
        named(DISK_CREATE, dirfd, path, recording.next_ino++);
    recording.fds[fd] = find(dirfd, path);
    return fd;
}
static int r_close(struct file_io *io, int fd)
{
    return under(io)->ops->close(under(io), fd);
}
static void sized(int fd, uint64_t bytes)
{
    struct disk_event *e = disk_log_add(&recording.log, DISK_SIZE);
    e->ino = recording.fds[fd];
    e->bytes = bytes;
    done();
}
static int r_fallocate(struct file_io *io, int fd, uint64_t bytes)
{
    int rc = dead() ? -EIO : under(io)->ops->fallocate(under(io), fd, bytes);
    if (rc == 0)
        sized(fd, bytes);
    return rc;
}
static int r_truncate(struct file_io *io, int fd, uint64_t bytes)
{
    int rc = dead() ? -EIO : under(io)->ops->truncate(under(io), fd, bytes);
    if (rc == 0)
        sized(fd, bytes);
    return rc;
}
static int r_write(struct file_io *io, int fd, const struct iovec *iov, int count, uint64_t offset)
{
    int rc = dead() ? -EIO : under(io)->ops->write(under(io), fd, iov, count, offset);
    for (int i = 0; rc == 0 && i < count; i++) {
        struct disk_event *e = disk_log_add(&recording.log, DISK_WRITE);
        e->ino = recording.fds[fd];
        e->offset = offset;
        e->bytes = iov[i].iov_len;
        e->data = malloc(e->bytes + 1);
        CHECK(e->data);
        memcpy(e->data, iov[i].iov_base, e->bytes);
        offset += e->bytes;
        done();
    }
    return rc;
}
static int r_read(struct file_io *io, int fd, const struct file_io_range *ranges, size_t count)
{
    return dead() ? -EIO : under(io)->ops->read(under(io), fd, ranges, count);
}
static void synced(const char *what, int fd)
{
    char link[64], path[1024] = "";
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    CHECK(readlink(link, path, sizeof(path) - 1) > 0);
    struct disk_event *e = disk_log_add(&recording.log, DISK_SYNC);
    size_t len = strlen(recording.base);
    e->ino = recording.fds[fd];
    snprintf(e->label, sizeof(e->label), "%s of %.200s", what,
             strlen(path) >= len ? path + len : path);
    snprintf(e->site, sizeof(e->site), "%.40s: %s: %s", recording.phase,
             recording.asked[0] ? recording.asked : "open", what);
    done();
}
static int r_fdatasync(struct file_io *io, int fd)
{
    int rc = dead() ? -EIO : under(io)->ops->fdatasync(under(io), fd);
    if (rc == 0)
        synced("fdatasync", fd);
    return rc;
}
static int r_fsync(struct file_io *io, int fd)
{
    int rc = dead() ? -EIO : under(io)->ops->fsync(under(io), fd);
    if (rc == 0 && recording.fds[fd])
        synced("fsync", fd);
    return rc;
}
static int r_rename(struct file_io *io, int dirfd, const char *from, const char *to)
{
    char buf[2048];
    uint32_t ino = find(dirfd, from);
    int rc = dead() ? -EIO : under(io)->ops->rename(under(io), dirfd, from, to);
    if (rc < 0)
        return rc;
    struct disk_event *e = disk_log_add(&recording.log, DISK_RENAME);
    const char *at = path_of(dirfd, from, buf, sizeof(buf));
    CHECK(at && ino);
    e->ino = ino;
    e->dir = disk_parent(&recording.live, at, e->name);
    at = path_of(dirfd, to, buf, sizeof(buf));
    CHECK(at);
    e->to_dir = disk_parent(&recording.live, at, e->to_name);
    CHECK(e->dir && e->to_dir);
    done();
    return 0;
}
static int r_link(struct file_io *io, int dirfd, const char *from, const char *to)
{
    int rc = dead() ? -EIO : under(io)->ops->link(under(io), dirfd, from, to);
    if (rc == 0)
        named(DISK_LINK, dirfd, to, find(dirfd, from));
    return rc;
}
static int r_mkdir(struct file_io *io, int dirfd, const char *path)
{
    int rc = dead() ? -EIO : under(io)->ops->mkdir(under(io), dirfd, path);
    if (rc == 0)
        named(DISK_MKDIR, dirfd, path, recording.next_ino++);
    return rc;
}
static int r_rmdir(struct file_io *io, int dirfd, const char *path)
{
    int rc = dead() ? -EIO : under(io)->ops->rmdir(under(io), dirfd, path);
    if (rc == 0)
        named(DISK_UNLINK, dirfd, path, 0);
    return rc;
}
static int r_unlink(struct file_io *io, int dirfd, const char *path)
{
    int rc = dead() ? -EIO : under(io)->ops->unlink(under(io), dirfd, path);
    if (rc == 0)
        named(DISK_UNLINK, dirfd, path, 0);
    return rc;
}
static int r_stat(struct file_io *io, int dirfd, const char *path, struct stat *ret)
{
    return dead() ? -EIO : under(io)->ops->stat(under(io), dirfd, path, ret);
}
static void r_free(struct file_io *io)
{
    file_io_free(((struct record_io *)io)->under);
    free(io);
}

static const struct file_io_ops record_ops = {
    .name = "record",
    .open = r_open,
    .close = r_close,
    .fallocate = r_fallocate,
    .truncate = r_truncate,
    .write = r_write,
    .read = r_read,
    .fdatasync = r_fdatasync,
    .fsync = r_fsync,
    .rename = r_rename,
    .link = r_link,
    .mkdir = r_mkdir,
    .rmdir = r_rmdir,
    .unlink = r_unlink,
    .stat = r_stat,
    .free = r_free,
};

enum ckpt_status record_maker(const char *engine, struct file_io **ret, struct ckpt_err *err)
{
    (void)engine;
    struct record_io *r = calloc(1, sizeof(*r));
    if (!r)
        return err_set(err, CKPT_NO_MEMORY, "no memory");
    r->io.ops = &record_ops;
    enum ckpt_status st = file_io_threads_new(&r->under, err);
    if (st != CKPT_OK)
        free(r);
    else
        *ret = &r->io;
    return st;
}

/* ---- which operation of the store asks for a sync ---- */

/* A key without what differs from one to the next: names and numbers. */
static void copy_general(const char *from, char *to, size_t cap)
{
    size_t len = 0;
    bool shard = false;
    to[0] = 0;
    while (*from && len + 1 < cap) {
        size_t part = strcspn(from, "/"), end = part + (from[part] == '/');
        bool varies = part >= 16 || shard;
        shard = part == 1 && from[0] == 'd';
        if (varies)
            len += (size_t)snprintf(to + len, cap - len, end > part ? "*/" : "*");
        else if (end == part && strspn(from, "0123456789") > 0) /* a rank's manifest */
            len += (size_t)snprintf(to + len, cap - len, "*%s", from + strspn(from, "0123456789"));
        else
            len += (size_t)snprintf(to + len, cap - len, "%.*s", (int)end, from);
        from += end;
    }
}

static void asked(const char *verb, const char *key)
{
    size_t len = (size_t)snprintf(recording.asked, sizeof(recording.asked), "%s ", verb);
    copy_general(key, recording.asked + len, sizeof(recording.asked) - len);
}

static enum ckpt_status site_put(struct store *s, const char *key, const struct iovec *iov,
                                 int count, unsigned flags, struct ckpt_err *err)
{
    asked(flags & STORE_IF_ABSENT ? "record" : "put", key);
    return wrap_pass_put(s, key, iov, count, flags, err);
}
static enum ckpt_status site_sync(struct store *s, const char *prefix, struct ckpt_err *err)
{
    asked("sync", prefix);
    return wrap_pass_sync(s, prefix, err);
}

static const struct store_ops site_ops = {
    .scheme = "site",
    .put = site_put,
    .get = wrap_pass_get,
    .stat = wrap_pass_stat,
    .list = wrap_pass_list,
    .remove = wrap_pass_remove,
    .sync = site_sync,
    .now = wrap_pass_now,
    .to_text = wrap_pass_to_text,
    .close = wrap_pass_close,
};

struct store *record_sites(struct store *inner)
{
    struct wrap *w;
    CHECK_OK(wrap_new(sizeof(*w), &site_ops, inner, &w, NULL));
    return &w->base;
}

/* ---- recovery ---- */

static int calm_read(struct file_io *io, int fd, const struct file_io_range *ranges, size_t count)
{
    struct file_pieces pieces = file_pieces_of_read(fd, ranges, count);
    return file_pieces_run(io, &pieces);
}
static int calm_write(struct file_io *io, int fd, const struct iovec *iov, int count,
                      uint64_t offset)
{
    struct file_pieces pieces = file_pieces_of_write(fd, iov, count, offset);
    return file_pieces_run(io, &pieces);
}
static void calm_free(struct file_io *io)
{
    free(io);
}

static const struct file_io_ops calm_ops = {
    .name = "calm", FILE_SYS_OPS, .write = calm_write, .read = calm_read, .free = calm_free
};

enum ckpt_status calm_maker(const char *engine, struct file_io **ret, struct ckpt_err *err)
{
    (void)engine, (void)err;
    struct file_io *io = calloc(1, sizeof(*io));
    CHECK(io);
    io->ops = &calm_ops;
    *ret = io;
    return CKPT_OK;
}
