/* The stores of a node. */
#include "ckptd/tiers.h"

#include "ckptd/jobs.h"
#include "storage/repo/repo.h"

#define AGAIN_NS INT64_C(3000000000) /* sessions that go on wait so long for their home */

/* -- places ------------------------------------------------------------------------ */

/* again: it was open before, so nothing is made there, and it need not answer now. */
static enum ckpt_status open_place(const struct tiers_setup *t, const char *url, bool again,
                                   struct store **ret, struct ckpt_err *err)
{
    struct record_repo repo;
    struct ckpt_err why = { 0 };
    struct store_options options = { .io = t->config->io, .node = t->node, .create = !again };
    struct store *s;
    enum ckpt_status st = store_open(url, &options, &s, err);
    if (st != CKPT_OK)
        return st;
    store_set_limits(s, again ? jobs_now_ns() + AGAIN_NS : 0, NULL);
    st = repo_open(s, !again, &repo, &why);
    store_set_limits(s, 0, NULL);
    if (st != CKPT_OK && !(again && jobs_out_of_reach(st))) {
        store_close(s);
        return err_set(err, st, "%s", err_text(&why));
    }
    *ret = s;
    return CKPT_OK;
}

static void name_places(struct tiers_setup *t, const struct config *config)
{
    t->count = 0;
    if (config->local)
        t->urls[t->count++] = config->local;
    t->home = t->count;
    t->urls[t->count++] = config->store;
    for (size_t i = 0; i < config->remote_count && t->count < TIERS_MAX; i++)
        t->urls[t->count++] = config->remotes[i];
    for (uint32_t i = 1; i < t->count; i++)
        store_throttle_set(&t->throttle[i], config->remote_rate);
}

enum ckpt_status tiers_setup_open(struct tiers_setup *t, const struct config *config,
                                  const uint8_t node[16], bool again, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    *t = (struct tiers_setup){ .config = config };
    hex_encode(node, 16, t->node);
    name_places(t, config);
    for (uint32_t i = 0; st == CKPT_OK && i <= t->home; i++)
        st = open_place(t, t->urls[i], again && store_url_shared(t->urls[i]), &t->opened[i], err);
    if (st != CKPT_OK)
        tiers_setup_close(t);
    return st;
}

void tiers_setup_close(struct tiers_setup *t)
{
    for (int i = 0; i < 2; i++) {
        if (t->opened[i])
            store_close(t->opened[i]);
        t->opened[i] = NULL;
    }
}

/* -- a thread's handles -------------------------------------------------------------- */

static enum ckpt_status take_handle(struct tiers *t, uint32_t tier, struct store *s,
                                    struct ckpt_err *err)
{
    t->s[tier] = s;
    if (!t->held_back)
        return CKPT_OK;
    enum ckpt_status st = wrap_throttle(s, &t->setup->throttle[tier], &t->s[tier], err);
    if (st != CKPT_OK) {
        store_close(s);
        t->s[tier] = NULL;
    }
    return st;
}

enum ckpt_status tiers_init(struct tiers *t, struct tiers_setup *setup, bool held_back,
                            struct ckpt_err *err)
{
    *t = (struct tiers){ .setup = setup, .held_back = held_back };
    enum ckpt_status st = CKPT_OK;
    for (uint32_t i = 0; st == CKPT_OK && i <= setup->home; i++) {
        struct store *s;
        st = store_dup(setup->opened[i], &s, err);
        if (st == CKPT_OK)
            st = take_handle(t, i, s, err);
    }
    return st;
}

void tiers_fini(struct tiers *t)
{
    for (uint32_t i = 0; i < TIERS_MAX; i++) {
        if (t->s[i])
            store_close(t->s[i]);
        t->s[i] = NULL;
    }
}

enum ckpt_status tiers_get(struct tiers *t, uint32_t tier, struct store **ret, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    if (!t->s[tier]) {
        struct store *s;
        st = open_place(t->setup, t->setup->urls[tier], false, &s, err);
        if (st == CKPT_OK)
            st = take_handle(t, tier, s, err);
    }
    if (st == CKPT_OK)
        *ret = t->s[tier];
    return st;
}

uint32_t tiers_some(struct tiers *t, bool near, uint32_t but, struct store *ret[TIERS_MAX],
                    uint32_t which[TIERS_MAX])
{
    uint32_t end = near ? t->setup->home + 1 : t->setup->count, n = 0;
    for (uint32_t i = 0; i < end; i++) {
        if (i == but || tiers_get(t, i, &ret[n], NULL) != CKPT_OK)
            continue;
        which[n++] = i;
    }
    return n;
}

void tiers_limit(struct tiers *t, int64_t deadline_ns, const atomic_bool *cancel)
{
    for (uint32_t i = 0; i < TIERS_MAX; i++)
        if (t->s[i])
            store_set_limits(t->s[i], deadline_ns, cancel);
}
