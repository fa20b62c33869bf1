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
        i->size_count = 1;
    }
    return i;
}

void disk_init(struct disk *d)
{
    *d = (struct disk){ 0 };
    inode_at(d, DISK_ROOT)->is_dir = true;
}

static void block_forget(struct disk_block *b, uint32_t keep_from)
{
    for (uint32_t i = 0; i < keep_from; i++)
        free(b->v[i]);
    memmove(b->v, b->v + keep_from, (b->count - keep_from) * sizeof(*b->v));
    b->count -= keep_from;
}

void disk_fini(struct disk *d)
{
    for (uint32_t i = 0; i < d->inode_count; i++) {
        for (uint64_t b = 0; b < d->inodes[i].block_count; b++) {
            block_forget(&d->inodes[i].blocks[b], d->inodes[i].blocks[b].count);
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
    return e->v[e->count - 1];
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
        *e = (struct disk_entry){ .dir = dir, .temporary = temporary, .count = 1 };
        snprintf(e->name, sizeof(e->name), "%s", name);
        e->v = calloc(1, sizeof(*e->v));
        CHECK(e->v);
    }
    e->v = grown(e->v, e->count + 1, sizeof(*e->v));
    e->v[e->count++] = ino;
    if (ino && !e->temporary)
        inode_at(d, ino)->named = true;
}

/* ---- events ---- */

static void write_block(struct disk_inode *i, uint64_t at, const struct disk_event *e)
{
    struct disk_block *b = &i->blocks[at];
    uint64_t start = max_u64(at * CKPT_BLOCK, e->offset);
    uint64_t end = min_u64((at + 1) * CKPT_BLOCK, e->offset + e->bytes);
    uint8_t *version = calloc(1, CKPT_BLOCK);
    CHECK(version);
    if (b->v[b->count - 1])
        memcpy(version, b->v[b->count - 1], CKPT_BLOCK);
    memcpy(version + (start - at * CKPT_BLOCK), e->data + (start - e->offset), end - start);
    b->v = grown(b->v, b->count + 1, sizeof(*b->v));
    b->v[b->count++] = version;
}

static void set_size(struct disk_inode *i, uint64_t bytes)
{
    if (i->sizes[i->size_count - 1] == bytes)
        return;
    i->sizes = grown(i->sizes, i->size_count + 1, sizeof(*i->sizes));
    i->sizes[i->size_count++] = bytes;
}

static void apply_write(struct disk_inode *i, const struct disk_event *e)
{
    uint64_t end = e->offset + e->bytes;
    uint64_t blocks = div_up(end, CKPT_BLOCK);
    if (blocks > i->block_count) {
        i->blocks = grown(i->blocks, blocks, sizeof(*i->blocks));
        for (uint64_t b = i->block_count; b < blocks; b++) {
            i->blocks[b] = (struct disk_block){ .count = 1, .v = calloc(1, sizeof(uint8_t *)) };
            CHECK(i->blocks[b].v);
        }
        i->block_count = blocks;
    }
    for (uint64_t b = e->offset / CKPT_BLOCK; b < blocks; b++)
        write_block(i, b, e);
    if (end > i->sizes[i->size_count - 1])
        set_size(i, end);
}

static bool sync_file(struct disk_inode *i)
{
    bool any = i->size_count > 1;
    for (uint64_t b = 0; b < i->block_count; b++) {
        any = any || i->blocks[b].count > 1;
        block_forget(&i->blocks[b], i->blocks[b].count - 1);
    }
    i->sizes[0] = i->sizes[i->size_count - 1];
    i->size_count = 1;
    return any;
}

static bool sync_dir(struct disk *d, uint32_t ino)
{
    bool any = false;
    for (uint32_t i = 0; i < d->entry_count; i++) {
        struct disk_entry *e = &d->entries[i];
        if (e->dir != ino)
            continue;
        any = any || e->count > 1;
        e->v[0] = visible(e);
        e->count = 1;
    }
    return any;
}

bool disk_apply(struct disk *d, const struct disk_event *e, bool swallow)
{
    struct disk_inode *i = e->ino ? inode_at(d, e->ino) : NULL;
    switch (e->op) {
    case DISK_CREATE:
    case DISK_MKDIR:
        i->is_dir = e->op == DISK_MKDIR;
        entry_set(d, e->dir, e->name, e->ino);
        return true;
    case DISK_LINK:
        entry_set(d, e->dir, e->name, e->ino);
        return true;
    case DISK_RENAME:
        entry_set(d, e->to_dir, e->to_name, e->ino);
        entry_set(d, e->dir, e->name, 0);
        return true;
    case DISK_UNLINK:
        entry_set(d, e->dir, e->name, 0);
        return true;
    case DISK_WRITE:
        i->known = false;
        apply_write(i, e);
        return true;
    case DISK_SIZE:
        i->known = false;
        set_size(i, e->bytes);
        return true;
    case DISK_SYNC:
        if (swallow)
            return false;
        return i->is_dir ? sync_dir(d, e->ino) : sync_file(i);
    case DISK_MARK:
        break;
    }
    return false;
}

/* ---- states ---- */

/* Calls `visit` for everything that has several versions and a name outside .tmp. */
static void each_choice(struct disk *d, bool (*visit)(void *arg, uint32_t count, uint32_t *pick),
                        void *arg)
{
    for (uint32_t i = 0; i < d->entry_count; i++)
        if (!d->entries[i].temporary)
            visit(arg, d->entries[i].count, &d->entries[i].pick);
    for (uint32_t i = 0; i < d->inode_count; i++) {
        struct disk_inode *in = &d->inodes[i];
        if (!in->named)
            continue;
        visit(arg, in->size_count, &in->size_pick);
        for (uint64_t b = 0; b < in->block_count; b++)
            visit(arg, in->blocks[b].count, &in->blocks[b].pick);
    }
}

static bool multiply(void *arg, uint32_t count, uint32_t *pick)
{
    uint64_t *product = arg;
    (void)pick;
    if (__builtin_mul_overflow(*product, count, product))
        *product = UINT64_MAX;
    return true;
}

uint64_t disk_states(const struct disk *d)
{
    uint64_t product = 1;
    struct disk copy = *d; /* nothing is picked */
    each_choice(&copy, multiply, &product);
    return product;
}

static bool take_digit(void *arg, uint32_t count, uint32_t *pick)
{
    uint64_t *n = arg;
    *pick = (uint32_t)(*n % count);
    *n /= count;
    return true;
}

static bool take_any(void *arg, uint32_t count, uint32_t *pick)
{
    unsigned long long *rand = arg;
    *pick = count > 1 ? (uint32_t)(test_rand(rand) % count) : 0;
    return true;
}

/* Temporary files: torn, whole or absent, as it falls. */
static void draw_temporary(struct disk *d, unsigned long long *rand)
{
    for (uint32_t i = 0; i < d->entry_count; i++)
        if (d->entries[i].temporary)
            take_any(rand, d->entries[i].count, &d->entries[i].pick);
    for (uint32_t i = 0; i < d->inode_count; i++) {
        struct disk_inode *in = &d->inodes[i];
        if (in->named)
            continue;
        take_any(rand, in->size_count, &in->size_pick);
        for (uint64_t b = 0; b < in->block_count; b++)
            take_any(rand, in->blocks[b].count, &in->blocks[b].pick);
    }
}

void disk_draw_nth(struct disk *d, uint64_t n, unsigned long long *rand)
{
    each_choice(d, take_digit, &n);
    draw_temporary(d, rand);
}

void disk_draw_random(struct disk *d, unsigned long long *rand)
{
    each_choice(d, take_any, rand);
    draw_temporary(d, rand);
}

/* The drawn bytes of a file; caller frees. */
static uint8_t *drawn_bytes(const struct disk_inode *i, uint64_t *ret_bytes)
{
    uint64_t size = i->sizes[i->size_pick];
    uint8_t *bytes = calloc(1, align_up(size + 1, CKPT_BLOCK));
    CHECK(bytes);
    for (uint64_t b = 0; b < i->block_count && b * CKPT_BLOCK < size; b++) {
        const uint8_t *v = i->blocks[b].v[i->blocks[b].pick];
        if (v)
            memcpy(bytes + b * CKPT_BLOCK, v, min_u64(CKPT_BLOCK, size - b * CKPT_BLOCK));
    }
    *ret_bytes = size;
    return bytes;
}

static bool settled(const struct disk_inode *i)
{
    bool one = i->size_count == 1;
    for (uint64_t b = 0; one && b < i->block_count; b++)
        one = i->blocks[b].count == 1;
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
        uint32_t ino = e->v[e->pick];
        if (e->dir != dir || ino == 0 || e->temporary || strcmp(e->name, ".tmp") == 0)
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
        uint32_t ino = e->v[e->pick];
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
