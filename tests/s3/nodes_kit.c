/* A cluster by hand: jobs run where the daemon's crews would run them, their ends are told to
 * the machines as ckptd's control does it. */
#include "s3/nodes_kit.h"

#include "storage/store/store_s3.h"

/* ---- what the home is asked ---- */

static struct nodes_cost asked(const struct nodes *n)
{
    const struct store_counts *c = &n->counts;
    struct nodes_cost ret = { .requests = c->puts + c->gets + c->stats + c->lists + c->removes,
                              .put_bytes = c->put_bytes,
                              .get_bytes = c->get_bytes };
    ret.sent = ret.requests;
    if (strncmp(n->home->url, "s3://", 5) == 0) {
        struct s3_counts s3;
        s3_site_counts(store_s3_of(n->home)->site, &s3);
        ret.sent = s3.requests - s3.retries - s3.hedges;
    }
    return ret;
}

/* Runs a job of the node as one of `phase`. */
static void run(struct nodes *n, struct node *at, enum nodes_phase phase, struct job *j)
{
    struct nodes_cost before = asked(n), *to = &at->cost[phase];
    j->base.run(&j->base, phase == NODES_DRAIN || phase == NODES_FINISH ? &at->drains : &at->w);
    struct nodes_cost after = asked(n);
    to->requests += after.requests - before.requests;
    to->sent += after.sent - before.sent;
    to->put_bytes += after.put_bytes - before.put_bytes;
    to->get_bytes += after.get_bytes - before.get_bytes;
    to->jobs++;
}

static struct job *new_job(enum job_kind kind)
{
    struct job *j = job_new(kind);
    CHECK(j);
    return j;
}

void nodes_forget_cost(struct nodes *n)
{
    for (uint32_t i = 0; i < n->count; i++)
        memset(n->list[i].cost, 0, sizeof(n->list[i].cost));
}

struct nodes_cost nodes_total(const struct nodes *n, enum nodes_phase phase)
{
    struct nodes_cost sum = { 0 };
    for (uint32_t i = 0; i < n->count; i++) {
        sum.requests += n->list[i].cost[phase].requests;
        sum.sent += n->list[i].cost[phase].sent;
        sum.put_bytes += n->list[i].cost[phase].put_bytes;
        sum.get_bytes += n->list[i].cost[phase].get_bytes;
        sum.jobs += n->list[i].cost[phase].jobs;
    }
    return sum;
}

/* ---- nodes ---- */

static void open_node(struct nodes *n, uint32_t number)
{
    struct node *at = &n->list[number];
    char url[64];
    struct store *home;
    at->number = number;
    snprintf(url, sizeof(url), "mem://node-%u", number);
    at->setup = (struct tiers_setup){ .config = &n->config, .count = 2, .home = 1 };
    at->setup.urls[0] = at->setup.urls[1] = n->home->url;
    at->w = (struct jobs_work){
        .slot_bytes = KIT_SLOT, .save = n->save, .drain = n->drain, .node = { 1 }
    };
    memcpy(at->w.node + 4, &number, sizeof(number));
    at->w.tiers.setup = &at->setup;
    at->drains = at->w;
    CHECK_OK(store_dup(n->home, &home, NULL));
    CHECK_OK(wrap_count(home, &n->counts, &at->w.home, NULL));
    CHECK_OK(store_dup(at->w.home, &home, NULL));
    CHECK_OK(wrap_throttle(home, &at->setup.throttle[1], &at->drains.home, NULL));
    at->w.local = kit_store(url);
    CHECK_OK(store_dup(at->w.local, &at->drains.local, NULL));
    struct jobs_work *both[] = { &at->w, &at->drains };
    for (int i = 0; i < 2; i++) {
        both[i]->tiers.s[0] = both[i]->local;
        both[i]->tiers.s[1] = both[i]->home;
    }
    at->committer = calloc(1, sizeof(*at->committer));
    at->drainer = calloc(1, sizeof(*at->drainer));
    CHECK(at->committer && at->drainer);
    at->committer->arrival_ns = COMMITTER_ARRIVAL_NS;
    drainer_init(at->drainer, 2, 1, 0);
    at->drainer->tiers[1].scan_ns = INT64_MAX; /* what lies there from before is no matter here */
}

