/* dir: objects as files below a root directory; the handle and what is small.
 * Writing, reading and walking are in store_dir_put, _get and _list.
 *
 * All paths are relative to a descriptor of the root, so nothing gets into another
 * directory that took its name.  But nobody would find there what is written after the
 * root was moved away, so every put looks whether the root is still at its path.
 * The last part of a path is never followed as a link. */
#include "storage/store/store_dir.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

#define TEMP_TRIES 32

void dir_begin(struct store_dir *d)
{
    d->io->deadline_ns = d->base.deadline_ns;
    d->io->cancel = d->base.cancel;
}

bool dir_vanished(const struct store_dir *d)
{
    struct stat st;
    return fstat(d->root_fd, &st) == 0 && st.st_nlink == 0;
}

/* Only what is certain counts: a path that cannot be looked at now may be all right. */
static bool moved(const struct store_dir *d)
{
    struct stat ours, there;
    if (!d->place || fstat(d->root_fd, &ours) < 0)
        return false;
    if (stat(d->place, &there) < 0)
        return errno == ENOENT || errno == ENOTDIR;
    return ours.st_dev != there.st_dev || ours.st_ino != there.st_ino;
}

enum ckpt_status dir_in_place(const struct store_dir *d, const char *what, const char *key,
                              struct ckpt_err *err)
{
    if (!moved(d))
        return CKPT_OK;
    if (dir_vanished(d))
        return dir_error(d, err, -ENOENT, what, key);
    return err_set(err, CKPT_UNREACHABLE,
                   "%s %s/%s: the directory %s was renamed, replaced or unmounted while it was in "
                   "use; put it back, or open the store again",
                   what, d->root, key, d->root);
}

/* What the person who reads the error can do about it. */
static const char *advice(int errnum)
{
    switch (errnum) {
    case ENOSPC:
        return " (free space on that filesystem; what is stored is not touched)";
    case EDQUOT:
        return " (the disk quota is used up; what is stored is not touched)";
    case EROFS:
        return " (the filesystem is mounted read-only; see dmesg, remount it)";
    case EACCES:
    case EPERM:
        return " (check owner and mode of the directory)";
    case EMFILE:
    case ENFILE:
        return " (raise the limit of open files: ulimit -n, LimitNOFILE=)";
    case EIO:
        return " (the device failed; see dmesg)";
    case ENOTDIR:
        return " (a part of this key is an object)";
    case EISDIR:
    case ENOTEMPTY:
        return " (this key is a directory of other objects)";
    case ELOOP:
        return " (a symbolic link, which is never followed)";
    default:
        return "";
    }
}

enum ckpt_status dir_error(const struct store_dir *d, struct ckpt_err *err, int rc,
                           const char *what, const char *key)
{
    if (rc == -ECANCELED)
        return err_set(err, CKPT_CANCELLED, "%s %s/%s: cancelled", what, d->root, key);
    if (rc == -ETIMEDOUT)
        return err_set(err, CKPT_TIMEOUT, "%s %s/%s: the deadline has passed", what, d->root, key);
    if (rc == -ENOENT && dir_vanished(d))
        return err_set(err, CKPT_UNREACHABLE,
                       "%s %s/%s: the directory %s was removed while it was in use; put it back "
                       "and open the store again",
                       what, d->root, key, d->root);
    return err_errno(err, -rc, "%s %s/%s%s", what, d->root, key, advice(-rc));
}

char *dir_bounce(struct store_dir *d)
{
    if (!d->bounce)
        d->bounce = aligned_alloc(CKPT_BLOCK, DIR_BOUNCE_BYTES);
    return d->bounce;
}

int dir_set_direct(int fd, bool direct)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return -errno;
    flags = direct ? flags | O_DIRECT : flags & ~O_DIRECT;
    return fcntl(fd, F_SETFL, flags) < 0 ? -errno : 0;
}

