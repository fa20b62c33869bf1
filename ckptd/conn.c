/* Connections and their queues. */
#include "ckptd/conn.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>

#include "ckptd/log.h"

struct conn_out {
    struct conn_out *next;
    uint32_t len, fd_count;
    int fds[WIRE_FDS_MAX];
    uint8_t bytes[];
};

struct conn *conn_new(int fd)
{
    struct conn *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->fd = fd;
    c->client = UINT32_MAX;
    c->last = &c->first;
    return c;
}

static void out_free(struct conn_out *o)
{
    for (uint32_t i = 0; i < o->fd_count; i++)
        close(o->fds[i]);
    free(o);
}

void conn_free(struct conn *c)
{
    if (!c)
        return;
    while (c->first) {
        struct conn_out *o = c->first;
        c->first = o->next;
        out_free(o);
    }
    close(c->fd);
    free(c);
}

/* Copies the message and its descriptors to the end of the queue. */
static bool enqueue(struct conn *c, const struct wire_msg *m)
{
    if (c->queued >= CONN_QUEUE_MESSAGES_MAX || c->queued_bytes + m->len > CONN_QUEUE_BYTES_MAX)
        return false;
    struct conn_out *o = malloc(sizeof(*o) + m->len);
    if (!o)
        return false;
    o->next = NULL;
    o->len = m->len;
    o->fd_count = 0;
    memcpy(o->bytes, m->bytes, m->len);
    for (uint32_t i = 0; i < m->fd_count; i++) {
        int fd = fcntl(m->fds[i], F_DUPFD_CLOEXEC, 0);
        if (fd < 0) {
            out_free(o);
            return false;
        }
        o->fds[o->fd_count++] = fd;
    }
    *c->last = o;
    c->last = &o->next;
    c->queued++;
    c->queued_bytes += m->len;
    return true;
}

void conn_send(struct conn *c, const struct wire_msg *m)
{
    if (c->dead)
        return;
    c->said_ack = true;
    enum ckpt_status st = c->first ? CKPT_BUSY : wire_send(c->fd, m, NULL);
    if (st == CKPT_BUSY && enqueue(c, m))
        return;
    if (st == CKPT_BUSY)
        log_warn("a client does not read", "pid=%d queued=%zu", (int)c->peer.pid, c->queued);
    if (st != CKPT_OK)
        c->dead = true;
}

bool conn_reads(const struct conn *c)
{
    int unread;
    return !c->first && ioctl(c->fd, SIOCOUTQ, &unread) == 0 && unread <= CONN_UNREAD_MAX;
}

void conn_flush(struct conn *c)
{
    static struct wire_msg m; /* control's thread only */
    while (c->first && !c->dead) {
        struct conn_out *o = c->first;
        memcpy(m.bytes, o->bytes, o->len);
        m.len = o->len;
        m.fd_count = o->fd_count;
        memcpy(m.fds, o->fds, sizeof(m.fds));
        enum ckpt_status st = wire_send(c->fd, &m, NULL);
        if (st == CKPT_BUSY)
            return;
        if (st != CKPT_OK)
            c->dead = true;
        c->first = o->next;
        if (!c->first)
            c->last = &c->first;
        c->queued--;
        c->queued_bytes -= o->len;
        out_free(o);
    }
}