void nodes_open(struct nodes *n, const char *home_url, const struct kit_model *m, uint32_t count)
{
    struct record_repo repo;
    *n = (struct nodes){ .count = count,
                         .config = { .store = home_url },
                         .home = kit_store(home_url) };
    CHECK_OK(repo_open(n->home, true, &repo, NULL));
    kit_layout_rows(&n->layout, m, count);
    n->save = save_work_new(KIT_SLOT);
    n->drain = drain_work_new(KIT_SLOT);
    n->slot = aligned_alloc(CKPT_BLOCK, KIT_SLOT);
    n->list = calloc(count, sizeof(*n->list));
    CHECK(n->save && n->drain && n->slot && n->list);
    for (uint32_t i = 0; i < count; i++)
        open_node(n, i);
}

void nodes_close(struct nodes *n)
{
    for (uint32_t i = 0; i < n->count; i++) {
        struct node *at = &n->list[i];
        store_close(at->w.home);
        store_close(at->drains.home);
        store_close(at->drains.local);
        kit_store_drop(at->w.local);
        free(at->committer);
        free(at->drainer);
        free(at->part.packs);
    }
    free(n->list);
    save_work_free(n->save);
    drain_work_free(n->drain);
    free(n->slot);
    kit_layout_fini(&n->layout);
    store_close(n->home);
}

/* ---- a start ---- */

static struct job *launch_job(const struct nodes *n, const char *token, enum launch_step what)
{
    struct job *j = new_job(JOB_LAUNCH);
    j->launch.what = what;
    snprintf(j->launch.job, sizeof(j->launch.job), "%s", KIT_JOB);
    snprintf(j->launch.token, sizeof(j->launch.token), "%s", token);
    j->launch.world = n->count;
    j->launch.alone = n->count == 1;
    j->launch.epoch = n->epoch;
    return j;
}

static void launch_step(struct nodes *n, uint32_t number, struct job *j)
{
    run(n, &n->list[number], NODES_LAUNCH, j);
    if (j->status != CKPT_OK)
        fprintf(stderr, "node %u: launch: %s\n", number, err_text(&j->err));
    CHECK_OK(j->status);
}

static void tell(struct nodes *n, const char *token, uint32_t number)
{
    struct job *j = launch_job(n, token, LAUNCH_TELL);
    j->launch.ranks = malloc(sizeof(*j->launch.ranks));
    CHECK(j->launch.ranks);
    j->launch.ranks[0] = number;
    j->launch.rank_count = 1;
    launch_step(n, number, j);
    job_free(j);
}

/* Rank 0's node claims, the others find that, all tell, and rank 0's gathers. */
static void gather(struct nodes *n, const char *token, struct launch_nodes *ret)
{
    for (uint32_t i = 1; i < n->count; i++) {
        struct job *j = launch_job(n, token, LAUNCH_FIND);
        launch_step(n, i, j);
        CHECK_EQ(j->launch.epoch, n->epoch);
        job_free(j);
    }
    for (uint32_t i = 0; i < n->count; i++)
        tell(n, token, i);
    struct job *j = launch_job(n, token, LAUNCH_GATHER);
    j->launch.nodes = ret;
    launch_step(n, 0, j);
    CHECK(j->launch.missing == n->count && !j->launch.pending);
    job_free(j);
}

