/* The model of a disk.  See disk.h. */
#include "crash/disk.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "formats/base.h"

/* ---- the log ---- */

static void *grown(void *p, size_t count, size_t each)
{
    p = realloc(p, count * each);
    CHECK(p);
    return p;
}

struct disk_event *disk_log_add(struct disk_log *log, enum disk_op op)
{
    if (log->count == log->cap) {
        log->cap = log->cap ? 2 * log->cap : 256;
        log->events = grown(log->events, log->cap, sizeof(*log->events));
    }
    struct disk_event *e = &log->events[log->count++];
    *e = (struct disk_event){ .op = op };
    return e;
}

void disk_log_fini(struct disk_log *log)
{
    for (size_t i = 0; i < log->count; i++)
        free(log->events[i].data);
    free(log->events);
    *log = (struct disk_log){ 0 };
}

/* ---- inodes and entries ---- */

static struct disk_inode *inode_at(struct disk *d, uint32_t ino)
{
    if (ino >= d->inode_count) {
        d->inodes = grown(d->inodes, ino + 1, sizeof(*d->inodes));
        memset(d->inodes + d->inode_count, 0, (ino + 1 - d->inode_count) * sizeof(*d->inodes));
        d->inode_count = ino + 1;
    }
    struct disk_inode *i = &d->inodes[ino];
    if (!i->sizes) {
        i->sizes = calloc(1, sizeof(*i->sizes));
        CHECK(i->sizes);
        i->size_versions.count = 1;
    }
    return i;
}

void disk_init(struct disk *d)
{
    *d = (struct disk){ 0 };
    inode_at(d, DISK_ROOT)->is_dir = true;
}

/* The last version becomes the durable one.  Returns true if there were others. */
static bool versions_sync(struct disk_versions *v)
{
    bool any = v->count > 1;
    v->count = 1;
    v->pick = 0;
    v->bare = false;
    return any;
}

static bool versions_bare(struct disk_versions *v)
{
    v->bare = v->bare || v->count > 1;
    return v->count > 1;
}

static void versions_add(struct disk *d, struct disk_versions *v)
{
    v->count++;
    v->since = d->events;
}

static void block_forget(struct disk_block *b, uint32_t keep_from)
{
    for (uint32_t i = 0; i < keep_from; i++)
        free(b->v[i]);
    memmove(b->v, b->v + keep_from, (b->versions.count - keep_from) * sizeof(*b->v));
}

void disk_fini(struct disk *d)
{
    for (uint32_t i = 0; i < d->inode_count; i++) {
        for (uint64_t b = 0; b < d->inodes[i].block_count; b++) {
            block_forget(&d->inodes[i].blocks[b], d->inodes[i].blocks[b].versions.count);
            free(d->inodes[i].blocks[b].v);
        }
        free(d->inodes[i].blocks);
        free(d->inodes[i].sizes);
    }
    for (uint32_t i = 0; i < d->entry_count; i++)
        free(d->entries[i].v);
    free(d->inodes);
    free(d->entries);
    *d = (struct disk){ 0 };
}

static uint32_t visible(const struct disk_entry *e)
{
    return e->v[e->versions.count - 1];
}

static const struct disk_entry *entry_find(const struct disk *d, uint32_t dir, const char *name)
{
    for (uint32_t i = 0; i < d->entry_count; i++)
        if (d->entries[i].dir == dir && strcmp(d->entries[i].name, name) == 0)
            return &d->entries[i];
    return NULL;
}

uint32_t disk_parent(const struct disk *d, const char *path, char name[DISK_NAME])
{
    uint32_t dir = DISK_ROOT;
    for (;;) {
        while (*path == '/')
            path++;
        size_t len = strcspn(path, "/");
        CHECK(len < DISK_NAME);
        memcpy(name, path, len);
        name[len] = 0;
        path += len;
        if (path[strspn(path, "/")] == 0)
            return dir;
        const struct disk_entry *e = entry_find(d, dir, name);
        dir = e ? visible(e) : 0;
        if (!dir)
            return 0;
    }
}

uint32_t disk_find(const struct disk *d, const char *path)
{
    char name[DISK_NAME];
    uint32_t dir = disk_parent(d, path, name);
    if (!name[0])
        return dir;
    const struct disk_entry *e = dir ? entry_find(d, dir, name) : NULL;
    return e ? visible(e) : 0;
}

static bool below_tmp(const struct disk *d, uint32_t dir)
{
    for (uint32_t i = 0; i < d->entry_count; i++)
        if (visible(&d->entries[i]) == dir)
            return strcmp(d->entries[i].name, ".tmp") == 0;
    return false;
}

