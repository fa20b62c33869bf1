/* dir: listing, and making names durable.  Both walk the tree below a prefix.
 *
 * Keys are listed in byte order.  A directory "a" stands for keys that start with
 * "a/", so it is sorted as "a/": after "a.b", before "a0".  Whatever is no valid
 * key (foreign files, links, .tmp) is passed over.  Directories without any
 * object in them are no prefixes: a remover may just be taking them away. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>

#include "storage/store/store_dir.h"

struct name {
    char *text; /* with '/' behind a directory */
};
struct names {
    struct name *v;
    size_t count, cap;
};

struct walk {
    struct store_dir *d;
    char path[STORE_KEY_MAX + STORE_PART_MAX + 2]; /* "" or "a/b/": where the walk is */
    size_t len;
    /* dir_list only */
    bool one_level, more;
    const char *after;
    struct store_entry *entries;
    size_t cap, count;
};

static void names_free(struct names *names)
{
    for (size_t i = 0; i < names->count; i++)
        free(names->v[i].text);
    free(names->v);
}

static bool is_dir_name(const char *text)
{
    return text[strlen(text) - 1] == '/';
}

static int by_text(const void *a, const void *b)
{
    return strcmp(((const struct name *)a)->text, ((const struct name *)b)->text);
}

static int names_add(struct names *names, const char *text, bool is_dir)
{
    if (names->count == names->cap) {
        size_t cap = names->cap ? names->cap * 2 : 64;
        struct name *v = realloc(names->v, cap * sizeof(*v));
        if (!v)
            return -ENOMEM;
        names->v = v;
        names->cap = cap;
    }
    size_t len = strlen(text);
    char *copy = malloc(len + 2);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, text, len);
    copy[len] = is_dir ? '/' : 0;
    copy[len + is_dir] = 0;
    names->v[names->count++].text = copy;
    return 0;
}