void nodes_launch(struct nodes *n, const char *token, const struct ckpt_name *from)
{
    struct launch_nodes told = { 0 };
    struct job *j = launch_job(n, token, LAUNCH_CLAIM);
    launch_step(n, 0, j);
    n->epoch = j->launch.epoch;
    job_free(j);
    if (n->count > 1)
        gather(n, token, &told);
    for (uint32_t i = 0; i < n->count; i++) {
        j = launch_job(n, token, i ? LAUNCH_LOOK : LAUNCH_RESOLVE);
        j->launch.nodes = i ? NULL : &told;
        launch_step(n, i, j);
        CHECK_EQ(j->launch.has_point, from != NULL);
        CHECK(!from || name_equal(&j->launch.point, from));
        job_free(j);
    }
    launch_nodes_fini(&told);
}

/* ---- a rank's part ---- */

static void fill_slot(const struct decl *d, uint32_t slot, uint8_t *memory)
{
    struct decl_walk w = decl_walk_slot(d, slot);
    struct decl_tile tile;
    while (decl_walk_next(&w, &tile)) {
        const struct decl_tensor *t = &d->tensors[tile.tensor];
        kit_bytes(t->name, t->shape, &tile.box, dtype_bits(t->dtype), memory + tile.place.offset);
    }
}

struct part { /* of one rank, in the work */
    struct nodes *n;
    struct node *at;
    uint32_t rank;
    const struct kit_save *how;
    struct ledger_op area;
    uint64_t stored_bytes;
};

static struct job *part_job(const struct part *p, enum job_kind kind)
{
    struct job *j = new_job(kind);
    j->part.job = KIT_JOB;
    j->part.name = p->how->name;
    j->part.rank = p->rank;
    j->part.world = p->n->layout.world;
    j->part.epoch = p->how->name.epoch;
    j->part.step = p->how->name.step;
    j->part.time_ns = 1700000000;
    j->part.has_parent = p->how->has_parent;
    j->part.parent = p->how->parent;
    j->part.decl = &p->n->layout.d[p->rank];
    j->part.area = p->area;
    j->part.stored_bytes = p->stored_bytes;
    return j;
}

static void part_step(const struct part *p, enum nodes_phase phase, struct job *j)
{
    run(p->n, p->at, phase, j);
    if (j->status != CKPT_OK)
        fprintf(stderr, "rank %u: %s\n", p->rank, err_text(&j->err));
    CHECK_OK(j->status);
}

static void save_slot(struct part *p, uint32_t slot)
{
    fill_slot(&p->n->layout.d[p->rank], slot, p->n->slot);
    for (int i = 0; i < 2; i++) {
        struct job *j = part_job(p, i ? JOB_PACK : JOB_DIGEST);
        j->part.image_slot = slot;
        j->part.memory = p->n->slot;
        part_step(p, NODES_MANIFEST, j);
        if (i) {
            p->area.packs[slot].id = j->part.packed.id;
            p->stored_bytes += j->part.packed.stored_bytes;
        }
        job_free(j);
    }
}

static void save_part(struct nodes *n, struct node *at, uint32_t rank, const struct kit_save *how)
{
    const struct decl *d = &n->layout.d[rank];
    struct part p = { .n = n, .at = at, .rank = rank, .how = how };
    struct job *j = part_job(&p, JOB_BEGIN);
    part_step(&p, NODES_BEGIN, j);
    job_free(j);
    p.area.digests = calloc(d->chunk_count + 1, sizeof(*p.area.digests));
    p.area.crcs = calloc(d->chunk_count + 1, sizeof(*p.area.crcs));
    p.area.packs = calloc(d->slot_count + 1, sizeof(*p.area.packs));
    CHECK(p.area.digests && p.area.crcs && p.area.packs);
    for (uint32_t i = 0; i < d->slot_count; i++)
        save_slot(&p, i);
    j = part_job(&p, JOB_FINISH);
    part_step(&p, NODES_MANIFEST, j);
    job_free(j);
    free(p.area.digests);
    free(p.area.crcs);
    free(p.area.packs);
}

/* ---- commit ---- */

