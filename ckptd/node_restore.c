/* The machine of a node's restores. */
#include "ckptd/node_restore.h"

#include <assert.h>
#include <stdio.h>

static struct restore_group *group_for(struct restore_table *t, uint64_t key,
                                       const struct ckpt_name *name, uint32_t flags,
                                       const struct digest *select)
{
    for (size_t i = 0; key != 0 && i < RESTORE_GROUPS_MAX; i++) {
        struct restore_group *g = &t->groups[i];
        if (g->phase == RESTORE_GATHER && g->key == key && g->flags == flags &&
            name_equal(&g->name, name) && g->count < RESTORE_CONSUMERS_MAX &&
            memcmp(&g->consumers[0].select, select, sizeof(*select)) == 0)
            return g;
    }
    for (size_t i = 0; i < RESTORE_GROUPS_MAX; i++)
        if (t->groups[i].phase == RESTORE_FREE)
            return &t->groups[i];
    return NULL;
}

struct restore_group *restore_join(struct restore_table *t, uint64_t key,
                                   const struct ckpt_name *name, uint32_t flags,
                                   const struct restore_consumer *who, int64_t now)
{
    struct restore_group *g = group_for(t, key, name, flags, &who->select);
    if (!g)
        return NULL;
    if (g->phase == RESTORE_FREE) {
        struct restore_consumer *room = calloc(RESTORE_CONSUMERS_MAX, sizeof(*room));
        if (!room)
            return NULL;
        *g = (struct restore_group){ .phase = RESTORE_GATHER,
                                     .key = key,
                                     .name = *name,
                                     .flags = flags,
                                     .begun_ns = now,
                                     .consumers = room };
    }
    g->consumers[g->count++] = *who;
    return g;
}

/* A rank that lost its connection asks again and is in the group twice, once as gone. */
uint32_t restore_waiting(const struct restore_group *g)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < g->count; i++)
        n += !g->consumers[i].gone;
    return n;
}

bool restore_due(struct restore_group *g, uint32_t expected, int64_t now)
{
    if (g->phase != RESTORE_GATHER)
        return false;
    if (g->key != 0 && restore_waiting(g) < expected && now - g->begun_ns < RESTORE_GATHER_NS)
        return false;
    g->phase = RESTORE_PLAN;
    return true;
}

void restore_planned(struct restore_group *g, const struct plan *plan)
{
    assert(g->phase == RESTORE_PLAN);
    g->phase = RESTORE_RUN;
    g->plan = plan;
    for (uint32_t i = 0; i < g->count; i++)
        g->consumers[i].total_bytes = plan->consumer_bytes[i];
}

void restore_fail(struct restore_group *g, enum ckpt_status st, const char *text)
{
    if (g->status == CKPT_OK) {
        g->status = st;
        snprintf(g->text, sizeof(g->text), "%s", text && text[0] ? text : status_sentence(st));
    }
    if (g->phase == RESTORE_PLAN || g->phase == RESTORE_GATHER)
        g->phase = RESTORE_RUN;
}

static bool all_gone(const struct restore_group *g)
{
    for (uint32_t i = 0; i < g->count; i++)
        if (!g->consumers[i].gone)
            return false;
    return true;
}

/* Takes up the next batch; false when there is none, or enough are under way. */
static bool take_up(struct restore_group *g)
{
    if (g->phase != RESTORE_RUN || g->status != CKPT_OK || !g->plan ||
        g->in_flight >= RESTORE_FLIGHT_MAX || all_gone(g))
        return false;
    if (g->next_batch == g->plan->batch_count)
        return false;
    const struct plan_batch *b = &g->plan->batches[g->next_batch];
    uint32_t *slots = calloc(max_u64(b->use_count, 1), sizeof(*slots));
    if (!slots) {
        restore_fail(g, CKPT_NO_MEMORY, "out of memory during a restore");
        return false;
    }
    g->filling = (struct restore_batch){ .batch = (uint32_t)g->next_batch++, .slots = slots };
    g->has_filling = true;
    return true;
}

struct restore_consumer *restore_want(struct restore_group *g)
{
    if (!g->has_filling && !take_up(g))
        return NULL;
    const struct plan_batch *b = &g->plan->batches[g->filling.batch];
    while (g->filling.uses < b->use_count) {
        struct restore_consumer *c = &g->consumers[b->uses[g->filling.uses].consumer];
        if (!c->gone)
            return c;
        g->filling.slots[g->filling.uses++] = UINT32_MAX;
    }
    return NULL;
}

void restore_reserved(struct restore_group *g, uint32_t slot)
{
    const struct plan_batch *b = &g->plan->batches[g->filling.batch];
    g->consumers[b->uses[g->filling.uses].consumer].lent++;
    g->filling.slots[g->filling.uses++] = slot;
}

bool restore_ready(struct restore_group *g, struct restore_batch *ret)
{
    if (!g->has_filling || g->filling.uses < g->plan->batches[g->filling.batch].use_count)
        return false;
    *ret = g->filling;
    g->filling = (struct restore_batch){ 0 };
    g->has_filling = false;
    g->in_flight++;
    return true;
}

bool restore_abandoned(struct restore_group *g, struct restore_batch *ret)
{
    if (!g->has_filling || (g->status == CKPT_OK && !all_gone(g)))
        return false;
    *ret = g->filling;
    g->filling = (struct restore_batch){ 0 };
    g->has_filling = false;
    return true;
}

void restore_loaded(struct restore_group *g)
{
    assert(g->in_flight > 0);
    g->in_flight--;
}

void restore_back(struct restore_consumer *c)
{
    assert(c->lent > 0);
    c->lent--;
}

void restore_gone(struct restore_group *g, uint32_t client, uint64_t op)
{
    for (uint32_t i = 0; i < g->count; i++)
        if (g->consumers[i].client == client && g->consumers[i].op == op)
            g->consumers[i].gone = true;
}

struct restore_consumer *restore_ended(struct restore_group *g)
{
    if (g->phase != RESTORE_RUN)
        return NULL;
    bool read = g->status != CKPT_OK ||
                (g->plan && g->next_batch == g->plan->batch_count && !g->has_filling);
    for (uint32_t i = 0; read && i < g->count; i++) {
        struct restore_consumer *c = &g->consumers[i];
        if (c->gone || (g->status == CKPT_OK && (c->lent > 0 || g->in_flight > 0)))
            continue;
        c->gone = true;
        return c;
    }
    return NULL;
}

bool restore_over(const struct restore_group *g)
{
    return (g->phase == RESTORE_RUN || g->phase == RESTORE_GATHER) && g->in_flight == 0 &&
           !g->has_filling && all_gone(g);
}

void restore_free(struct restore_group *g)
{
    free(g->filling.slots);
    free(g->consumers);
    select_fini(g->select);
    free(g->select);
    *g = (struct restore_group){ .phase = RESTORE_FREE };
}

struct restore_consumer *restore_find(struct restore_table *t, uint32_t client, uint64_t op,
                                      struct restore_group **ret)
{
    for (size_t k = 0; k < RESTORE_GROUPS_MAX; k++) {
        struct restore_group *g = &t->groups[k];
        for (uint32_t i = 0; g->phase != RESTORE_FREE && i < g->count; i++) {
            const struct restore_consumer *who = &g->consumers[i];
            if (who->gone || who->client != client || who->op != op)
                continue;
            *ret = g;
            return &g->consumers[i];
        }
    }
    return NULL;
}
