/* What outlives a worker: the keeper's table, ledgers and arenas. */
#include <sys/mman.h>

#include "sim/sim.h"
#include "sim/sim_wraps.h"

struct sim_ledger *sim_ledgers;
struct sim_arena sim_arenas[SIM_ARENAS];
static uint32_t ledger_count, arena_count;

void sim_kept_reset(void)
{
    if (!sim_ledgers)
        sim_ledgers = __real_calloc(SIM_LEDGERS, sizeof(*sim_ledgers));
    CHECK(sim_ledgers);
    ledger_count = 0;
    arena_count = 0;
}

/* ---- keeper ---- */

bool __wrap_keep_add(const struct keep *k, const uint8_t session[16], enum kept_kind kind,
                     uint32_t index, int fd)
{
    struct sim_node *n = sim_current;
    sim_point(SEEN_worker_death_at_keep);
    if (n->keeper_dead)
        return false;
    __wrap_keep_drop(k, session, kind, index);
    CHECK(n->kept_count < ARRAY_COUNT(n->kept));
    struct keep_entry *e = &n->kept[n->kept_count++];
    *e = (struct keep_entry){ .kind = kind, .index = index, .fd = fd };
    memcpy(e->session, session, sizeof(e->session));
    return true;
}

void __wrap_keep_drop(const struct keep *k, const uint8_t session[16], enum kept_kind kind,
                      uint32_t index)
{
    struct sim_node *n = sim_current;
    uint32_t to = 0;
    (void)k;
    sim_point(SEEN_worker_death_at_keep);
    for (uint32_t i = 0; i < n->kept_count; i++) {
        const struct keep_entry *e = &n->kept[i];
        bool hit = memcmp(e->session, session, 16) == 0 &&
                   ((int)kind == 0 || (e->kind == kind && e->index == index));
        if (!hit)
            n->kept[to++] = *e;
    }
    n->kept_count = to;
}

void __wrap_keep_ready(const struct keep *k)
{
    (void)k;
}

/* ---- ledger ---- */

/* Of a session, what seeds ever use: its first states and slots. */
#define STATES_USED 4

static void copy_session(struct session *to, const struct session *from)
{
    size_t head = offsetof(struct session, states) + STATES_USED * sizeof(from->states[0]);
    memcpy(to, from, head);
    memset(to->states + STATES_USED, 0, (SESSION_STATES_MAX - STATES_USED) * sizeof(to->states[0]));
    size_t ops = offsetof(struct session, ops);
    memcpy((char *)to + ops, (const char *)from + ops,
           offsetof(struct session, slots) + from->slot_count * sizeof(from->slots[0]) - ops);
}

enum ckpt_status __wrap_ledger_new(const char *name, struct ledger *ret, struct ckpt_err *err)
{
    (void)name;
    (void)err;
    CHECK(ledger_count < SIM_LEDGERS);
    struct sim_ledger *l = &sim_ledgers[ledger_count];
    l->committed = false;
    memset(l->ops, 0, sizeof(l->ops));
    *ret = (struct ledger){ .fd = sim_fd(FD_LEDGER, ledger_count++), .base = (uint8_t *)l };
    return CKPT_OK;
}

enum ckpt_status __wrap_ledger_open(int fd, struct ledger *ret, struct session *ret_session,
                                    struct ckpt_err *err)
{
    struct sim_ledger *l = &sim_ledgers[sim_fd_index(fd)];
    if (!l->committed)
        return err_set(err, CKPT_CORRUPT, "a ledger that was never written");
    copy_session(ret_session, &l->s);
    *ret = (struct ledger){ .fd = fd, .base = (uint8_t *)l };
    return CKPT_OK;
}

void __wrap_ledger_close(struct ledger *l)
{
    *l = (struct ledger){ .fd = -1 };
}

/* A death before it leaves the old session, one behind it the new: nothing between. */
void __wrap_ledger_commit(struct ledger *l, const struct session *s)
{
    struct sim_ledger *to = (struct sim_ledger *)(void *)l->base;
    sim_point(SEEN_worker_death_at_ledger);
    copy_session(&to->s, s);
    to->committed = true;
    sim_point(SEEN_worker_death_at_ledger);
}

