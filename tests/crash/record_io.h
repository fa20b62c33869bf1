/* A file I/O engine over the threads engine that records every change below one
 * directory as events of a disk.h log, and that can kill the process that uses it: from
 * some event on nothing is done any more.  Put in place with file_io_set_maker. */
#pragma once

#include "crash/disk.h"
#include "storage/store/file_io.h"
#include "storage/store/store.h"

struct recording {
    char base[200]; /* the directory; events are relative to it */
    struct disk_log log;
    struct disk live; /* what is visible now */
    uint32_t next_ino;
    uint32_t fds[4096]; /* inode of each open file */
    size_t kill_at;     /* events after which the process is dead; SIZE_MAX = never */
    const char *phase;  /* of the workload, for labels */
    char asked[200];    /* the operation of the store that is running; "" = opening it */
};
extern struct recording recording; /* one at a time, one thread */

/* Starts with an empty log; `base` is an empty directory. */
void recording_start(const char *base);
void recording_mark(int mark);
void recording_fini(void);
enum ckpt_status record_maker(const char *engine, struct file_io **ret, struct ckpt_err *err);
/* Takes a store on that engine; says for each sync which operation asked for it. */
struct store *record_sites(struct store *inner);
/* For recovery: the plain system calls, without a thread. */
enum ckpt_status calm_maker(const char *engine, struct file_io **ret, struct ckpt_err *err);
