/* A connection: a socket and what could not be sent at once.  What a client does not
 * read is kept up to a limit; then the connection is dropped (the session stays and the
 * client may come back).  Control's thread only. */
#pragma once

#include "ckptd/peer.h"
#include "formats/wire.h"

#define CONN_QUEUE_BYTES_MAX    (UINT64_C(8) << 20)
#define CONN_QUEUE_MESSAGES_MAX 16384
#define CONN_UNREAD_MAX         (32 << 10) /* bytes of the kernel's for answers nobody reads */

struct conn_out;
struct conn {
    int fd;
    struct peer peer;
    uint32_t client; /* control's number of the session; UINT32_MAX = none */
    int64_t opened_ns;
    bool dead;       /* to be closed by the loop */
    bool want_write; /* epoll knows that we wait */
    bool said_ack;   /* something was sent since the last receive */
    struct conn_out *first, **last;
    size_t queued_bytes, queued;
    struct conn *next; /* control's list */
};
struct conn *conn_new(int fd); /* takes fd on success */
void conn_free(struct conn *c);
/* Sends or queues; `m`'s descriptors stay the caller's. A connection that is broken or
 * full becomes dead. */
void conn_send(struct conn *c, const struct wire_msg *m);
/* False if answers lie there that the client has not read.  One that asks for more all
 * the same gets none: a descriptor and its pages would lie there for each. */
bool conn_reads(const struct conn *c);
/* Sends what is queued, as far as it goes. */
void conn_flush(struct conn *c);
