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
    char label[DISK_LABEL]; /* SYNC: which, of what */
    char site[DISK_LABEL];  /* SYNC: what of the engine asked for it, in which phase */
};
struct disk_log {
    struct disk_event *events;
    size_t count, cap;
};
struct disk_event *disk_log_add(struct disk_log *log, enum disk_op op);
void disk_log_fini(struct disk_log *log);

/* Whatever survives or drops on its own has versions: number 0 is durable, the last one
 * visible, and `pick` is what was drawn. */
struct disk_versions {
    uint32_t count, pick;
    bool bare;      /* a sync of it was swallowed, and none made that good */
    uint64_t since; /* the event that made the last one */
    bool temporary; /* below .tmp, or never named elsewhere */
};
struct disk_entry {
    uint32_t dir;
    char name[DISK_NAME];
    uint32_t *v; /* inodes */
    struct disk_versions versions;
};
struct disk_block {
    uint8_t **v; /* 4 KiB each, NULL = zeros */
    struct disk_versions versions;
};
struct disk_inode {
    bool is_dir;
    bool named; /* has or had a name outside .tmp */
    struct disk_block *blocks;
    uint64_t block_count;
    uint64_t *sizes;
    struct disk_versions size_versions;
    bool known; /* `sum` is of the durable bytes, and nothing is unsynced */
    struct digest sum;
};
struct disk {
    struct disk_inode *inodes;
    uint32_t inode_count;
    struct disk_entry *entries;
    uint32_t entry_count;
    uint64_t events; /* applied */
};
void disk_init(struct disk *d);
void disk_fini(struct disk *d);
/* The inode that a path (relative to the root) names now; 0 = none. */
uint32_t disk_find(const struct disk *d, const char *path);
/* Splits off the last part: the inode of the directory it is in, and its name. */
uint32_t disk_parent(const struct disk *d, const char *path, char name[DISK_NAME]);
/* swallow: a sync does nothing, and what it would have kept is bare.  Returns true if a
 * sync had something to do. */
bool disk_apply(struct disk *d, const struct disk_event *e, bool swallow);
/* The kernel has written everything back on its own. */
void disk_settle(struct disk *d);

/* What has several versions now.  Everything is drawn durable by this call; the pointers
 * hold until the next event. */
struct disk_choices {
    struct disk_versions **v;
    size_t count;     /* outside .tmp; states of a cut are counted over these */
    size_t temporary; /* behind them */
    size_t cap;
};
void disk_choices(struct disk *d, struct disk_choices *c);
void disk_choices_fini(struct disk_choices *c);
/* Of what was drawn, without .tmp. */
struct digest disk_drawn_sum(struct disk *d);
/* Writes what was drawn below the existing directory `to`. */
void disk_drawn_write(const struct disk *d, const char *to);
