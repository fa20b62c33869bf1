/* mem://name: objects in this process's memory, for tests and simulation.
 *
 * One namespace per name; it lives as long as the process, so that closing and
 * opening again finds what was put, as on a disk.  One lock for all of it.  An
 * array sorted by key is both the table and the listing order. */
#include <pthread.h>
#include <stdio.h>
#include <time.h>

#include "storage/store/store_impl.h"

struct object {
    char *key;
    void *bytes;
    size_t len;
    int64_t mtime_ns;
};

struct space {
    char *name;
    struct object *objects; /* sorted by key */
    size_t count, cap;
    struct space *next;
};

static struct {
    pthread_mutex_t lock;
    struct space *spaces; /* all of it under lock */
} shared = { .lock = PTHREAD_MUTEX_INITIALIZER };

struct store_mem {
    struct store base;
    struct space *space;
};

static struct space *space_of(struct store *s)
{
    return ((struct store_mem *)s)->space;
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Index of the first object whose key is >= `key`. */
static size_t lower_bound(const struct space *space, const char *key)
{
    size_t low = 0, high = space->count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (strcmp(space->objects[mid].key, key) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static struct object *find(const struct space *space, const char *key)
{
    size_t at = lower_bound(space, key);
    if (at == space->count || strcmp(space->objects[at].key, key) != 0)
        return NULL;
    return &space->objects[at];
}

static bool grow(struct space *space)
{
    if (space->count < space->cap)
        return true;
    size_t cap = space->cap ? space->cap * 2 : 64;
    struct object *objects = realloc(space->objects, cap * sizeof(*objects));
    if (!objects)
        return false;
    space->objects = objects;
    space->cap = cap;
    return true;
}

/* Takes `key` and `object->bytes` on success only. */
static bool insert(struct space *space, struct object object)
{
    if (!grow(space))
        return false;
    size_t at = lower_bound(space, object.key);
    memmove(&space->objects[at + 1], &space->objects[at],
            (space->count - at) * sizeof(space->objects[0]));
    space->objects[at] = object;
    space->count++;
    return true;
}

static enum ckpt_status no_memory(struct ckpt_err *err, const char *key)
{
    return err_set(err, CKPT_NO_MEMORY, "no memory to put %s", key);
}

static enum ckpt_status put_locked(struct space *space, const char *key, struct object *fresh,
                                   unsigned flags, struct ckpt_err *err)
{
    struct object *old = find(space, key);
    if (old && (flags & STORE_IF_ABSENT)) {
        if (old->len == fresh->len && memcmp(old->bytes, fresh->bytes, old->len) == 0)
            return CKPT_OK;
        return err_set(err, CKPT_CONFLICT, "put %s: there are other bytes under this key", key);
    }
    if (!old)
        return insert(space, *fresh) ? (*fresh = (struct object){ 0 }, CKPT_OK)
                                     : no_memory(err, key);
    struct object swap = *old;
    old->bytes = fresh->bytes;
    old->len = fresh->len;
    old->mtime_ns = fresh->mtime_ns;
    fresh->bytes = swap.bytes;
    return CKPT_OK;
}

static enum ckpt_status mem_put(struct store *s, const char *key, const struct iovec *iov,
                                int count, unsigned flags, struct ckpt_err *err)
{
    struct object fresh = { .len = store_iov_bytes(iov, count), .mtime_ns = now_ns() };
    fresh.bytes = malloc(fresh.len + 1);
    fresh.key = strdup(key);
    enum ckpt_status st = fresh.bytes && fresh.key ? CKPT_OK : no_memory(err, key);
    if (st == CKPT_OK) {
        char *at = fresh.bytes;
        for (int i = 0; i < count; i++) {
            if (iov[i].iov_len)
                at = (char *)memcpy(at, iov[i].iov_base, iov[i].iov_len) + iov[i].iov_len;
        }
        pthread_mutex_lock(&shared.lock);
        st = put_locked(space_of(s), key, &fresh, flags, err);
        pthread_mutex_unlock(&shared.lock);
    }
    free(fresh.bytes);
    free(fresh.key);
    return st;
}

static enum ckpt_status get_locked(const struct space *space, const char *key,
                                   const struct store_range *ranges, size_t count,
                                   struct ckpt_err *err)
{
    const struct object *o = find(space, key);
    if (!o)
        return err_set(err, CKPT_NOT_FOUND, "get %s: no such object in mem://%s", key, space->name);
    for (size_t i = 0; i < count; i++) {
        if (ranges[i].offset > o->len || ranges[i].bytes > o->len - ranges[i].offset)
            return err_set(
                err, CKPT_CORRUPT, "get %s: bytes %llu + %llu lie beyond its end (%zu bytes)", key,
                (unsigned long long)ranges[i].offset, (unsigned long long)ranges[i].bytes, o->len);
    }
    for (size_t i = 0; i < count; i++) {
        if (ranges[i].bytes)
            memcpy(ranges[i].base, (const char *)o->bytes + ranges[i].offset, ranges[i].bytes);
    }
    return CKPT_OK;
}

static enum ckpt_status mem_get(struct store *s, const char *key, const struct store_range *ranges,
                                size_t count, struct ckpt_err *err)
{
    pthread_mutex_lock(&shared.lock);
    enum ckpt_status st = get_locked(space_of(s), key, ranges, count, err);
    pthread_mutex_unlock(&shared.lock);
    return st;
}

static enum ckpt_status mem_stat(struct store *s, const char *key, struct store_stat *ret,
                                 struct ckpt_err *err)
{
    pthread_mutex_lock(&shared.lock);
    const struct object *o = find(space_of(s), key);
    if (o)
        *ret = (struct store_stat){ .bytes = o->len, .mtime_ns = o->mtime_ns };
    pthread_mutex_unlock(&shared.lock);
    return o ? CKPT_OK : err_set(err, CKPT_NOT_FOUND, "stat %s: no such object in %s", key, s->url);
}

static struct store_entry entry_of(const struct object *o, size_t prefix_len, bool one_level)
{
    struct store_entry entry = { .stat = { .bytes = o->len, .mtime_ns = o->mtime_ns } };
    const char *slash = one_level ? strchr(o->key + prefix_len, '/') : NULL;
    size_t len = slash ? (size_t)(slash - o->key) + 1 : strlen(o->key);
    memcpy(entry.key, o->key, len);
    if (slash)
        entry.stat = (struct store_stat){ .bytes = UINT64_MAX };
    return entry;
}

static enum ckpt_status mem_list(struct store *s, const char *prefix, bool one_level,
                                 const char *after, struct store_entry *entries, size_t cap,
                                 size_t *ret_count, bool *ret_more, struct ckpt_err *err)
{
    (void)err;
    size_t len = strlen(prefix), count = 0;
    bool more = false;
    pthread_mutex_lock(&shared.lock);
    const struct space *space = space_of(s);
    for (size_t i = lower_bound(space, prefix); i < space->count && !more; i++) {
        if (strncmp(space->objects[i].key, prefix, len) != 0)
            break;
        struct store_entry entry = entry_of(&space->objects[i], len, one_level);
        if (strcmp(entry.key, count ? entries[count - 1].key : after) <= 0)
            continue;
        more = count == cap;
        if (!more)
            entries[count++] = entry;
    }
    pthread_mutex_unlock(&shared.lock);
    *ret_count = count;
    *ret_more = more;
    return CKPT_OK;
}

static enum ckpt_status mem_remove(struct store *s, const char *key, struct ckpt_err *err)
{
    (void)err;
    struct space *space = space_of(s);
    struct object gone = { 0 };
    pthread_mutex_lock(&shared.lock);
    struct object *o = find(space, key);
    if (o) {
        gone = *o;
        space->count--;
        memmove(o, o + 1, (size_t)(&space->objects[space->count] - o) * sizeof(*o));
    }
    pthread_mutex_unlock(&shared.lock);
    free(gone.key);
    free(gone.bytes);
    return CKPT_OK;
}

static enum ckpt_status mem_sync(struct store *s, const char *prefix, struct ckpt_err *err)
{
    (void)s, (void)prefix, (void)err;
    return CKPT_OK;
}

static enum ckpt_status mem_now(struct store *s, int64_t *ret_ns, struct ckpt_err *err)
{
    (void)s, (void)err;
    *ret_ns = now_ns();
    return CKPT_OK;
}

static void mem_to_text(const struct store *s, char *buf, size_t cap)
{
    snprintf(buf, cap, "%s (memory of this process)", s->url);
}

static void mem_close(struct store *s)
{
    store_base_fini(s);
    free(s);
}

static enum ckpt_status mem_dup(const struct store *s, struct store **ret, struct ckpt_err *err);

static const struct store_ops mem_ops = {
    .scheme = "mem",
    .put = mem_put,
    .get = mem_get,
    .stat = mem_stat,
    .list = mem_list,
    .remove = mem_remove,
    .sync = mem_sync,
    .now = mem_now,
    .dup = mem_dup,
    .to_text = mem_to_text,
    .close = mem_close,
};

static enum ckpt_status handle_new(const char *url, struct space *space, struct store **ret,
                                   struct ckpt_err *err)
{
    CLEANUP_FREE struct store_mem *m = calloc(1, sizeof(*m));
    if (!m)
        return err_set(err, CKPT_NO_MEMORY, "no memory to open %s", url);
    m->space = space;
    enum ckpt_status st = store_base_init(&m->base, &mem_ops, url, err);
    if (st != CKPT_OK)
        return st;
    *ret = &TAKE_PTR(m)->base;
    return CKPT_OK;
}

static enum ckpt_status mem_dup(const struct store *s, struct store **ret, struct ckpt_err *err)
{
    return handle_new(s->url, ((const struct store_mem *)s)->space, ret, err);
}

/* Under the lock.  NULL = no memory. */
static struct space *space_named(const char *name)
{
    for (struct space *space = shared.spaces; space; space = space->next) {
        if (strcmp(space->name, name) == 0)
            return space;
    }
    CLEANUP_FREE struct space *space = calloc(1, sizeof(*space));
    if (!space)
        return NULL;
    space->name = strdup(name);
    if (!space->name)
        return NULL;
    space->next = shared.spaces;
    shared.spaces = space;
    return TAKE_PTR(space);
}

enum ckpt_status store_mem_open(const struct store_url *url, const struct store_options *options,
                                struct store **ret, struct ckpt_err *err)
{
    (void)options;
    if (url->query)
        return err_set(err, CKPT_INVALID, "%s: mem:// takes no parameters", url->text);
    pthread_mutex_lock(&shared.lock);
    struct space *space = space_named(url->path);
    pthread_mutex_unlock(&shared.lock);
    if (!space)
        return err_set(err, CKPT_NO_MEMORY, "no memory to open %s", url->text);
    return handle_new(url->text, space, ret, err);
}