/* fsync of `path` relative to `dirfd`. */
static int fsync_at(struct store_dir *d, int dirfd, const char *path)
{
    int fd = d->io->ops->open(d->io, dirfd, path, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        return fd;
    int rc = d->io->ops->fsync(d->io, fd);
    d->io->ops->close(d->io, fd);
    if (rc != -EINVAL)
        return rc;
    d->no_dirsync = true; /* not a thing this filesystem has; shown in to_text */
    return 0;
}

int dir_fsync(struct store_dir *d, const char *path)
{
    return fsync_at(d, d->root_fd, path[0] ? path : ".");
}

/* Cuts the last part off; false when nothing is left above it but the root. */
static bool cut_last(char *path)
{
    char *slash = strrchr(path, '/');
    if (slash)
        *slash = 0;
    else
        path[0] = 0;
    return slash != NULL;
}

int dir_fsync_above(struct store_dir *d, const char *path)
{
    char above[STORE_KEY_MAX + DIR_TEMP_NAME_MAX];
    snprintf(above, sizeof(above), "%s", path);
    for (;;) {
        bool more = cut_last(above);
        int rc = dir_fsync(d, above);
        if (rc < 0 && ((rc != -ENOENT && rc != -ENOTDIR) || dir_vanished(d)))
            return rc; /* a directory that is not there has no names to keep */
        if (!more)
            return 0;
    }
}

int dir_make_above(struct store_dir *d, const char *key)
{
    char path[STORE_KEY_MAX + DIR_TEMP_NAME_MAX];
    snprintf(path, sizeof(path), "%s", key);
    for (char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        int rc = d->io->ops->mkdir(d->io, d->root_fd, path);
        if (rc < 0 && rc != -EEXIST)
            return rc;
        *slash = '/';
    }
    return 0;
}

/* Ours, if the lock is: a cleaner that was faster has it, and removes the file. */
static bool temp_claimed(int fd)
{
    struct stat st;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
        return false; /* where there are no locks, cleaners remove nothing */
    return fstat(fd, &st) == 0 && st.st_nlink > 0;
}

int dir_temp_open(struct store_dir *d, bool *direct, char name[DIR_TEMP_NAME_MAX])
{
    static _Atomic unsigned long counter;
    int fd = -EBUSY;
    for (int i = 0; i < TEMP_TRIES; i++) {
        snprintf(name, DIR_TEMP_NAME_MAX, DIR_TMP "/%s-%ld-%lu", d->node, (long)getpid(),
                 atomic_fetch_add(&counter, 1));
        int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | (*direct ? O_DIRECT : 0);
        fd = d->io->ops->open(d->io, d->root_fd, name, flags, 0666);
        if (fd >= 0 && temp_claimed(fd))
            return fd;
        if (fd >= 0) {
            d->io->ops->close(d->io, fd);
            d->io->ops->unlink(d->io, d->root_fd, name);
            fd = -EBUSY;
        } else if (fd == -EINVAL && *direct) {
            d->io->ops->unlink(d->io, d->root_fd, name); /* some kernels have made it by then */
            *direct = false;
            d->buffered = true; /* shown in to_text */
        } else if (fd == -ENOENT && !dir_vanished(d)) {
            int rc = dir_make_above(d, name);
            if (rc < 0)
                return rc;
        } else if (fd != -EEXIST) {
            return fd;
        }
    }
    return fd;
}

/* Writers hold a lock as long as they live, in whatever container or pid
 * namespace.  So a file whose lock is free is a leftover. */
static void clean_one(struct store_dir *d, int tmpfd, const char *name)
{
    CLEANUP_FD int fd = openat(tmpfd, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
        return;
    d->io->ops->unlink(d->io, tmpfd, name);
}

void dir_temp_clean(struct store_dir *d)
{
    int fd = openat(d->root_fd, DIR_TMP, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        if (fd >= 0)
            close(fd);
        return;
    }
    size_t len = strlen(d->node);
    for (const struct dirent *e = readdir(dir); e; e = readdir(dir)) {
        bool ours = strncmp(e->d_name, d->node, len) == 0 && e->d_name[len] == '-';
        /* On a shared directory, other nodes' locks may not be visible here. */
        if (ours || (!d->shared && e->d_name[0] != '.'))
            clean_one(d, fd, e->d_name);
    }
    closedir(dir);
}

static enum ckpt_status dir_stat(struct store *s, const char *key, struct store_stat *ret,
                                 struct ckpt_err *err)
{
    struct store_dir *d = store_dir_of(s);
    struct stat st;
    dir_begin(d);
    int rc = d->io->ops->stat(d->io, d->root_fd, key, &st);
    if (rc == -ENOTDIR || (rc == 0 && !S_ISREG(st.st_mode)))
        rc = -ENOENT;
    if (rc < 0)
        return dir_error(d, err, rc, "stat", key);
    ret->bytes = (uint64_t)st.st_size;
    ret->mtime_ns = st.st_mtim.tv_sec * INT64_C(1000000000) + st.st_mtim.tv_nsec;
    return CKPT_OK;
}

/* Directories that become empty go too: an empty one is no prefix. */
static enum ckpt_status dir_remove(struct store *s, const char *key, struct ckpt_err *err)
{
    struct store_dir *d = store_dir_of(s);
    char above[STORE_KEY_MAX + 1];
    dir_begin(d);
    int rc = d->io->ops->unlink(d->io, d->root_fd, key);
    if (rc == -EISDIR || rc == -ENOTDIR || (rc == -ENOENT && !dir_vanished(d)))
        return CKPT_OK;
    if (rc < 0)
        return dir_error(d, err, rc, "remove", key);
    snprintf(above, sizeof(above), "%s", key);
    while (cut_last(above) && d->io->ops->rmdir(d->io, d->root_fd, above) == 0)
        continue;
    return CKPT_OK;
}

static enum ckpt_status dir_now(struct store *s, int64_t *ret_ns, struct ckpt_err *err)
{
    struct store_dir *d = store_dir_of(s);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    dir_begin(d);
    if (d->shared && !s->readonly) {
        /* The file server's clock is the one that all nodes see in mtimes. */
        char temp[DIR_TEMP_NAME_MAX];
        struct stat st;
        bool direct = false;
        int fd = dir_temp_open(d, &direct, temp);
        int rc = fd < 0 ? fd : fstat(fd, &st) < 0 ? -errno : 0;
        if (fd >= 0) {
            d->io->ops->close(d->io, fd);
            d->io->ops->unlink(d->io, d->root_fd, temp);
        }
        if (rc < 0)
            return dir_error(d, err, rc, "ask the time of", "");
        now = st.st_mtim;
    }
    *ret_ns = now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
    return CKPT_OK;
}

static void dir_to_text(const struct store *s, char *buf, size_t cap)
{
    const struct store_dir *d = (const struct store_dir *)s;
    snprintf(buf, cap, "dir %s%s, io %s (%s)%s%s", d->root, d->shared ? " (shared)" : "",
             d->io->ops->name, d->io->why,
             d->buffered ? ", buffered: the filesystem refuses direct I/O" : "",
             d->no_dirsync ? ", the filesystem cannot sync directories" : "");
}

static void dir_close(struct store *s)
{
    struct store_dir *d = store_dir_of(s);
    file_io_free(d->io);
    if (d->root_fd >= 0)
        close(d->root_fd);
    free(d->root);
    free(d->place);
    free(d->engine);
    free(d->node);
    free(d->bounce);
    store_base_fini(s);
    free(d);
}

static enum ckpt_status dir_dup(const struct store *s, struct store **ret, struct ckpt_err *err);

static const struct store_ops dir_ops = {
    .scheme = "dir",
    .put = dir_put,
    .get = dir_get,
    .stat = dir_stat,
    .list = dir_list,
    .remove = dir_remove,
    .sync = dir_sync,
    .now = dir_now,
    .dup = dir_dup,
    .to_text = dir_to_text,
    .close = dir_close,
};

/* Everything but the root's descriptor.  The caller closes it on failure too. */
static enum ckpt_status fill(struct store_dir *d, const char *url, const char *root,
                             const char *engine, const char *node, struct ckpt_err *err)
{
    d->root = strdup(root);
    d->engine = strdup(engine);
    d->node = strdup(node);
    if (!d->root || !d->engine || !d->node)
        return err_set(err, CKPT_NO_MEMORY, "no memory to open %s", url);
    enum ckpt_status st = store_base_init(&d->base, &dir_ops, url, err);
    return st != CKPT_OK ? st : file_io_new(engine, &d->io, err);
}

static enum ckpt_status dir_dup(const struct store *s, struct store **ret, struct ckpt_err *err)
{
    const struct store_dir *from = (const struct store_dir *)s;
    struct store_dir *d = calloc(1, sizeof(*d));
    if (!d)
        return err_set(err, CKPT_NO_MEMORY, "no memory to open %s", s->url);
    d->shared = from->shared;
    d->root_fd = fcntl(from->root_fd, F_DUPFD_CLOEXEC, 3);
    d->place = from->place ? strdup(from->place) : NULL;
    enum ckpt_status st = fill(d, s->url, from->root, from->engine, from->node, err);
    if (st == CKPT_OK && d->root_fd < 0)
        st = dir_error(d, err, -errno, "open", "");
    if (st != CKPT_OK) {
        dir_close(&d->base);
        return st;
    }
    *ret = &d->base;
    return CKPT_OK;
}

/* fsync of the directory that names `path`. */
static int fsync_parent(struct store_dir *d, char *path)
{
    if (!cut_last(path))
        memcpy(path, ".", 2);
    return fsync_at(d, AT_FDCWD, path[0] ? path : "/");
}

/* mkdir -p, each directory followed by fsync of the one that names it.  That also covers
 * a process that made one and was killed before its own fsync; only what we may not
 * open is left to its owner. */
static int make_root(struct store_dir *d, bool there)
{
    CLEANUP_FREE char *path = malloc(strlen(d->root) + 2);
    CLEANUP_FREE char *parent = malloc(strlen(d->root) + 2);
    if (!path || !parent)
        return -ENOMEM;
    size_t len = strlen(d->root);
    for (size_t i = 1; i <= len; i++) {
        if (d->root[i] != '/' && d->root[i] != 0)
            continue;
        memcpy(path, d->root, i);
        path[i] = 0;
        int made = there ? -EEXIST : d->io->ops->mkdir(d->io, AT_FDCWD, path);
        if (made < 0 && made != -EEXIST)
            return made;
        memcpy(parent, path, i + 1);
        int rc = fsync_parent(d, parent);
        if (rc < 0 && !(made == -EEXIST && (rc == -EACCES || rc == -EPERM)))
            return rc;
    }
    return 0;
}

static enum ckpt_status open_root(struct store_dir *d, bool create, struct ckpt_err *err)
{
    const int flags = O_RDONLY | O_DIRECTORY;
    d->root_fd = d->io->ops->open(d->io, AT_FDCWD, d->root, flags, 0);
    bool there = d->root_fd != -ENOENT;
    if (create && (!there || d->root_fd >= 0)) {
        int rc = make_root(d, there);
        if (rc < 0)
            return err_errno(err, -rc, "make the store directory %s%s", d->root, advice(-rc));
    }
    if (create && !there)
        d->root_fd = d->io->ops->open(d->io, AT_FDCWD, d->root, flags, 0);
    if (d->root_fd == -ENOTDIR)
        return err_set(err, CKPT_INVALID, "the store %s is not a directory", d->root);
    if (d->root_fd < 0)
        return err_errno(err, -d->root_fd, "open the store directory %s%s", d->root,
                         advice(-d->root_fd));
    return CKPT_OK;
}

static bool node_valid(const char *node)
{
    return store_key_valid(node) && !strchr(node, '/') && node[0] != '.' && strlen(node) <= 128;
}

static enum ckpt_status check_options(const struct store_url *url,
                                      const struct store_options *options, struct ckpt_err *err)
{
    if (url->path != url->text && strncmp(url->text, "dir://", 6) == 0 && url->path[0] != '/')
        return err_set(err, CKPT_INVALID, "%s: write dir:///absolute/path", url->text);
    if (url->query && !url->shared && strcmp(url->query, "shared=0") != 0)
        return err_set(err, CKPT_INVALID, "%s: a directory takes only ?shared=1", url->text);
    if (options->node && !node_valid(options->node))
        return err_set(err, CKPT_BAD_NAME, "\"%.80s\" is no node name", options->node);
    return CKPT_OK;
}

/* The root as a path that stays true when the process changes its directory. */
static char *absolute(const char *root)
{
    char here[4096], *path;
    if (root[0] == '/')
        return strdup(root);
    if (!getcwd(here, sizeof(here)) || asprintf(&path, "%s/%s", here, root) < 0)
        return NULL;
    return path;
}

enum ckpt_status store_dir_open(const struct store_url *url, const struct store_options *options,
                                struct store **ret, struct ckpt_err *err)
{
    enum ckpt_status st = check_options(url, options, err);
    if (st != CKPT_OK)
        return st;
    char node[32];
    uint64_t random = 0;
    if (getrandom(&random, sizeof(random), 0) < 0)
        return err_errno(err, errno, "open %s: getrandom", url->text);
    snprintf(node, sizeof(node), "x%016llx", (unsigned long long)random);
    struct store_dir *d = calloc(1, sizeof(*d));
    if (!d)
        return err_set(err, CKPT_NO_MEMORY, "no memory to open %s", url->text);
    d->root_fd = -1;
    d->shared = url->shared;
    d->place = absolute(url->path);
    st = fill(d, url->text, url->path, options->io ? options->io : "auto",
              options->node ? options->node : node, err);
    if (st == CKPT_OK)
        st = open_root(d, options->create && !options->readonly, err);
    if (st != CKPT_OK) {
        dir_close(&d->base);
        return st;
    }
    if (!options->readonly)
        dir_temp_clean(d);
    *ret = &d->base;
    return CKPT_OK;
}
