/* Files that appear under their names only when all of them are complete. */
#include "tools/export_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "formats/digest.h"
#include "tools/output.h"

#define TEMP_PREFIX ".ckpt-restore-"

/* -- the directory ------------------------------------------------------- */

/* mkdir with parents; *ret_made says whether the last one is new. */
static enum ckpt_status make_dirs(const char *path, bool *ret_made, struct ckpt_err *err)
{
    CLEANUP_FREE char *copy = strdup(path);
    if (!copy)
        return err_set(err, CKPT_NO_MEMORY, "no memory to make directory %s", path);
    for (char *slash = copy + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = 0;
        if (mkdir(copy, 0777) != 0 && errno != EEXIST)
            return err_errno(err, errno, "cannot make directory %s", copy);
    }
    *ret_made = mkdir(path, 0777) == 0;
    if (!*ret_made && errno != EEXIST)
        return err_errno(err, errno, "cannot make directory %s", path);
    return CKPT_OK;
}

/* Removes the temporary file of a restore that is no more; true if `name` is one. */
static bool sweep_temp(int dir, const char *name)
{
    if (strncmp(name, TEMP_PREFIX, strlen(TEMP_PREFIX)) != 0)
        return false;
    long pid = strtol(name + strlen(TEMP_PREFIX), NULL, 10);
    if (pid > 0 && pid <= INT_MAX && kill((pid_t)pid, 0) != 0 && errno == ESRCH)
        unlinkat(dir, name, 0);
    return true;
}

static enum ckpt_status check_empty(const char *path, bool force, struct ckpt_err *err)
{
    DIR *d = opendir(path);
    if (!d)
        return err_errno(err, errno, "cannot look into %s", path);
    const struct dirent *e;
    bool empty = true;
    while ((e = readdir(d))) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            empty &= sweep_temp(dirfd(d), e->d_name);
    }
    closedir(d);
    if (!empty && !force)
        return err_set(err, CKPT_REFUSED,
                       "%s is not empty: name another directory, or --force to replace files of "
                       "the same names",
                       path);
    return CKPT_OK;
}

enum ckpt_status export_files_init(struct export_files *f, const char *dir, bool force,
                                   struct ckpt_err *err)
{
    *f = (struct export_files){ .dir = dir };
    enum ckpt_status st = make_dirs(dir, &f->made_dir, err);
    return st == CKPT_OK ? check_empty(dir, force, err) : st;
}

static enum ckpt_status sync_dir(const char *path, struct ckpt_err *err)
{
    CLEANUP_FD int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) != 0)
        return err_errno(err, errno, "cannot make directory %s durable", path);
    return CKPT_OK;
}

/* -- making files -------------------------------------------------------- */

/* Appends a file with a fresh temporary name and descriptor. */
static enum ckpt_status new_file(struct export_files *f, const char *name, struct export_file **ret,
                                 struct ckpt_err *err)
{
    struct export_file *more = reallocarray(f->files, f->count + 1, sizeof(*more));
    if (!more)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the list of files");
    f->files = more;
    struct export_file *file = &f->files[f->count];
    *file = (struct export_file){ .fd = -1, .name = strdup(name) };
    if (asprintf(&file->temp, "%s/" TEMP_PREFIX "%ld-%zu", f->dir, (long)getpid(), f->count) < 0)
        file->temp = NULL;
    f->count++;
    if (!file->name || !file->temp)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the list of files");
    file->fd = open(file->temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file->fd < 0)
        return err_errno(err, errno, "cannot make a file in %s", f->dir);
    *ret = file;
    return CKPT_OK;
}

enum ckpt_status export_files_map(struct export_files *f, const char *name, uint64_t bytes,
                                  void **ret, struct ckpt_err *err)
{
    struct export_file *file;
    enum ckpt_status st = new_file(f, name, &file, err);
    if (st != CKPT_OK)
        return st;
    int failed = posix_fallocate(file->fd, 0, (off_t)bytes);
    if (failed)
        return err_errno(err, failed, "cannot allocate %llu bytes for %s/%s",
                         (unsigned long long)bytes, f->dir, name);
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file->fd, 0);
    if (map == MAP_FAILED)
        return err_errno(err, errno, "cannot map %s/%s", f->dir, name);
    file->map = map;
    file->bytes = bytes;
    *ret = map;
    return CKPT_OK;
}

