/* Clients that mean ill, one process for each.  They speak to a real ckptd over its real
 * socket; whatever they do, it must go on serving everybody else. */
#pragma once

#include <stdatomic.h>

/* What one case of each kind is. */
enum villain_kind {
    VILLAIN_RANDOM,   /* a message of random bytes, half of them with a right head */
    VILLAIN_MUTANT,   /* a right message after a right beginning, with a few bits changed */
    VILLAIN_ORDER,    /* a well-formed message at the wrong time, or with wrong numbers */
    VILLAIN_PIDFD,    /* HELLO with a descriptor that is not the client's pidfd, or with many */
    VILLAIN_BODY,     /* STATE with a body that can shrink, change, or is not what it says */
    VILLAIN_LENGTHS,  /* a length inside a message that is not true */
    VILLAIN_TEXT,     /* a name or text with quotes, lines, slashes, or none at all */
    VILLAIN_SCRIBBLE, /* a slot handed over and written into all the while */
    VILLAIN_ARENA,    /* an attempt to cut, grow, seal or punch the arena */
    VILLAIN_LOAD,     /* a restore whose slots come back wrongly, or never */
    VILLAIN_CONNECT,  /* a connection, closed at once or after half a word */
    VILLAIN_CROWD,    /* a connection held beside as many as there can be */
    VILLAIN_STALL,    /* a session or half-open connection that stops in the middle */
    VILLAIN_DEAF,     /* a question whose answer is never read */
    VILLAIN_ORPHAN,   /* a message on a socket that outlived the process of its session */
    VILLAIN_KINDS
};
extern const char *const villain_names[VILLAIN_KINDS];

struct villain {
    const char *socket, *token; /* of the launch that they share; see villain_anchor */
    unsigned long long seed;
    unsigned amount; /* about so many cases */
    atomic_ullong *cases;
    atomic_uint *next_rank;
};

/* Commits a small checkpoint of job "hostile", for them to restore. */
void villain_prepare(const char *socket);
/* A rank 0 that does nothing; the others are ranks of its launch, which costs the store
 * nothing.  Sits there until it is killed. */
void villain_anchor(const struct villain *v, int ready_fd);
/* Runs one kind; the process ends with exit(0), or 1 when the daemon answered wrongly. */
void villain_run(const struct villain *v, enum villain_kind kind);
