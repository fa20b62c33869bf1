/* Launches: a session opens when its launch is resolved.
 *
 *   rank 0 here   NEW ► ADOPTING ► CLAIMING ► CLAIMED ► DRAINING (older saves on this node
 *                 end) ► RESOLVING ► RESOLVED ► READY; in those that end in -ED and in
 *                 ADOPTING other tiers are asked or told, where there are any (H1)
 *   else          NEW ► DRAINING when rank 0's node has claimed ► ... ► READY
 *
 * A tier that is not heard when ADOPTING ends may have waited for a home that is away.  So before
 * it is left out:
 *
 *   ASKING        until the home answers; then ADOPTING once more
 *
 * When not all ranks are on this node (and the home is shared), behind DRAINING:
 *
 *   TELLING       the node says in the home which ranks are here and what it holds; again
 *                 for ranks that come later
 *   GATHERING     rank 0 here: until nodes have told of all ranks, then RESOLVING;
 *                 else: until it has resolved, then RESOLVED
 *
 * A home that is out of reach for a while fails none of these: they are repeated, until the
 * ranks' own deadlines (I2). */
#include <inttypes.h>
#include <stdio.h>

#include "ckptd/control.h"
#include "ckptd/log.h"

#define RESCAN_NS INT64_C(2000000000) /* most launches are resolved by then */
#define WORDS_NS  INT64_C(500000000)  /* so long before a deadline there are words for it */
#define AGAIN_NS  INT64_C(2000000000) /* tiers that are asked once more get this, at least */

struct launch *launch_by_key(struct control *c, uint64_t key)
{
    for (struct launch *l = c->launches; l; l = l->next)
        if (l->key == key)
            return l;
    return NULL;
}

uint64_t launch_mark(const struct session *s)
{
    uint64_t mark;
    memcpy(&mark, s->id, sizeof(mark)); /* random */
    return mark | 1;
}

struct launch *launch_by_token(struct control *c, const char *job, const char *token)
{
    for (struct launch *l = c->launches; l; l = l->next)
        if (!l->reader && l->phase != LAUNCH_FAILED && strcmp(l->job, job) == 0 &&
            strcmp(l->token, token) == 0)
            return l;
    return NULL;
}

struct launch *launch_new(struct control *c, const struct session *s)
{
    struct launch *l = calloc(1, sizeof(*l));
    if (!l)
        return NULL;
    l->key = c->next_key++;
    l->world = s->world;
    l->reader = s->mode == WIRE_READ;
    memcpy(l->job, s->job, sizeof(l->job));
    memcpy(l->token, s->token, sizeof(l->token));
    l->next = c->launches;
    c->launches = l;
    return l;
}

/* Forgets launches that no session belongs to. */
void control_launch_reap(struct control *c)
{
    for (struct launch **at = &c->launches; *at;) {
        struct launch *l = *at;
        bool used = l->job_out || l->rollback;
        for (uint32_t i = 0; !used && i < c->client_end; i++)
            used = c->clients[i] && c->clients[i]->launch == l->key;
        if (used) {
            at = &l->next;
            continue;
        }
        *at = l->next;
        roster_fini(&l->held);
        roster_fini(&l->held_here);
        launch_nodes_fini(&l->nodes);
        free(l);
    }
}

void control_launch_adopt(struct control *c, struct client *cl)
{
    const struct session *s = cl->s;
    struct launch *l = s->mode == WIRE_TRAIN ? launch_by_token(c, s->job, s->token) : NULL;
    if (!l)
        l = launch_new(c, s);
    if (!l)
        return;
    l->phase = LAUNCH_READY;
    if (s->epoch >= l->epoch) { /* some ranks may not have gone back with the others yet */
        l->epoch = s->epoch;
        l->result.epoch = l->epoch;
        l->result.has_point = s->flags & WIRE_HAS_POINT;
        l->result.stop = s->flags & WIRE_STOP;
        l->result.point = s->point;
        memcpy(l->result.why, s->why, sizeof(l->result.why));
    }
    if (s->rank == 0) {
        l->rank0_here = true;
        memcpy(l->nonce, s->id, sizeof(l->nonce));
    }
    cl->launch = l->key;
}