static void entry_set(struct disk *d, uint32_t dir, const char *name, uint32_t ino)
{
    const struct disk_entry *found = entry_find(d, dir, name);
    struct disk_entry *e = found ? &d->entries[found - d->entries] : NULL;
    if (!e) {
        bool temporary = below_tmp(d, dir);
        d->entries = grown(d->entries, d->entry_count + 1, sizeof(*d->entries));
        e = &d->entries[d->entry_count++];
        *e = (struct disk_entry){ .dir = dir, .versions = { .count = 1, .temporary = temporary } };
        snprintf(e->name, sizeof(e->name), "%s", name);
        e->v = calloc(1, sizeof(*e->v));
        CHECK(e->v);
    }
    e->v = grown(e->v, e->versions.count + 1, sizeof(*e->v));
    e->v[e->versions.count] = ino;
    versions_add(d, &e->versions);
    if (ino && !e->versions.temporary)
        inode_at(d, ino)->named = true;
}

/* ---- events ---- */

static void write_block(struct disk *d, struct disk_inode *i, uint64_t at,
                        const struct disk_event *e)
{
    struct disk_block *b = &i->blocks[at];
    uint32_t count = b->versions.count;
    uint64_t start = max_u64(at * CKPT_BLOCK, e->offset);
    uint64_t end = min_u64((at + 1) * CKPT_BLOCK, e->offset + e->bytes);
    uint8_t *version = calloc(1, CKPT_BLOCK);
    CHECK(version);
    if (b->v[count - 1])
        memcpy(version, b->v[count - 1], CKPT_BLOCK);
    memcpy(version + (start - at * CKPT_BLOCK), e->data + (start - e->offset), end - start);
    b->v = grown(b->v, count + 1, sizeof(*b->v));
    b->v[count] = version;
    versions_add(d, &b->versions);
}

static uint64_t visible_size(const struct disk_inode *i)
{
    return i->sizes[i->size_versions.count - 1];
}

static void set_size(struct disk *d, struct disk_inode *i, uint64_t bytes)
{
    if (visible_size(i) == bytes)
        return;
    i->sizes = grown(i->sizes, i->size_versions.count + 1, sizeof(*i->sizes));
    i->sizes[i->size_versions.count] = bytes;
    versions_add(d, &i->size_versions);
}

static void apply_write(struct disk *d, struct disk_inode *i, const struct disk_event *e)
{
    uint64_t end = e->offset + e->bytes;
    uint64_t blocks = div_up(end, CKPT_BLOCK);
    if (blocks > i->block_count) {
        i->blocks = grown(i->blocks, blocks, sizeof(*i->blocks));
        for (uint64_t b = i->block_count; b < blocks; b++) {
            i->blocks[b] =
                (struct disk_block){ .versions.count = 1, .v = calloc(1, sizeof(uint8_t *)) };
            CHECK(i->blocks[b].v);
        }
        i->block_count = blocks;
    }
    for (uint64_t b = e->offset / CKPT_BLOCK; b < blocks; b++)
        write_block(d, i, b, e);
    set_size(d, i, max_u64(end, visible_size(i)));
}

static bool sync_file(struct disk_inode *i, bool swallow)
{
    bool any = swallow && versions_bare(&i->size_versions);
    for (uint64_t b = 0; b < i->block_count; b++) {
        struct disk_block *block = &i->blocks[b];
        if (swallow) {
            any |= versions_bare(&block->versions);
            continue;
        }
        block_forget(block, block->versions.count - 1);
        any |= versions_sync(&block->versions);
    }
    if (swallow)
        return any;
    i->sizes[0] = visible_size(i);
    return versions_sync(&i->size_versions) || any;
}

static bool sync_entry(struct disk_entry *e, bool swallow)
{
    if (swallow)
        return versions_bare(&e->versions);
    e->v[0] = visible(e);
    return versions_sync(&e->versions);
}

static bool sync_dir(struct disk *d, uint32_t ino, bool swallow)
{
    bool any = false;
    for (uint32_t i = 0; i < d->entry_count; i++)
        if (d->entries[i].dir == ino)
            any |= sync_entry(&d->entries[i], swallow);
    return any;
}

void disk_settle(struct disk *d)
{
    for (uint32_t i = 0; i < d->entry_count; i++)
        sync_entry(&d->entries[i], false);
    for (uint32_t i = DISK_ROOT; i < d->inode_count; i++)
        if (d->inodes[i].sizes)
            sync_file(&d->inodes[i], false);
}

bool disk_apply(struct disk *d, const struct disk_event *e, bool swallow)
{
    struct disk_inode *i = e->ino ? inode_at(d, e->ino) : NULL;
    d->events++;
    switch (e->op) {
    case DISK_CREATE:
    case DISK_MKDIR:
        i->is_dir = e->op == DISK_MKDIR;
        entry_set(d, e->dir, e->name, e->ino);
        break;
    case DISK_LINK:
        entry_set(d, e->dir, e->name, e->ino);
        break;
    case DISK_RENAME:
        entry_set(d, e->to_dir, e->to_name, e->ino);
        entry_set(d, e->dir, e->name, 0);
        break;
    case DISK_UNLINK:
        entry_set(d, e->dir, e->name, 0);
        break;
    case DISK_WRITE:
        i->known = false;
        apply_write(d, i, e);
        break;
    case DISK_SIZE:
        i->known = false;
        set_size(d, i, e->bytes);
        break;
    case DISK_SYNC:
        return i->is_dir ? sync_dir(d, e->ino, swallow) : sync_file(i, swallow);
    case DISK_MARK:
        break;
    }
    return false;
}

