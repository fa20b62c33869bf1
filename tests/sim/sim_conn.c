/* Connections: messages in order, each after a while.  When a worker dies, some of what it
 * said last is lost, with everything that it has not read. */
#include <sys/socket.h>

#include "sim/sim.h"
#include "sim/sim_wraps.h"

struct sim_conn sim_conns[SIM_CONNS];
uint32_t sim_conn_count;

static void pipe_clear(struct sim_pipe *p)
{
    while (p->first) {
        struct sim_msg *m = p->first;
        p->first = m->next;
        __real_free(m);
    }
    *p = (struct sim_pipe){ .last_at = p->last_at };
}

void sim_conns_reset(void)
{
    for (uint32_t i = 0; i < sim_conn_count; i++) {
        pipe_clear(&sim_conns[i].to_daemon);
        pipe_clear(&sim_conns[i].to_client);
    }
    sim_conn_count = 0;
}

/* m NULL: the end. */
static void put(struct sim_pipe *p, const struct wire_msg *m, enum sim_event_kind kind,
                uint32_t conn)
{
    uint32_t len = m ? m->len : 0;
    struct sim_msg *o = __real_malloc(sizeof(*o) + len);
    CHECK(o);
    *o = (struct sim_msg){ .len = len };
    if (m) {
        memcpy(o->bytes, m->bytes, len);
        o->fd_count = m->fd_count;
        memcpy(o->bytes + offsetof(struct wire_head, fds), &m->fd_count, sizeof(m->fd_count));
        memcpy(o->fds, m->fds, sizeof(o->fds));
    }
    if (!p->first)
        p->last = &p->first;
    *p->last = o;
    p->last = &o->next;
    p->count++;
    int64_t at = sim.now + sim_between(2000, 5 * SIM_MS);
    p->last_at = at > p->last_at ? at : p->last_at;
    sim_at(p->last_at, kind, conn, 0);
}

static struct sim_msg *take(struct sim_pipe *p)
{
    struct sim_msg *m = p->first;
    p->first = m->next;
    p->count--;
    p->arrived--;
    return m;
}

/* Forgets what has not been read; keeps the first `keep` messages. */
static uint32_t cut(struct sim_pipe *p, uint32_t keep)
{
    uint32_t lost = 0;
    struct sim_msg **at = &p->first;
    for (uint32_t i = 0; i < keep && *at; i++)
        at = &(*at)->next;
    while (*at) {
        struct sim_msg *m = *at;
        *at = m->next;
        lost += m->len > 0;
        p->count--;
        __real_free(m);
    }
    p->last = at;
    if (p->arrived > p->count)
        p->arrived = p->count;
    return lost;
}

/* Closed at both ends, with nothing on its way. */
static bool forgotten(const struct sim_conn *c)
{
    return !c->client_open && !c->daemon_open && c->to_daemon.count == 0 && c->to_client.count == 0;
}

/* ---- the client's end ---- */

int32_t sim_connect(uint32_t rank, uint32_t node)
{
    struct sim_node *n = &sim_nodes[node];
    if (!n->up || n->keeper_dead)
        return -1;
    uint32_t i = 0;
    while (i < sim_conn_count && !forgotten(&sim_conns[i]))
        i++;
    SIM_CHECK(i < SIM_CONNS, "too many connections");
    sim_conn_count += i == sim_conn_count;
    sim_conns[i] = (struct sim_conn){
        .used = true, .node = node, .rank = rank, .daemon_open = true, .client_open = true
    };
    n->backlog[n->backlog_count++] = i;
    sim_node_poke(node);
    return (int32_t)i;
}

void sim_client_send(uint32_t conn, const struct wire_msg *m)
{
    struct sim_conn *c = &sim_conns[conn];
    if (c->client_open && c->daemon_open)
        put(&c->to_daemon, m, EV_TO_DAEMON, conn);
}

void sim_client_close(uint32_t conn)
{
    struct sim_conn *c = &sim_conns[conn];
    if (!c->client_open)
        return;
    c->client_open = false;
    cut(&c->to_client, 0);
    if (c->daemon_open)
        put(&c->to_daemon, NULL, EV_TO_DAEMON, conn);
}