/* -- whose ranks are where ------------------------------------------------------------ */

static bool is_of(const struct client *cl, const struct launch *l)
{
    return cl && cl->launch == l->key && !cl->over && !cl->s->dead;
}

/* True if all ranks of the launch are on this node. */
static bool all_here(const struct control *c, const struct launch *l)
{
    uint32_t here = 0;
    for (uint32_t i = 0; i < c->client_end; i++)
        here += is_of(c->clients[i], l);
    return l->reader || here >= l->world;
}

static int rank_order(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* The ranks here of which the home does not know yet, rising; malloc'ed. */
static uint32_t *untold(const struct control *c, const struct launch *l, uint32_t *ret_count)
{
    uint32_t *ranks = calloc(CONTROL_CLIENTS_MAX, sizeof(*ranks));
    uint32_t count = 0;
    for (uint32_t i = 0; ranks && i < c->client_end; i++)
        if (is_of(c->clients[i], l) && !c->clients[i]->told)
            ranks[count++] = c->clients[i]->s->rank;
    if (ranks)
        qsort(ranks, count, sizeof(*ranks), rank_order);
    *ret_count = count;
    return ranks;
}

static bool any_untold(const struct control *c, const struct launch *l)
{
    for (uint32_t i = 0; i < c->client_end; i++)
        if (is_of(c->clients[i], l) && !c->clients[i]->told)
            return true;
    return false;
}

static void mark_told(struct control *c, const struct launch *l, const struct job_launch *j)
{
    for (uint32_t i = 0; i < c->client_end; i++)
        if (is_of(c->clients[i], l) && bsearch(&c->clients[i]->s->rank, j->ranks, j->rank_count,
                                               sizeof(*j->ranks), rank_order))
            c->clients[i]->told = true;
}

/* Until when a launch waits for what began before it: not so long that its ranks, who have
 * other nodes to wait for, too, give up meanwhile. */
static int64_t patience_until(const struct control *c, const struct launch *l)
{
    int64_t most = CONTROL_DRAIN_NS;
    for (uint32_t i = 0; i < c->client_end; i++) {
        const struct client *cl = c->clients[i];
        if (is_of(cl, l) && !cl->open && cl->hello_deadline_ns - l->claimed_ns < 2 * most)
            most = (cl->hello_deadline_ns - l->claimed_ns) / 2;
    }
    return l->claimed_ns + most;
}

/* Until when the home is asked: a moment less than the last rank waits, who then learns what
 * the home said.  In a rollback nobody's HELLO waits: 0. */
static int64_t ask_until(const struct control *c, const struct launch *l)
{
    int64_t last = 0;
    for (uint32_t i = 0; i < c->client_end; i++) {
        const struct client *cl = c->clients[i];
        if (is_of(cl, l) && !cl->open && cl->hello_deadline_ns > last)
            last = cl->hello_deadline_ns;
    }
    return last > c->now + 2 * WORDS_NS ? last - WORDS_NS : last;
}

/* -- steps in the store ------------------------------------------------------------- */

static void submit(struct control *c, struct launch *l, enum launch_step what)
{
    struct job *j = job_new(JOB_LAUNCH);
    if (!j) {
        l->phase = LAUNCH_FAILED;
        l->status = CKPT_NO_MEMORY;
        return;
    }
    j->launch.what = what;
    j->launch.launch = l->key;
    memcpy(j->launch.job, l->job, sizeof(l->job));
    memcpy(j->launch.token, l->token, sizeof(l->token));
    memcpy(j->launch.nonce, l->nonce, sizeof(l->nonce));
    j->launch.world = l->world;
    j->launch.wish = l->wish;
    j->launch.epoch = l->epoch;
    j->launch.was = l->was;
    j->launch.after = l->after;
    /* A process that starts over behind a rollback that died: the same, from where it is. */
    j->launch.leaves = l->leaves ? l->leaves : l->was;
    j->launch.unheard = l->unheard ? c->tiers.urls[__builtin_ctz(l->unheard)] : NULL;
    j->launch.alone = all_here(c, l) || !c->shared_store;
    j->launch.also = &l->held;
    j->launch.also_here = &l->held_here;
    j->launch.nodes = &l->nodes;
    j->launch.floor = l->floor;
    j->launch.until_ns = ask_until(c, l);
    j->launch.waits = !j->launch.alone && !l->wish.none && c->now <= patience_until(c, l);
    if (what == LAUNCH_TELL)
        j->launch.ranks = untold(c, l, &j->launch.rank_count);
    if (what == LAUNCH_TELL && !j->launch.ranks)
        control_out_of_memory(l->job);
    l->job_out = true;
    l->asked_ns = c->now;
    control_submit(c, c->records, j);
}

/* A launch that failed a moment ago may still be writing that its checkpoint is bad or was
 * restored: the next one waits for reports, too, or it would choose without them.
 * True while a save that an older launch of the job began here is undecided. */
static bool older_undecided(const struct control *c, const struct launch *l)
{
    for (uint32_t i = 0; i < c->client_end; i++) {
        const struct client *cl = c->clients[i];
        if (!cl || !cl->open || cl->launch == l->key || strcmp(cl->s->job, l->job) != 0)
            continue;
        for (uint32_t k = 0; k < SESSION_OPS_MAX; k++) {
            const struct session_op *op = &cl->s->ops[k];
            if (op->phase != OP_NONE && op->phase != OP_LOAD && op->begun_ns <= l->claimed_ns &&
                !control_waits_for_others(c, cl, op))
                return true;
        }
    }
    return false;
}

static void fail_launch(struct launch *l, enum ckpt_status st, const char *text)
{
    l->phase = LAUNCH_FAILED;
    l->status = st;
    snprintf(l->text, sizeof(l->text), "%s", text);
    log_warn("launch failed", "job=%s status=%s why=\"%s\"", l->job, status_name(st), text);
}

static void launch_ready(struct launch *l)
{
    const struct job_launch *r = &l->result;
    l->phase = LAUNCH_READY;
    log_info("launch resolved", "job=%s epoch=%" PRIu64 " resume=%s step=%" PRIu64 " why=\"%s\"",
             l->job, l->epoch, r->has_point ? "yes" : "no", r->has_point ? r->point.step : 0,
             r->why);
}

/* Whoever waits for the launch, when it is decided. */
static void answer(struct control *c, struct launch *l)
{
    if (l->rollback && (l->phase == LAUNCH_READY || l->phase == LAUNCH_FAILED))
        control_rolled_back(c, l);
    if (l->phase == LAUNCH_READY || l->phase == LAUNCH_FAILED)
        control_answer(c, l);
}

/* The home first learns what other tiers know of the job. */
void control_launch_begin(struct control *c, struct launch *l)
{
    l->phase = LAUNCH_ADOPTING;
    l->taken = false;
    l->asking_ns = 0;
    if (!control_tiers_adopt(c, l, c->tier_ns))
        control_launch_go_on(c, l);
}

/* The home is there.  What it took of the tiers' time is given to them. */
static void asked(struct control *c, struct launch *l)
{
    int64_t wait_ns = c->now - l->asking_ns + AGAIN_NS;
    l->phase = LAUNCH_ADOPTING;
    l->tiers_late = 0; /* perhaps for the home's sake */
    if (!control_tiers_adopt(c, l, wait_ns < c->tier_ns ? wait_ns : c->tier_ns))
        control_launch_go_on(c, l);
}

static void adopted(struct control *c, struct launch *l)
{
    bool again = l->unheard && !l->asking_ns;
    if (again)
        l->asking_ns = c->now;
    l->phase = again ? LAUNCH_ASKING : l->reader ? LAUNCH_RESOLVING : LAUNCH_CLAIMING;
    submit(c, l, again ? LAUNCH_ASK : l->reader ? LAUNCH_READ : LAUNCH_CLAIM);
}

static void claimed(struct control *c, struct launch *l, uint64_t epoch)
{
    struct key key = key_claim(l->job, epoch);
    l->epoch = epoch;
    l->phase = LAUNCH_CLAIMED;
    if (!control_tiers_spread(c, l, &key))
        control_launch_go_on(c, l);
}

static void resolved(struct control *c, struct launch *l, bool ours)
{
    struct key key = key_resolved(l->job, l->epoch);
    l->phase = LAUNCH_RESOLVED;
    if (!ours || !control_tiers_spread(c, l, &key))
        control_launch_go_on(c, l);
}

/* Said when it begins, and not with every try. */
static void note_home(struct launch *l, const struct job *j)
{
    bool away = j->launch.away;
    if (away && !l->text[0])
        log_warn("a launch waits for its home", "job=%s status=%s why=\"%s\"", l->job,
                 status_name(j->status), err_text(&j->err));
    snprintf(l->text, sizeof(l->text), "%s", away ? err_text(&j->err) : "");
}

/* Steps that are repeated until something is there, or until the home can be asked. */
static bool looks_again(const struct job *j)
{
    bool looks = j->launch.what == LAUNCH_FIND || j->launch.what == LAUNCH_LOOK;
    return j->launch.away || (looks && j->status == CKPT_NOT_FOUND);
}

static void look_again(struct control *c, struct launch *l, const struct job *j)
{
    l->poll_ns = c->now + COMMITTER_POLL_MIN_NS;
    l->floor = j->launch.floor;
    l->tell_ns = l->poll_ns;
    if (l->phase == LAUNCH_TELLING)
        l->phase = LAUNCH_GATHERING; /* where those who are not told of yet are told of */
    if (l->rank0_here && l->phase == LAUNCH_NEW) /* rank 0 came while we looked */
        control_launch_begin(c, l);
}

static void gathered(struct control *c, struct launch *l, const struct job_launch *j)
{
    l->missing = j->missing;
    l->poll_ns = c->now + COMMITTER_POLL_MIN_NS;
    if (!l->nodes.resolved && j->missing < l->world)
        return;
    l->phase = LAUNCH_RESOLVING;
    submit(c, l, LAUNCH_RESOLVE);
}

/* A checkpoint that its nodes are just bringing to the home is waited for: without it the
 * launch would begin further back, or not at all. */
static void wait_for_drains(struct control *c, struct launch *l)
{
    l->phase = LAUNCH_GATHERING;
    l->poll_ns = c->now + COMMITTER_POLL_MIN_NS;
}

static void step_done(struct control *c, struct launch *l, struct job *j)
{
    switch (j->launch.what) {
    case LAUNCH_ASK:
        asked(c, l);
        break;
    case LAUNCH_CLAIM:
        claimed(c, l, j->launch.epoch);
        break;
    case LAUNCH_FIND:
        l->epoch = j->launch.epoch;
        l->claimed_ns = c->now;
        l->phase = LAUNCH_DRAINING;
        break;
    case LAUNCH_TELL:
        mark_told(c, l, &j->launch);
        l->phase = LAUNCH_GATHERING;
        l->poll_ns = c->now;
        l->rescan_ns = c->now + RESCAN_NS;
        break;
    case LAUNCH_GATHER:
        gathered(c, l, &j->launch);
        break;
    case LAUNCH_RESOLVE:
    case LAUNCH_LOOK:
    case LAUNCH_READ:
        if (j->launch.pending) {
            wait_for_drains(c, l);
            break;
        }
        l->result = j->launch;
        l->epoch = j->launch.epoch;
        resolved(c, l, j->launch.what == LAUNCH_RESOLVE);
        break;
    }
}

void control_launch_done(struct control *c, struct job *j)
{
    struct launch *l = launch_by_key(c, j->launch.launch);
    if (!l)
        return;
    l->job_out = false;
    note_home(l, j);
    if (looks_again(j)) {
        look_again(c, l, j);
        return;
    }
    if (j->status != CKPT_OK)
        fail_launch(l, j->status, err_text(&j->err));
    else
        step_done(c, l, j);
    answer(c, l);
}

void control_launch_go_on(struct control *c, struct launch *l)
{
    if (l->phase == LAUNCH_ADOPTING) {
        adopted(c, l);
    } else if (l->phase == LAUNCH_CLAIMED && l->taken) {
        log_warn("the epoch is taken in another tier", "job=%s epoch=%" PRIu64, l->job, l->epoch);
        l->after = l->epoch;
        control_launch_begin(c, l);
    } else if (l->phase == LAUNCH_CLAIMED) {
        l->claimed_ns = c->now;
        l->phase = LAUNCH_DRAINING;
    } else if (l->phase == LAUNCH_RESOLVED) {
        launch_ready(l);
        /* Its resolver may have committed what older launches left. */
        control_drain_step(c, &(struct drainer_event){ .kind = DRAINER_RESCAN });
    }
    answer(c, l);
}

/* Between two tries of a step, or two looks for what others do. */
static bool is_waiting(const struct launch *l)
{
    return !l->job_out &&
           (l->phase == LAUNCH_NEW || l->phase == LAUNCH_ASKING || l->phase == LAUNCH_CLAIMING ||
            l->phase == LAUNCH_GATHERING || l->phase == LAUNCH_RESOLVING);
}

/* Rank 0's node did not go back with the ranks of this one, or the home is away: they stay where
 * they are, in an epoch that may be old by now, and learn that when they save. */
static void time_out_rollback(struct control *c, struct launch *l)
{
    char home[SESSION_TEXT_MAX];
    if (!l->rollback || !is_waiting(l) || c->now - l->rollback_ns < COMMITTER_ARRIVAL_NS)
        return;
    memcpy(home, l->text, sizeof(home));
    if (home[0])
        fail_launch(l, CKPT_UNREACHABLE, home);
    else
        fail_launch(l, CKPT_TIMEOUT,
                    l->rank0_here ? "other ranks did not go back to the same checkpoint in time"
                                  : "rank 0 did not go back to the same checkpoint in time");
    control_rolled_back(c, l);
}

/* Rule I2: a start that dies early harms nobody.  Nobody waits for this one any more, so it
 * must not be resolved: that would shut out a launch that lives. */
static bool anybody_waits(const struct control *c, const struct launch *l)
{
    for (uint32_t i = 0; i < c->client_end; i++)
        if (c->clients[i] && c->clients[i]->launch == l->key && !c->clients[i]->over)
            return true;
    return false;
}

/* H1: the launch goes on without the tiers that did not answer, and says so: when it is known
 * that they did not wait for the home. */
static void tiers_late(struct control *c, struct launch *l)
{
    if (l->phase != LAUNCH_ADOPTING || l->asking_ns) {
        log_warn("other tiers do not answer: the launch goes on without them", "job=%s tiers=%d",
                 l->job, __builtin_popcount(l->tiers_out));
        l->tiers_late |= l->tiers_out;
    }
    l->tiers_out = 0;
    l->tier_round = 0;
    control_launch_go_on(c, l);
}

/* What older launches have here has ended, or will not in time. */
static void drained(struct control *c, struct launch *l)
{
    bool quiet = !older_undecided(c, l) && c->reports_out == 0;
    if (!quiet && c->now <= patience_until(c, l))
        return;
    bool several = c->shared_store && (!l->rank0_here || !all_here(c, l));
    if (several && c->now < l->tell_ns)
        return; /* ranks of a node come together: they are told of together */
    l->phase = several ? LAUNCH_TELLING : LAUNCH_RESOLVING;
    submit(c, l, several ? LAUNCH_TELL : LAUNCH_RESOLVE);
}

/* What the launch has decided for older ones, this node may hold a part of and not know it: the
 * daemon was started again meanwhile, say.  It looks, for the launch may be waiting for just
 * that part to come home: after 2 s, then less and less often. */
static void look_for_own_parts(struct control *c, struct launch *l)
{
    if (c->now < l->rescan_ns)
        return;
    l->rescan_ns = c->now + (c->now - l->claimed_ns);
    control_drain_step(c, &(struct drainer_event){ .kind = DRAINER_RESCAN });
}

static void gather(struct control *c, struct launch *l)
{
    look_for_own_parts(c, l);
    if (l->job_out)
        return;
    if (l->rank0_here && all_here(c, l)) {
        l->phase = LAUNCH_RESOLVING;
        submit(c, l, LAUNCH_RESOLVE);
    } else if (any_untold(c, l) && c->now >= l->tell_ns) {
        l->phase = LAUNCH_TELLING;
        submit(c, l, LAUNCH_TELL);
    } else if (c->now >= l->poll_ns) {
        submit(c, l, l->rank0_here ? LAUNCH_GATHER : LAUNCH_LOOK);
    }
}

/* The home was away, and maybe for its sake other tiers could not tell what they know: then that
 * comes first again. */
static void ask_again(struct control *c, struct launch *l)
{
    enum launch_step what = l->phase == LAUNCH_ASKING     ? LAUNCH_ASK
                            : l->phase == LAUNCH_CLAIMING ? LAUNCH_CLAIM
                            : l->reader                   ? LAUNCH_READ
                                                          : LAUNCH_RESOLVE;
    if (!is_waiting(l) || c->now < l->poll_ns)
        return;
    if ((what == LAUNCH_CLAIM || what == LAUNCH_READ) && l->unheard)
        control_launch_begin(c, l);
    else
        submit(c, l, what);
}

void control_launch_tick(struct control *c)
{
    for (struct launch *l = c->launches; l; l = l->next) {
        time_out_rollback(c, l);
        if (l->tiers_out != 0 && c->now >= l->tiers_by_ns)
            tiers_late(c, l);
        bool wanted = l->rollback || anybody_waits(c, l);
        bool asks = l->phase == LAUNCH_ASKING || l->phase == LAUNCH_CLAIMING ||
                    l->phase == LAUNCH_RESOLVING;
        if (l->phase == LAUNCH_DRAINING && wanted)
            drained(c, l);
        else if (l->phase == LAUNCH_GATHERING && wanted)
            gather(c, l);
        else if (asks && wanted)
            ask_again(c, l);
        if (l->phase == LAUNCH_NEW && !l->job_out && !l->rank0_here && c->shared_store &&
            c->now >= l->poll_ns)
            submit(c, l, LAUNCH_FIND);
        if (l->phase == LAUNCH_READY || l->phase == LAUNCH_FAILED)
            control_answer(c, l);
        else
            control_answer_late(c, l);
    }
}

/* -- a rollback inside the process (I6): the same launch, a new epoch ------------------ */

bool control_rollback(struct control *c, struct launch *l, uint32_t group,
                      const struct ckpt_name *point)
{
    if (l->phase != LAUNCH_READY || l->job_out || l->rollback)
        return false;
    l->rollback = (uint64_t)group + 1;
    l->rollback_ns = c->now;
    l->after = l->leaves = l->epoch;
    l->restored_put = false;
    l->progress_put = false;
    l->tiers_late = 0; /* that was long ago */
    l->wish = (struct lineage_wish){
        .forced = true, .step = point->step, .has_epoch = true, .epoch = point->epoch
    };
    l->phase = LAUNCH_NEW;
    l->text[0] = 0;
    l->poll_ns = c->now;
    l->floor = 0;
    launch_nodes_fini(&l->nodes);
    for (uint32_t i = 0; i < c->client_end; i++)
        if (c->clients[i] && c->clients[i]->launch == l->key)
            c->clients[i]->told = false;
    if (l->rank0_here)
        control_launch_begin(c, l);
    return true;
}
