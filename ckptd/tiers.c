/* The stores of a node. */
#include "ckptd/tiers.h"

#include "ckptd/jobs.h"
#include "storage/repo/repo.h"

#define AGAIN_NS INT64_C(3000000000)  /* sessions that go on wait so long for their home */
#define AWAY_NS  INT64_C(10000000000) /* a place that cannot be reached is left alone, at least */

/* -- places ------------------------------------------------------------------------ */

/* again: it was open before, so nothing is made there, and it need not answer now: then *io_repo
 * is left as it was. */
static enum ckpt_status open_place(const struct tiers_setup *t, const char *url, bool again,
                                   struct store **ret, struct record_repo *io_repo,
                                   struct ckpt_err *err)
{
    struct ckpt_err why = { 0 };
    struct store_options options = { .io = t->config->io, .node = t->node, .create = !again };
    struct store *s;
    enum ckpt_status st = store_open(url, &options, &s, err);
    if (st != CKPT_OK)
        return st;
    store_set_limits(s, again ? jobs_now_ns() + AGAIN_NS : 0, NULL);
    struct record_repo repo;
    st = repo_open(s, !again, &repo, &why);
    store_set_limits(s, 0, NULL);
    if (st != CKPT_OK && !(again && jobs_out_of_reach(st))) {
        store_close(s);
        return err_set(err, st, "%s", err_text(&why));
    }
    if (st == CKPT_OK)
        *io_repo = repo;
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
                                  const uint8_t node[16], bool again, struct record_repo *io_home,
                                  struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    *t = (struct tiers_setup){ .config = config };
    hex_encode(node, 16, t->node);
    name_places(t, config);
    for (uint32_t i = 0; st == CKPT_OK && i <= t->home; i++) {
        struct record_repo own;
        st = open_place(t, t->urls[i], again && store_url_shared(t->urls[i]), &t->opened[i],
                        i == t->home ? io_home : &own, err);
    }
    t->repo = *io_home;
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
        struct record_repo repo;
        st = open_place(t->setup, t->setup->urls[tier], false, &s, &repo, err);
        if (st == CKPT_OK)
            st = take_handle(t, tier, s, err);
    }
    if (st == CKPT_OK)
        *ret = t->s[tier];
    return st;
}

static uint32_t bit(uint32_t tier)
{
    return UINT32_C(1) << tier;
}

/* Bits of all places, or of the near ones. */
static uint32_t set_of(const struct tiers *t, bool near)
{
    return bit(near ? t->setup->home + 1 : t->setup->count) - 1;
}

/* To learn it took this long: it shall not take much more of what follows. */
static void note_away(struct tiers *t, uint32_t tier, int64_t begun_ns)
{
    int64_t now = jobs_now_ns(), took = now - begun_ns;
    t->away_ns[tier] = now + (4 * took > AWAY_NS ? 4 * took : AWAY_NS);
}

/* Those of the set that can be opened; *ret_away: bits of others, for which that took its time. */
static uint32_t open_some(struct tiers *t, uint32_t set, struct store *ret[TIERS_MAX],
                          uint32_t which[TIERS_MAX], uint32_t *ret_away)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->setup->count; i++) {
        int64_t begun_ns = jobs_now_ns();
        enum ckpt_status st = set & bit(i) ? tiers_get(t, i, &ret[n], NULL) : CKPT_NOT_PLANNED;
        if (st == CKPT_OK)
            which[n++] = i;
        if (st == CKPT_UNREACHABLE) {
            note_away(t, i, begun_ns);
            *ret_away |= bit(i);
        }
    }
    return n;
}

uint32_t tiers_some(struct tiers *t, bool near, uint32_t but, struct store *ret[TIERS_MAX],
                    uint32_t which[TIERS_MAX])
{
    uint32_t set = set_of(t, near), away = 0;
    if (but < TIERS_MAX)
        set &= ~bit(but);
    return open_some(t, set, ret, which, &away);
}

/* -- asking one behind the other ------------------------------------------------------- */

enum { ROUND_NEAR, ROUND_ALL, ROUND_AWAY, ROUNDS };

static uint32_t round_set(const struct tiers_ask *a, unsigned round)
{
    const struct tiers *t = a->t;
    int64_t now = jobs_now_ns();
    uint32_t away = 0;
    for (uint32_t i = 0; i < t->setup->count; i++)
        away |= now < t->away_ns[i] ? bit(i) : 0;
    return set_of(t, round == ROUND_NEAR) & ~(round == ROUND_AWAY ? a->failed : away);
}

/* True if other places may have what these have not, or not right. */
static bool ask_farther(enum ckpt_status st)
{
    return st == CKPT_NOT_FOUND || st == CKPT_IO || st == CKPT_CORRUPT || st == CKPT_UNREACHABLE;
}

bool tiers_ask_next(struct tiers_ask *a)
{
    if (a->answered && !ask_farther(a->status))
        return false;
    while (a->round < ROUNDS) {
        uint32_t set = round_set(a, a->round++), before = a->asked;
        if (!(set & ~before))
            continue;
        a->asked |= set;
        a->count = open_some(a->t, set, a->stores, a->which, &a->failed);
        a->begun_ns = jobs_now_ns();
        if (tiers_ask_bits(a, UINT32_MAX) & ~before)
            return true;
    }
    return false;
}

void tiers_ask_answer(struct tiers_ask *a, enum ckpt_status st, uint32_t away,
                      const struct ckpt_err *why)
{
    bool absent = st == CKPT_NOT_FOUND || st == CKPT_IO;
    for (uint32_t i = 0; i < a->count; i++)
        if (away & bit(i))
            note_away(a->t, a->which[i], a->begun_ns);
    a->failed |= tiers_ask_bits(a, away);
    if (a->answered && a->status == CKPT_UNREACHABLE && absent)
        return; /* that the others do not have it says less */
    a->answered = true;
    a->status = st;
    a->why = *why;
    a->why.status = st;
}

enum ckpt_status tiers_ask_end(const struct tiers_ask *a, struct ckpt_err *err)
{
    if (!a->answered)
        return err_set(err, CKPT_UNREACHABLE, "no store can be reached");
    if (a->status == CKPT_CORRUPT && a->failed) /* H3: damaged is what no store has right */
        return err_set(err, CKPT_UNREACHABLE,
                       "%.300s; and a store that may have it right cannot be reached",
                       err_text(&a->why));
    return a->status == CKPT_OK ? CKPT_OK : err_set(err, a->status, "%s", err_text(&a->why));
}

uint32_t tiers_ask_bits(const struct tiers_ask *a, uint32_t bits)
{
    uint32_t ret = 0;
    for (uint32_t i = 0; i < a->count; i++)
        ret |= bits & bit(i) ? bit(a->which[i]) : 0;
    return ret;
}

void tiers_limit(struct tiers *t, int64_t deadline_ns, const atomic_bool *cancel)
{
    for (uint32_t i = 0; i < TIERS_MAX; i++)
        if (t->s[i])
            store_set_limits(t->s[i], deadline_ns, cancel);
}
