/* Fails the n-th call of one C library function in a process that this module is preloaded
 * into: a trainer, or ckptd.  What to fail lies in a file that all of them map, named by
 * CKPT_TEST_FAIL_PLAN; CKPT_TEST_FAIL_ROLE says which of them a process is. */
#pragma once

#include <stdatomic.h>

enum fail_role { FAIL_NOBODY, FAIL_RANK, FAIL_DAEMON };
/* X(name, function) */
#define FAIL_SITES(X)         \
    X(MALLOC, malloc)         \
    X(CALLOC, calloc)         \
    X(REALLOC, realloc)       \
    X(SENDMSG, sendmsg)       \
    X(RECVMSG, recvmsg)       \
    X(ACCEPT, accept4)        \
    X(SOCKET, socket)         \
    X(CONNECT, connect)       \
    X(POLL, poll)             \
    X(EPOLL_WAIT, epoll_wait) \
    X(EPOLL_CTL, epoll_ctl)   \
    X(MMAP, mmap)             \
    X(MEMFD, memfd_create)    \
    X(READ, read)             \
    X(WRITE, write)
enum fail_site {
#define X(upper, name) FAIL_##upper,
    FAIL_SITES(X)
#undef X
        FAIL_SITE_COUNT
};
#define FAIL_SHORT (-1) /* in the place of an errno: read and write move one byte */

struct fail_plan {
    atomic_int role; /* FAIL_NOBODY: nothing fails */
    atomic_int site, error;
    atomic_ulong nth, seen;
    atomic_uint hits;
    atomic_long blocks; /* allocated by the rank and not freed */
};