void sim_conn_to_client(uint32_t conn)
{
    struct sim_conn *c = &sim_conns[conn];
    static struct wire_msg m;
    if (!c->client_open || !c->to_client.first)
        return; /* nobody listens any more, or it was lost */
    struct sim_rank *r = &sim_ranks[c->rank];
    int64_t wait = r->deaf_until > sim.now ? r->deaf_until - sim.now : 0;
    if (wait || r->busy) { /* its one thread copies; it reads when that is done */
        sim_after(wait + SIM_MS, EV_TO_CLIENT, conn, 0);
        return;
    }
    c->to_client.arrived++;
    struct sim_msg *o = take(&c->to_client);
    if (o->len == 0) {
        __real_free(o);
        c->client_open = false;
        sim_rank_unlinked(c->rank);
        return;
    }
    memcpy(m.bytes, o->bytes, o->len);
    m.len = o->len;
    m.fd_count = o->fd_count;
    memcpy(m.fds, o->fds, sizeof(m.fds));
    __real_free(o);
    struct ckpt_err err = { 0 };
    SIM_CHECK(wire_check(&m, &err) == CKPT_OK, "a daemon's message is not one: %s", err_text(&err));
    sim_rank_message(c->rank, &m);
}

/* ---- the daemon's end ---- */

void sim_conn_to_daemon(uint32_t conn)
{
    struct sim_conn *c = &sim_conns[conn];
    if (c->to_daemon.arrived >= c->to_daemon.count)
        return;
    c->to_daemon.arrived++;
    if (c->accepted && c->daemon_open)
        sim_node_poke(c->node);
}

bool sim_conn_readable(uint32_t conn)
{
    return sim_conns[conn].to_daemon.arrived > 0;
}

/* The daemon's end closes; the client reads what was said before, or the first of it. */
static void close_daemon_end(uint32_t conn, uint32_t keep)
{
    struct sim_conn *c = &sim_conns[conn];
    if (!c->daemon_open)
        return;
    c->daemon_open = false;
    uint32_t lost = cut(&c->to_daemon, 0);
    lost += cut(&c->to_client, keep);
    if (lost > 0)
        sim_saw(SEEN_messages_lost);
    if (c->client_open)
        put(&c->to_client, NULL, EV_TO_CLIENT, conn);
}

void sim_conn_closed(uint32_t conn)
{
    close_daemon_end(conn, UINT32_MAX);
}

void sim_conns_drop(uint32_t node)
{
    for (uint32_t i = 0; i < sim_conn_count; i++)
        if (sim_conns[i].node == node && sim_conns[i].accepted)
            close_daemon_end(i, (uint32_t)sim_rand(sim_conns[i].to_client.count + 1));
}

void sim_backlog_drop(uint32_t node)
{
    struct sim_node *n = &sim_nodes[node];
    for (uint32_t i = 0; i < n->backlog_count; i++)
        close_daemon_end(n->backlog[i], 0);
    n->backlog_count = 0;
}

int __wrap_accept4(int fd, struct sockaddr *to, unsigned *len, int flags)
{
    struct sim_node *n = sim_current;
    (void)fd;
    (void)to;
    (void)len;
    (void)flags;
    if (n->backlog_count == 0) {
        errno = EAGAIN;
        return -1;
    }
    uint32_t conn = n->backlog[0];
    memmove(n->backlog, n->backlog + 1, --n->backlog_count * sizeof(n->backlog[0]));
    sim_conns[conn].accepted = true;
    sim_conns[conn].worker = n->worker;
    return sim_fd(FD_CONN, conn);
}

enum ckpt_status __wrap_wire_send(int fd, const struct wire_msg *m, struct ckpt_err *err)
{
    struct sim_conn *c = &sim_conns[sim_fd_index(fd)];
    if (sim_current->c)
        sim_check_told(sim_current);
    sim_point(SEEN_worker_death_at_message);
    if (!c->client_open)
        return err_set(err, CKPT_DAEMON_GONE, "the client is gone");
    if (sim_chance(sim_faults.busy_socket))
        return CKPT_BUSY;
    put(&c->to_client, m, EV_TO_CLIENT, sim_fd_index(fd));
    sim_point(SEEN_worker_death_at_message);
    return CKPT_OK;
}

enum ckpt_status __wrap_wire_recv(int fd, struct wire_msg *m, struct ckpt_err *err)
{
    struct sim_conn *c = &sim_conns[sim_fd_index(fd)];
    if (c->to_daemon.arrived == 0)
        return CKPT_BUSY;
    if (c->to_daemon.first->len == 0) /* stays */
        return err_set(err, CKPT_DAEMON_GONE, "the client closed");
    struct sim_msg *o = take(&c->to_daemon);
    memcpy(m->bytes, o->bytes, o->len);
    m->len = o->len;
    m->fd_count = o->fd_count;
    memcpy(m->fds, o->fds, sizeof(m->fds));
    __real_free(o);
    return wire_check(m, err);
}
