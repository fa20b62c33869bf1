/* The aim: where inside ckptd a thread shall stop, so that a kill lands exactly there.
 *
 * aim_calls.c is preloaded into ckptd and stands before the calls with which it reaches the
 * disk, codes its bytes and speaks.  The test says in this block which call on what kind of object
 * it waits for; the thread that makes the n-th such call reports itself and stays there, in
 * front of the call or just behind it, until the aim is taken away or the process dies. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum aim_call {
    AIM_NOTHING = 0,
    AIM_OPEN,
    AIM_READ,
    AIM_RESERVE, /* fallocate */
    AIM_CUT,     /* ftruncate */
    AIM_DATASYNC,
    AIM_SYNC,
    AIM_RENAME,
    AIM_LINK,
    AIM_DIGEST, /* of a piece of a chunk, in a thread of the data or digest crew */
    AIM_CODE,   /* zstd */
    AIM_SEND,   /* the control thread speaks: to a client, or to the keeper */
};
/* What the call is about: the object, by its key, or a directory of the job. */
enum aim_kind {
    AIM_ANY = 0,
    AIM_PACK, /* also the temporary file that becomes one */
    AIM_MANIFEST,
    AIM_RANK_HELD,
    AIM_INDEX,
    AIM_COMMIT,
    AIM_HELD,
    AIM_CLAIM,
    AIM_RESOLVED,
    AIM_DATA_DIR,
    AIM_COMMITS_DIR,
    AIM_LAUNCHES,    /* l/ or a directory in it */
    AIM_SAYS_STAGED, /* a word to a client that its save is staged */
    AIM_OTHER,
};
struct aim_point {
    uint8_t call, kind; /* enum aim_call, enum aim_kind */
    bool after;         /* stops behind the call, when it has succeeded */
    bool all;           /* from the n-th on everybody stops */
    uint32_t nth_max;   /* n is drawn from 1 to here */
};
/* One page, shared by the test and every worker of its ckptd. */
struct aim {
    char job[64];           /* names of other jobs are passed over */
    struct aim_point point; /* these two under `armed` */
    uint32_t nth;
    atomic_uint armed;           /* number of this aim; 0 = none */
    atomic_uint seen, hits, pid; /* calls; threads that stand there; of which process */
};