static struct job *attempt_job(const struct committer_attempt *a)
{
    struct job *j = new_job(JOB_ATTEMPT);
    j->attempt.what = (enum committer_job)a->job_out;
    memcpy(j->attempt.job, a->job, sizeof(j->attempt.job));
    j->attempt.name = a->name;
    j->attempt.world = a->world;
    j->attempt.from = a->missing;
    return j;
}

/* What the machine does of it, and of the ends of its jobs. */
static void tell_committer(struct nodes *n, struct node *at, struct committer_event ev)
{
    static struct committer_actions acts;
    for (bool again = true; again;) {
        struct job *j = NULL;
        acts.count = 0;
        CHECK_OK(committer_step(at->committer, &ev, n->now, &acts));
        for (uint32_t i = 0; i < acts.count; i++) {
            const struct committer_attempt *a = &at->committer->attempts[acts.list[i].attempt];
            if (acts.list[i].kind == COMMITTER_DECIDED) {
                CHECK_OK(acts.list[i].status);
                at->decided = true;
                continue;
            }
            CHECK(!j);
            j = attempt_job(a);
        }
        again = j != NULL;
        if (!again)
            break;
        run(n, at, j->attempt.what == COMMITTER_PUBLISH ? NODES_PUBLISH : NODES_POLL, j);
        ev = (struct committer_event){ .kind = COMMITTER_DONE,
                                       .job = KIT_JOB,
                                       .name = j->attempt.name,
                                       .done = j->attempt.what,
                                       .status = j->status,
                                       .rank = j->attempt.rank,
                                       .text = "" };
        job_free(j);
    }
}

static struct committer_event rank_event(const struct nodes *n, const struct node *at,
                                         enum committer_event_kind kind,
                                         const struct ckpt_name *name)
{
    return (struct committer_event){ .kind = kind,
                                     .job = KIT_JOB,
                                     .name = *name,
                                     .world = n->count,
                                     .rank = at->number,
                                     .deadline_ns = INT64_MAX,
                                     .several = n->count > 1 };
}

void nodes_save(struct nodes *n, const struct kit_save *how, int64_t apart_ns)
{
    const int64_t begun = n->now;
    uint32_t left = n->count;
    for (uint32_t i = 0; i < n->count; i++) {
        n->list[i].put = n->list[i].decided = n->list[i].held = false;
        tell_committer(n, &n->list[i], rank_event(n, &n->list[i], COMMITTER_JOINED, &how->name));
    }
    for (; left > 0; n->now += NODES_TICK_NS) {
        for (uint32_t i = 0; i < n->count; i++) {
            struct node *at = &n->list[i];
            bool was = at->decided, due = n->now - begun >= (int64_t)(4 * i / n->count) * apart_ns;
            if (!at->put && due) {
                save_part(n, at, i, how);
                at->put = true;
                tell_committer(n, at, rank_event(n, at, COMMITTER_PUT_DONE, &how->name));
            } else if (!was) {
                tell_committer(n, at, (struct committer_event){ .kind = COMMITTER_TICK });
            }
            left -= at->decided && !was;
        }
        CHECK(n->now - begun < 600 * NODES_SECOND_NS);
    }
}

struct store *nodes_alone(struct nodes *n, const char *url, const struct kit_save *how)
{
    struct record_repo repo;
    struct record_commit commit;
    struct node alone = { .w = n->list[0].w };
    alone.w.local = alone.w.home = kit_store(url);
    CHECK_OK(repo_open(alone.w.home, true, &repo, NULL));
    for (uint32_t rank = 0; rank < n->count; rank++) {
        memcpy(alone.w.node, n->list[rank].w.node, sizeof(alone.w.node));
        save_part(n, &alone, rank, how);
    }
    CHECK_OK(publish(alone.w.home, KIT_JOB, &how->name, n->count, &commit, NULL));
    return alone.w.home;
}