enum ckpt_status export_files_write(struct export_files *f, const char *name, const void *bytes,
                                    uint64_t len, struct ckpt_err *err)
{
    struct export_file *file;
    enum ckpt_status st = new_file(f, name, &file, err);
    if (st != CKPT_OK)
        return st;
    const uint8_t *at = bytes;
    for (uint64_t left = len; left > 0;) {
        ssize_t n = write(file->fd, at, min_u64(left, 1 << 30));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(err, errno, "cannot write %s/%s", f->dir, name);
        at += n;
        left -= (uint64_t)n;
    }
    return CKPT_OK;
}

/* -- commit -------------------------------------------------------------- */

/* Unmaps first: fsync then also covers what was written through the mapping. */
static enum ckpt_status settle(const struct export_files *f, struct export_file *file,
                               struct ckpt_err *err)
{
    if (file->map)
        munmap(file->map, file->bytes);
    file->map = NULL;
    if (fsync(file->fd) != 0)
        return err_errno(err, errno, "cannot make %s/%s durable", f->dir, file->name);
    close(TAKE_FD(file->fd));
    return CKPT_OK;
}

/* dir/name with the directories of its parts made. */
static enum ckpt_status place_nested(const struct export_files *f, const struct export_file *file,
                                     struct ckpt_err *err)
{
    CLEANUP_FREE char *path = NULL;
    if (asprintf(&path, "%s/%s", f->dir, file->name) < 0)
        return err_set(err, CKPT_NO_MEMORY, "no memory for a path");
    char *slash = strrchr(path, '/');
    bool made;
    *slash = 0;
    enum ckpt_status st = make_dirs(path, &made, err);
    if (st != CKPT_OK)
        return st;
    *slash = '/';
    if (rename(file->temp, path) != 0)
        return err_errno(err, errno, "cannot write %s", path);
    /* Every directory on the way may be new. */
    for (; st == CKPT_OK && strlen(path) > strlen(f->dir); slash = strrchr(path, '/')) {
        *slash = 0;
        st = sync_dir(path, err);
    }
    return st;
}

/* A name that is no path here (too long a part, or a file where a directory must be)
 * becomes "objects/<hash>". */
static enum ckpt_status place_flat(const struct export_files *f, const struct export_file *file,
                                   struct ckpt_err *err)
{
    CLEANUP_FREE char *path = NULL;
    bool made;
    uint64_t hash = digest_hash(file->name, strlen(file->name));
    if (asprintf(&path, "%s/objects", f->dir) < 0)
        return err_set(err, CKPT_NO_MEMORY, "no memory for a path");
    enum ckpt_status st = make_dirs(path, &made, err);
    if (st != CKPT_OK)
        return st;
    free(TAKE_PTR(path));
    if (asprintf(&path, "%s/objects/%%%016llx", f->dir, (unsigned long long)hash) < 0)
        return err_set(err, CKPT_NO_MEMORY, "no memory for a path");
    if (rename(file->temp, path) != 0)
        return err_errno(err, errno, "cannot write %s", path);
    output_line(stderr, "ckpt: \"%.80s...\" cannot be a path in %s; it is %s", file->name, f->dir,
                path);
    path[strlen(path) - 18] = 0;
    return sync_dir(path, err);
}

enum ckpt_status export_files_commit(struct export_files *f, struct ckpt_err *err)
{
    for (size_t i = 0; i < f->count; i++) {
        enum ckpt_status st = settle(f, &f->files[i], err);
        if (st != CKPT_OK)
            return st;
    }
    for (size_t i = 0; i < f->count; i++) {
        struct ckpt_err nested = { 0 };
        enum ckpt_status st = place_nested(f, &f->files[i], &nested);
        if (st != CKPT_OK && strncmp(f->files[i].name, "objects/", 8) == 0)
            st = place_flat(f, &f->files[i], err);
        if (st != CKPT_OK)
            return err_set(err, st, "%s", err_text(&nested));
        free(TAKE_PTR(f->files[i].temp));
    }
    f->made_dir = false;
    return sync_dir(f->dir, err);
}

void export_files_fini(struct export_files *f)
{
    for (size_t i = 0; i < f->count; i++) {
        struct export_file *file = &f->files[i];
        if (file->map)
            munmap(file->map, file->bytes);
        if (file->fd >= 0)
            close(file->fd);
        if (file->temp)
            unlink(file->temp);
        free(file->temp);
        free(file->name);
    }
    free(f->files);
    if (f->made_dir)
        rmdir(f->dir);
    *f = (struct export_files){ 0 };
}