enum ckpt_status __wrap_ledger_op_open(const struct ledger *l, uint32_t index, uint32_t image_slots,
                                       uint64_t chunks, struct ledger_op *ret, struct ckpt_err *err)
{
    struct sim_ledger *to = (struct sim_ledger *)(void *)l->base;
    (void)err;
    CHECK(image_slots <= SIM_PARTS && chunks <= SIM_CHUNKS);
    to->ops[index].used = true;
    *ret = (struct ledger_op){
        .base = (uint8_t *)&to->ops[index],
        .bytes = 1,
        .metric_count = &to->ops[index].metric_count,
        .metrics = to->ops[index].metrics,
        .packs = to->ops[index].packs,
        .digests = to->ops[index].digests,
        .crcs = to->ops[index].crcs,
    };
    return CKPT_OK;
}

enum ckpt_status __wrap_ledger_op_new(const struct ledger *l, uint32_t index, uint32_t image_slots,
                                      uint64_t chunks, struct ledger_op *ret, struct ckpt_err *err)
{
    struct sim_ledger *to = (struct sim_ledger *)(void *)l->base;
    memset(&to->ops[index], 0, sizeof(to->ops[index]));
    return __wrap_ledger_op_open(l, index, image_slots, chunks, ret, err);
}

void __wrap_ledger_op_close(const struct ledger *l, uint32_t index, struct ledger_op *op,
                            bool void_it)
{
    struct sim_ledger *to = (struct sim_ledger *)(void *)l->base;
    if (!op->base)
        return;
    *op = (struct ledger_op){ 0 };
    if (void_it) /* a new worker that took it up again would find no packs */
        memset(&to->ops[index], 0, sizeof(to->ops[index]));
}

bool sim_ledger_holds(const struct client *cl)
{
    const struct sim_ledger *l = (const struct sim_ledger *)(const void *)cl->ledger.base;
    const struct session *s = cl->s;
    return l->committed && l->s.seq == s->seq && l->s.epoch == s->epoch && l->s.dead == s->dead &&
           l->s.slot_count == s->slot_count &&
           memcmp(l->s.states, s->states, STATES_USED * sizeof(s->states[0])) == 0 &&
           memcmp(l->s.ops, s->ops, sizeof(s->ops)) == 0 &&
           memcmp(l->s.slots, s->slots, s->slot_count * sizeof(s->slots[0])) == 0;
}

/* ---- arenas and declarations ---- */

uint32_t sim_arena_new(uint32_t slots)
{
    CHECK(arena_count < SIM_ARENAS && slots <= SIM_ARENA_MAX);
    sim_arenas[arena_count] = (struct sim_arena){ .slots = slots, .rank = -1 };
    return arena_count++;
}

/* Whose declaration is being sealed: the one that was mapped just before. */
static int32_t sealing = -1;

enum ckpt_status __wrap_arena_new(const char *who, uint64_t bytes, uint32_t numa, struct arena *ret,
                                  uint64_t *ret_left, struct ckpt_err *err)
{
    (void)who;
    (void)numa;
    (void)err;
    uint32_t arena = sim_arena_new((uint32_t)(bytes / sim_suite.slot_bytes));
    sim_arenas[arena].rank = sealing;
    *ret = (struct arena){ .fd = sim_fd(FD_ARENA, arena),
                           .base = (uint8_t *)sim_arenas[arena].word,
                           .bytes = bytes };
    *ret_left = bytes;
    return CKPT_OK;
}

enum ckpt_status __wrap_arena_open(int fd, uint64_t bytes, struct arena *ret, struct ckpt_err *err)
{
    struct sim_arena *a = &sim_arenas[sim_fd_index(fd)];
    (void)err;
    if (fd < 0 || bytes != a->slots * sim_suite.slot_bytes)
        return err_set(err, CKPT_CORRUPT, "no arena of %llu bytes", (unsigned long long)bytes);
    *ret = (struct arena){ .fd = fd, .base = (uint8_t *)a->word, .bytes = bytes };
    return CKPT_OK;
}

void __wrap_arena_close(struct arena *a)
{
    *a = (struct arena){ .fd = -1 };
}

/* The bytes of the rank's declaration; in the model only whose it is. */
enum ckpt_status __wrap_wire_memfd_map(int fd, size_t len, const void **ret, struct ckpt_err *err)
{
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    (void)err;
    CHECK(p != MAP_FAILED && sim_fd_kind(fd) == FD_DECL);
    sealing = (int32_t)sim_fd_index(fd);
    sim_image_decl(&sim_ranks[sealing], p, len);
    *ret = p;
    return CKPT_OK;
}
