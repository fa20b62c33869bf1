/* Looks at a machine and a store for what would make saves slow, unsafe or impossible. */
#pragma once

#include "formats/base.h"
#include "storage/store/store.h"

enum doctor_verdict {
    DOCTOR_GREEN,  /* as it should be */
    DOCTOR_YELLOW, /* works, with a drawback that `remedy` takes away */
    DOCTOR_RED,    /* does not work */
    DOCTOR_ABSENT, /* not there, and nobody may need it */
};
struct doctor_finding {
    enum doctor_verdict verdict;
    const char *what; /* "io_uring" */
    char found[256];
    char remedy[320]; /* "" if there is nothing to do */
};

/* For the checks: what they say. */
void doctor_found(struct doctor_finding *f, enum doctor_verdict verdict, const char *fmt, ...)
    CKPT_PRINTF(3, 4);
void doctor_remedy(struct doctor_finding *f, const char *text);

/* -- the machine ----------------------------------------------------------- */

/* How ckptd will read and write files. */
void doctor_io(struct doctor_finding *ret);
/* Memory that can be locked (pinned for a GPU), and what arenas may take. */
void doctor_memlock(struct doctor_finding *ret);
void doctor_memory(struct doctor_finding *ret);
/* Huge pages in shared memory, without which direct I/O costs twice the time. */
void doctor_huge_pages(struct doctor_finding *ret);
/* Driver, devices and runtime of CUDA; NCCL: as libraries that can be loaded. */
void doctor_gpu(struct doctor_finding *ret);
void doctor_nccl(struct doctor_finding *ret);
/* Is the wall clock kept by somebody? */
void doctor_clock(struct doctor_finding *ret);

/* -- a store ------------------------------------------------------------------ */

/* Its clock against ours. */
void doctor_store_clock(struct store *s, struct doctor_finding *ret);
/* Puts, reads, lists and removes one object under "ckpt.doctor/". */
void doctor_store_rights(struct store *s, struct doctor_finding *ret);
/* Where it is and how it is asked; of an object store: whose keys, and until when. */
void doctor_store_name(const struct store *s, enum doctor_verdict rights,
                       struct doctor_finding *ret);
/* A second writer of a record must lose: without that two launches could both commit. */
void doctor_store_conditional(struct store *s, struct doctor_finding *ret);
/* Writes and reads `bytes` of noise in pieces of 32 MiB; takes as long as it takes. */
void doctor_store_speed(struct store *s, uint64_t bytes, struct doctor_finding *ret);
/* Room on the file system of a directory. */
void doctor_space(const char *dir, struct doctor_finding *ret);
/* Does a ckptd listen at `path`? */
void doctor_daemon(const char *path, struct doctor_finding *ret);
/* Is what ckptd is told sound?  store: to be tried with, or NULL. */
void doctor_config(const char *store, struct doctor_finding *ret);
/* Where ckptd would write on this node when that is not the store itself, by what it is told;
 * false: nowhere else, or it cannot be found out. */
bool doctor_local(const char *store, char *ret, size_t cap);