/* DT_REG, DT_DIR or anything else (passed over). */
static int type_of(const struct dirent *e, int dirfd)
{
    struct stat st;
    if (e->d_type != DT_UNKNOWN)
        return e->d_type;
    if (fstatat(dirfd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return DT_UNKNOWN;
    return S_ISREG(st.st_mode) ? DT_REG : S_ISDIR(st.st_mode) ? DT_DIR : DT_UNKNOWN;
}

static int read_names(DIR *dir, struct names *names)
{
    for (;;) {
        errno = 0;
        const struct dirent *e = readdir(dir);
        if (!e)
            return -errno;
        int type = type_of(e, dirfd(dir));
        if (!store_key_valid(e->d_name) || (type != DT_REG && type != DT_DIR))
            continue;
        int rc = names_add(names, e->d_name, type == DT_DIR);
        if (rc < 0)
            return rc;
    }
}

/* The names in the directory w->path, sorted.  A directory that is not there has
 * none; 0 or -errno, and the caller frees `names` in either case. */
static int scan(struct walk *w, struct names *names)
{
    struct store_dir *d = w->d;
    char path[sizeof(w->path)] = ".";
    if (w->len > 0) {
        memcpy(path, w->path, w->len);
        path[w->len - 1] = 0;
    }
    int fd = d->io->ops->open(d->io, d->root_fd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    if (fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP)
        return dir_vanished(d) ? -ENOENT : 0;
    if (fd < 0)
        return fd;
    DIR *dir = fdopendir(fd);
    if (!dir) {
        int rc = -errno;
        d->io->ops->close(d->io, fd);
        return rc;
    }
    int rc = read_names(dir, names);
    closedir(dir);
    if (rc == 0 && names->count == 0 && dir_vanished(d))
        rc = -ENOENT; /* a removed directory reads as an empty one */
    if (names->count > 1)
        qsort(names->v, names->count, sizeof(names->v[0]), by_text);
    return rc;
}

/* Goes one name down; false if the key would be too long to be one of ours. */
static bool push(struct walk *w, const char *text)
{
    size_t len = strlen(text);
    if (w->len + len > STORE_KEY_MAX)
        return false;
    memcpy(w->path + w->len, text, len + 1);
    w->len += len;
    return true;
}

static void pop(struct walk *w, size_t len)
{
    w->len = len;
    w->path[len] = 0;
}

/* 1 if there is an object in w->path or below, 0 if not, -errno. */
static int has_object(struct walk *w)
{
    struct names names = { 0 };
    size_t here = w->len;
    int rc = scan(w, &names);
    for (size_t i = 0; i < names.count && rc == 0; i++) {
        if (!is_dir_name(names.v[i].text))
            rc = 1;
        else if (push(w, names.v[i].text))
            rc = has_object(w);
        pop(w, here);
    }
    names_free(&names);
    return rc;
}

static void emit(struct walk *w, struct store_stat stat)
{
    if (w->count == w->cap) {
        w->more = true;
        return;
    }
    struct store_entry *e = &w->entries[w->count++];
    memcpy(e->key, w->path, w->len + 1);
    e->stat = stat;
}

static int list_file(struct walk *w)
{
    struct stat st;
    if (strcmp(w->path, w->after) <= 0)
        return 0;
    int rc = w->d->io->ops->stat(w->d->io, w->d->root_fd, w->path, &st);
    if (rc == -ENOENT)
        return 0; /* removed since the directory was read */
    if (rc < 0)
        return rc;
    emit(w, (struct store_stat){ .bytes = (uint64_t)st.st_size,
                                 .mtime_ns = st.st_mtim.tv_sec * INT64_C(1000000000) +
                                             st.st_mtim.tv_nsec });
    return 0;
}

static int list_below(struct walk *w);

static int list_dir(struct walk *w)
{
    if (!w->one_level) /* wholly before `after`: no need to look in */
        return strncmp(w->after, w->path, w->len) > 0 ? 0 : list_below(w);
    if (strcmp(w->path, w->after) <= 0)
        return 0;
    int rc = has_object(w);
    if (rc == 1)
        emit(w, (struct store_stat){ .bytes = UINT64_MAX });
    return rc < 0 ? rc : 0;
}

static int list_below(struct walk *w)
{
    struct names names = { 0 };
    size_t here = w->len;
    int rc = scan(w, &names);
    for (size_t i = 0; i < names.count && rc == 0 && !w->more; i++) {
        if (push(w, names.v[i].text))
            rc = is_dir_name(names.v[i].text) ? list_dir(w) : list_file(w);
        pop(w, here);
    }
    names_free(&names);
    return rc;
}

enum ckpt_status dir_list(struct store *s, const char *prefix, bool one_level, const char *after,
                          struct store_entry *entries, size_t cap, size_t *ret_count,
                          bool *ret_more, struct ckpt_err *err)
{
    struct walk w = {
        .d = store_dir_of(s),
        .one_level = one_level,
        .after = after,
        .entries = entries,
        .cap = cap,
    };
    dir_begin(w.d);
    push(&w, prefix);
    int rc = list_below(&w);
    if (rc < 0)
        return dir_error(w.d, err, rc, "list", w.path);
    *ret_count = w.count;
    *ret_more = w.more;
    return CKPT_OK;
}

/* fsync of w->path and of every directory below it. */
static int sync_below(struct walk *w)
{
    struct names names = { 0 };
    size_t here = w->len;
    int rc = dir_fsync(w->d, w->path);
    if (rc == -ENOENT || rc == -ENOTDIR)
        return dir_vanished(w->d) ? rc : 0;
    if (rc == 0)
        rc = scan(w, &names);
    for (size_t i = 0; i < names.count && rc == 0; i++) {
        if (is_dir_name(names.v[i].text) && push(w, names.v[i].text))
            rc = sync_below(w);
        pop(w, here);
    }
    names_free(&names);
    return rc;
}

enum ckpt_status dir_sync(struct store *s, const char *prefix, struct ckpt_err *err)
{
    struct walk w = { .d = store_dir_of(s) };
    dir_begin(w.d);
    push(&w, prefix);
    int rc = sync_below(&w);
    if (rc == 0 && prefix[0]) {
        char self[STORE_KEY_MAX + 1];
        snprintf(self, sizeof(self), "%.*s", (int)strlen(prefix) - 1, prefix);
        rc = dir_fsync_above(w.d, self);
    }
    return rc < 0 ? dir_error(w.d, err, rc, "fsync the directories of", prefix) : CKPT_OK;
}