/* ---- states ---- */

static void choice_add(struct disk_choices *c, struct disk_versions *v)
{
    v->pick = 0;
    if (v->count == 1)
        return;
    size_t total = c->count + c->temporary;
    if (total == c->cap) {
        c->cap = c->cap ? 2 * c->cap : 64;
        c->v = grown(c->v, c->cap, sizeof(struct disk_versions *));
    }
    if (v->temporary) {
        c->v[total] = v;
        c->temporary++;
        return;
    }
    c->v[total] = c->v[c->count]; /* the first of the temporary ones makes room */
    c->v[c->count++] = v;
}

void disk_choices(struct disk *d, struct disk_choices *c)
{
    c->count = c->temporary = 0;
    for (uint32_t i = 0; i < d->entry_count; i++)
        choice_add(c, &d->entries[i].versions);
    for (uint32_t i = DISK_ROOT; i < d->inode_count; i++) {
        struct disk_inode *in = &d->inodes[i];
        in->size_versions.temporary = !in->named;
        choice_add(c, &in->size_versions);
        for (uint64_t b = 0; b < in->block_count; b++) {
            in->blocks[b].versions.temporary = !in->named;
            choice_add(c, &in->blocks[b].versions);
        }
    }
}

void disk_choices_fini(struct disk_choices *c)
{
    free(c->v);
}

/* The drawn bytes of a file; caller frees. */
static uint8_t *drawn_bytes(const struct disk_inode *i, uint64_t *ret_bytes)
{
    uint64_t size = i->sizes[i->size_versions.pick];
    uint8_t *bytes = calloc(1, align_up(size + 1, CKPT_BLOCK));
    CHECK(bytes);
    for (uint64_t b = 0; b < i->block_count && b * CKPT_BLOCK < size; b++) {
        const uint8_t *v = i->blocks[b].v[i->blocks[b].versions.pick];
        if (v)
            memcpy(bytes + b * CKPT_BLOCK, v, min_u64(CKPT_BLOCK, size - b * CKPT_BLOCK));
    }
    *ret_bytes = size;
    return bytes;
}

static bool settled(const struct disk_inode *i)
{
    bool one = i->size_versions.count == 1;
    for (uint64_t b = 0; one && b < i->block_count; b++)
        one = i->blocks[b].versions.count == 1;
    return one;
}

static struct digest file_sum(struct disk_inode *i)
{
    if (i->known)
        return i->sum;
    uint64_t bytes;
    CLEANUP_FREE uint8_t *data = drawn_bytes(i, &bytes);
    i->sum = digest_of(data, bytes);
    i->known = settled(i);
    return i->sum;
}

struct line {
    uint64_t dir, name;
    struct digest sum;
    uint64_t is_dir;
};

/* Sums of single lines are added up, so that their order does not matter. */
static void add_below(struct disk *d, uint32_t dir, uint64_t path, uint64_t sum[2])
{
    for (uint32_t i = 0; i < d->entry_count; i++) {
        const struct disk_entry *e = &d->entries[i];
        uint32_t ino = e->v[e->versions.pick];
        if (e->dir != dir || ino == 0 || e->versions.temporary || strcmp(e->name, ".tmp") == 0)
            continue;
        struct disk_inode *in = &d->inodes[ino];
        struct line line = { .dir = path, .name = digest_hash(e->name, strlen(e->name)) };
        line.is_dir = in->is_dir;
        if (!in->is_dir)
            line.sum = file_sum(in);
        struct digest one = digest_of(&line, sizeof(line));
        uint64_t words[2];
        memcpy(words, &one, sizeof(words));
        sum[0] += words[0];
        sum[1] += words[1];
        if (in->is_dir)
            add_below(d, ino, words[0], sum);
    }
}

struct digest disk_drawn_sum(struct disk *d)
{
    uint64_t sum[2] = { 0, 0 };
    add_below(d, DISK_ROOT, 0, sum);
    return digest_of(sum, sizeof(sum));
}

static void write_file(const struct disk_inode *i, const char *path)
{
    uint64_t bytes;
    CLEANUP_FREE uint8_t *data = drawn_bytes(i, &bytes);
    CLEANUP_FD int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    CHECK(fd >= 0);
    CHECK_EQ(write(fd, data, bytes), bytes);
}

static void write_below(const struct disk *d, uint32_t dir, const char *to)
{
    for (uint32_t i = 0; i < d->entry_count; i++) {
        const struct disk_entry *e = &d->entries[i];
        uint32_t ino = e->v[e->versions.pick];
        if (e->dir != dir || ino == 0)
            continue;
        char path[1024];
        CHECK((size_t)snprintf(path, sizeof(path), "%s/%s", to, e->name) < sizeof(path));
        if (!d->inodes[ino].is_dir) {
            write_file(&d->inodes[ino], path);
            continue;
        }
        CHECK_EQ(mkdir(path, 0777), 0);
        write_below(d, ino, path);
    }
}

void disk_drawn_write(const struct disk *d, const char *to)
{
    write_below(d, DISK_ROOT, to);
}
