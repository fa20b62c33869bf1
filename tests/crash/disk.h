/* A model of a disk under a power cut: what is durable, and what was done since but
 * never synced.  It is harsher than any filesystem in use: every unsynced 4 KiB block,
 * every size and every directory entry survives or drops on its own, in any order, and
 * an entry or block that changed several times may come back in any of its versions.
 *
 *   fdatasync, fsync of a file     its blocks and its size are durable; not its name
 *   fsync of a directory           its entries are durable; not its own name
 *
 * A log of events is recorded once (record_io.h); walking it applies one event after the
 * other, and at each point states after a cut are drawn and written out as real files. */
#pragma once

#include "formats/digest.h"

#include "check.h"

#define DISK_NAME  128
#define DISK_LABEL 256
#define DISK_ROOT  1 /* inode of the directory that all paths begin in; 0 = no inode */

enum disk_op {
    DISK_CREATE, /* file `ino` as dir/name */
    DISK_MKDIR,  /* directory `ino` as dir/name */
    DISK_LINK,   /* ino as dir/name */
    DISK_RENAME, /* ino from dir/name to to_dir/to_name */
    DISK_UNLINK, /* dir/name, file or directory */
    DISK_WRITE,
    DISK_SIZE,
    DISK_SYNC, /* of ino */
    DISK_MARK, /* the workload says how far it is */
};
struct disk_event {
    enum disk_op op;
    uint32_t ino, dir, to_dir;
    char name[DISK_NAME], to_name[DISK_NAME];
    uint64_t offset, bytes;
    uint8_t *data; /* WRITE: owned by the log */
    int mark;
    char label[DISK_LABEL]; /* SYNC: what, in which phase of the workload */
};
struct disk_log {
    struct disk_event *events;
    size_t count, cap;
};
struct disk_event *disk_log_add(struct disk_log *log, enum disk_op op);
void disk_log_fini(struct disk_log *log);

struct disk_entry {
    uint32_t dir;
    char name[DISK_NAME];
    bool temporary; /* below .tmp */
    uint32_t *v;    /* inodes: v[0] is durable, the last one visible */
    uint32_t count, pick;
};
struct disk_block {
    uint8_t **v; /* 4 KiB each, NULL = zeros */
    uint32_t count, pick;
};
struct disk_inode {
    bool is_dir;
    bool named; /* has or had a name outside .tmp */
    struct disk_block *blocks;
    uint64_t block_count;
    uint64_t *sizes;
    uint32_t size_count, size_pick;
    bool known; /* `sum` is of the durable bytes, and nothing is unsynced */
    struct digest sum;
};
struct disk {
    struct disk_inode *inodes;
    uint32_t inode_count;
    struct disk_entry *entries;
    uint32_t entry_count;
};
void disk_init(struct disk *d);
void disk_fini(struct disk *d);
/* The inode that a path (relative to the root) names now; 0 = none. */
uint32_t disk_find(const struct disk *d, const char *path);
/* Splits off the last part: the inode of the directory it is in, and its name. */
uint32_t disk_parent(const struct disk *d, const char *path, char name[DISK_NAME]);
/* swallow: a sync does nothing.  Returns true if the event changed what may survive. */
bool disk_apply(struct disk *d, const struct disk_event *e, bool swallow);

/* How many states a cut may leave, names below .tmp not counted; saturates at UINT64_MAX. */
uint64_t disk_states(const struct disk *d);
/* Draws state number n of disk_states() ... */
void disk_draw_nth(struct disk *d, uint64_t n, unsigned long long *rand);
/* ... or any.  Names below .tmp are drawn at random in both. */
void disk_draw_random(struct disk *d, unsigned long long *rand);
/* Of what was drawn, without .tmp. */
struct digest disk_drawn_sum(struct disk *d);
/* Writes what was drawn below the existing directory `to`. */
void disk_drawn_write(const struct disk *d, const char *to);