/* ---- drain ---- */

static struct job *drain_job(const struct node *at)
{
    const struct drainer_action *a = &at->todo;
    const struct drainer_tier *t = &at->drainer->tiers[a->tier];
    const struct drainer_target *to = &at->drainer->targets[a->target];
    struct job *j = new_job(JOB_DRAIN);
    j->drain.what = a->what;
    j->drain.tier = a->tier;
    j->drain.world = t->world;
    j->drain.from = j->drain.rank = a->rank;
    memcpy(j->drain.job, to->job, sizeof(j->drain.job));
    j->drain.name = to->name;
    j->drain.wait = to->wait;
    if (a->what == DRAINER_PACK)
        j->drain.pack = at->part.packs[a->pack];
    if (a->what == DRAINER_ACCOUNT)
        j->drain.stored_bytes = t->rank_stored;
    return j;
}

static void tell_drainer(struct nodes *n, struct node *at, const struct drainer_event *ev)
{
    static struct drainer_actions acts;
    acts.count = 0;
    CHECK(drainer_step(at->drainer, ev, n->now, &acts));
    for (uint32_t i = 0; i < acts.count; i++) {
        CHECK(acts.list[i].kind == DRAINER_RUN || acts.list[i].kind == DRAINER_HELD);
        if (acts.list[i].kind == DRAINER_RUN)
            at->todo = acts.list[i];
        else
            at->held = true;
    }
}

/* One job of the node, if it has any. */
static void drain_on(struct nodes *n, struct node *at)
{
    if (at->todo.what == DRAINER_IDLE)
        return;
    bool finish = at->todo.what == DRAINER_FINISH;
    struct job *j = drain_job(at);
    run(n, at, finish ? NODES_FINISH : NODES_DRAIN, j);
    struct drainer_event ev = { .kind = DRAINER_DONE,
                                .tier = 1,
                                .what = j->drain.what,
                                .status = j->status,
                                .text = "",
                                .world = j->drain.world,
                                .bytes = j->drain.bytes,
                                .wait = j->drain.wait };
    if (j->status != CKPT_OK && !(finish && j->status == CKPT_BUSY) && j->status != CKPT_EXISTS)
        fprintf(stderr, "node %u: %s: %s\n", at->number, drainer_job_name(at->todo.what),
                err_text(&j->err));
    if (j->drain.what == DRAINER_PART && j->status == CKPT_OK) {
        free(at->part.packs);
        at->part = j->drain.part;
        j->drain.part.packs = NULL;
        ev.rank = at->part.rank;
        ev.packs = at->part.count;
        ev.total = at->part.total;
        ev.bytes = at->part.there_bytes;
        ev.raw_bytes = at->part.raw_bytes;
    }
    at->todo.what = DRAINER_IDLE;
    tell_drainer(n, at, &ev);
    job_free(j);
}

void nodes_drain(struct nodes *n, const struct ckpt_name *name, uint32_t late, int64_t late_ns)
{
    const int64_t begun = n->now;
    uint32_t left = n->count;
    const struct drainer_event want = {
        .kind = DRAINER_WANT, .tier = 1, .job = KIT_JOB, .name = *name, .fresh = true
    };
    for (uint32_t i = 0; i < n->count; i++)
        if (i != late)
            tell_drainer(n, &n->list[i], &want);
    for (bool came = false; left > 0; n->now += NODES_TICK_NS) {
        for (uint32_t i = 0; i < n->count; i++) {
            struct node *at = &n->list[i];
            bool was = at->held;
            if (i == late && !came && n->now - begun >= late_ns) {
                came = true;
                tell_drainer(n, at, &want);
            }
            tell_drainer(n, at, &(struct drainer_event){ .kind = DRAINER_TICK });
            drain_on(n, at);
            left -= at->held && !was;
        }
        CHECK(n->now - begun < 600 * NODES_SECOND_NS);
    }
}
