/* See fanout.h. */
#include "libckpt/fanout.h"

#include <stdio.h>
#include <time.h>

#include "libckpt/context.h"
#include "libckpt/gpu_cuda.h"
#include "libckpt/nccl_end.h"

#define TIMEOUT_MS 60000
#define AHEAD      4 /* groups on the stream whose end was not seen yet */
#define LOOK_NS    200000
#define WAKE_NS    INT64_C(10000000)
#define WORDS      5 /* of a vote */
#define PAGE       4096

struct fanout {
    struct ckpt_state *s;
    struct ckpt_fanout opts;
    struct nccl_api api;
    struct nccl_id id;
    struct ckpt_err why;            /* it cannot take part, known since they met */
    nccl_comm comm;                 /* NULL: none that can be used, or no more */
    bool own;                       /* made here */
    uint32_t left;                  /* CKPT_COMM_*: how the caller's is left */
    struct fanout_plan *plan;       /* the state's; NULL: it says no */
    struct gpu *gpu;                /* a queue of our own on the communicator's device */
    unsigned device;                /* of devices.h */
    struct room words;              /* a page: this rank's vote, and at PAGE / 2 what all said */
    struct gpu_event *ended[AHEAD]; /* behind each group under way */
    struct digest asked;            /* the plan, of which checkpoint, by which rules */
    bool bad;                       /* what this rank sends is not what was saved */
    bool busy;                      /* NCCL has had work on our queue */
    bool stuck;                     /* the device does not come to an end */
};

static int64_t stall_at(const struct fanout *f)
{
    return lib_now_ns() + (int64_t)f->opts.timeout_ms * 1000000;
}

static void pause_to_look(void)
{
    nanosleep(&(struct timespec){ .tv_nsec = LOOK_NS }, NULL);
}

/* For people: what became of it. */
static void say(struct ckpt *c, const char *text, const char *why)
{
    snprintf(c->shared.info.fanout, sizeof(c->shared.info.fanout), "%s%.200s", text, why);
}

/* -- steps that end by themselves, or at the time limit ------------------------------------ */

static enum ckpt_status look_for_error(const struct fanout *f, nccl_result *ret,
                                       struct ckpt_err *err)
{
    nccl_result asked = f->api.CommGetAsyncError(f->comm, ret);
    if (asked != NCCL_SUCCESS)
        *ret = asked;
    if (*ret == NCCL_SUCCESS || *ret == NCCL_IN_PROGRESS)
        return CKPT_OK;
    return nccl_fail(&f->api, *ret, "fan-out", err);
}

/* A call that does not block has been made: waits until NCCL is done with it. */
static enum ckpt_status settle(const struct fanout *f, nccl_result r, const char *what,
                               struct ckpt_err *err)
{
    int64_t by = stall_at(f);
    enum ckpt_status st = CKPT_OK;
    while (st == CKPT_OK && r == NCCL_IN_PROGRESS) {
        if (lib_now_ns() >= by)
            return err_set(err, CKPT_TIMEOUT, "%s: other ranks do not come", what);
        pause_to_look();
        st = look_for_error(f, &r, err);
    }
    if (st == CKPT_OK && r != NCCL_SUCCESS)
        st = nccl_fail(&f->api, r, what, err);
    return st;
}

/* Waits on the host until the device has got there. */
static enum ckpt_status await(const struct fanout *f, const struct gpu_event *e,
                              struct ckpt_err *err)
{
    int64_t by = stall_at(f);
    nccl_result r;
    for (;;) {
        enum ckpt_status st = e->gpu->ops->query(e, err);
        if (st != CKPT_BUSY)
            return st;
        st = look_for_error(f, &r, err);
        if (st != CKPT_OK)
            return st;
        if (lib_now_ns() >= by)
            return err_set(err, CKPT_TIMEOUT, "another rank does not go on");
        pause_to_look();
    }
}

/* The first vote is behind all that the caller has queued: that may take as long as the restore, and
 * no other rank is to blame. */
static enum ckpt_status await_caller(const struct fanout *f, int64_t deadline_ns,
                                     struct ckpt_err *err)
{
    enum ckpt_status st;
    nccl_result r;
    while ((st = f->gpu->ops->query(f->ended[0], err)) == CKPT_BUSY) {
        st = look_for_error(f, &r, err);
        if (st != CKPT_OK)
            return st;
        if (lib_now_ns() >= deadline_ns)
            return err_set(err, CKPT_TIMEOUT, "the work on the stream before does not end");
        pause_to_look();
    }
    return st;
}

/* True on *ret if all ranks say yes, and mean the same.  All get the same answer, or none. */
static enum ckpt_status vote(struct fanout *f, bool yes, bool *ret, struct ckpt_err *err)
{
    void *page = f->words.bytes;
    uint64_t d[2], *mine = page, *all = mine + PAGE / 2 / sizeof(*mine);
    memcpy(d, f->asked.b, sizeof(d));
    const uint64_t words[WORDS] = { d[0], ~d[0], d[1], ~d[1], yes };
    memcpy(mine, words, sizeof(words));
    f->busy = true;
    nccl_result r =
        f->api.AllReduce(mine, all, WORDS, NCCL_U64, NCCL_MIN, f->comm, gpu_cuda_stream(f->gpu));
    enum ckpt_status st = settle(f, r, "voting", err);
    if (st == CKPT_OK)
        st = f->gpu->ops->record(f->gpu, f->ended[0], err);
    if (st == CKPT_OK)
        st = await(f, f->ended[0], err);
    if (st == CKPT_OK) /* the least of each and of its complement: equal if all are */
        *ret = all[1] == ~all[0] && all[3] == ~all[2] && all[4] == 1;
    return st;
}

/* -- joining ------------------------------------------------------------------------------ */

/* Rank 0 says whether there is an id. */
static void share_id(struct fanout *f)
{
    struct {
        uint64_t there;
        struct nccl_id id;
    } word = { 0 };
    if (f->opts.rank == 0 && f->why.status == CKPT_OK)
        word.there = f->api.GetUniqueId(&word.id) == NCCL_SUCCESS &&
                     !nccl_made_to_block(); /* again: it reads its files into the environment */
    if (f->opts.broadcast(f->opts.broadcast_ctx, &word, sizeof(word)) != 0)
        (void)!err_set(&f->why, CKPT_UNSUPPORTED, "the broadcast callback failed");
    if (!word.there)
        (void)!err_set(&f->why, CKPT_UNSUPPORTED, "rank 0 has no NCCL that can be used");
    f->id = word.id;
}

struct fanout *fanout_meet(struct ckpt_state *s, const struct ckpt_fanout *opts)
{
    if (opts->size == 0)
        return NULL;
    struct fanout f = { .s = s, .opts = *opts, .left = CKPT_COMM_LOST };
    struct fanout *ret = s ? malloc(sizeof(*ret)) : NULL;
    if (!ret)
        (void)!err_set(&f.why, CKPT_NO_MEMORY, "out of memory");
    else if (nccl_api_load(&f.api, &f.why) == CKPT_OK)
        f.comm = opts->comm;
    if (f.why.status == CKPT_OK && !devices_any(s->ctx->devices))
        (void)!err_set(&f.why, CKPT_UNSUPPORTED, "no CUDA devices");
    if (f.why.status == CKPT_OK && !opts->comm && nccl_made_to_block())
        (void)!err_set(&f.why, CKPT_UNSUPPORTED, "NCCL_COMM_BLOCKING is 1");
    if (!opts->comm)
        share_id(&f);
    if (ret)
        *ret = f;
    return ret;
}

/* The communicator, perhaps still in the making, and its place. */
static enum ckpt_status join(struct fanout *f, struct ckpt_err *err)
{
    int device = 0, rank = 0, count = 0;
    struct nccl_config config = { sizeof(config), NCCL_CONFIG_MAGIC, NCCL_OLDEST, 0 };
    nccl_result r = NCCL_SUCCESS;
    if (!f->opts.comm) {
        enum ckpt_status st = devices_current(f->s->ctx->devices, &f->device, err);
        if (st != CKPT_OK)
            return st;
        f->own = true;
        r = f->api.CommInitRankConfig(&f->comm, (int)f->opts.count, f->id, (int)f->opts.rank,
                                      &config);
        if (r != NCCL_SUCCESS && r != NCCL_IN_PROGRESS)
            f->comm = NULL;
        return f->comm ? CKPT_OK : nccl_fail(&f->api, r, "making a communicator", err);
    }
    if ((r = f->api.CommCount(f->comm, &count)) != NCCL_SUCCESS ||
        (r = f->api.CommUserRank(f->comm, &rank)) != NCCL_SUCCESS ||
        (r = f->api.CommCuDevice(f->comm, &device)) != NCCL_SUCCESS)
        return nccl_fail(&f->api, r, "the caller's communicator", err);
    f->opts.count = (uint32_t)count;
    f->opts.rank = (uint32_t)rank;
    f->device = (unsigned)device + 1;
    return CKPT_OK;
}

/* Our queue on the device, and what a vote takes. */
static enum ckpt_status make_queue(struct fanout *f, struct ckpt_err *err)
{
    if (!cuda_uses_host_pointers(devices_cuda(f->s->ctx->devices), (int)f->device - 1))
        return err_set(err, CKPT_UNSUPPORTED, "the device has host memory at addresses of its own");
    enum ckpt_status st = devices_queue(f->s->ctx->devices, f->device, &f->gpu, err);
    for (size_t i = 0; st == CKPT_OK && i < AHEAD; i++)
        st = f->gpu->ops->event_new(f->gpu, &f->ended[i], err);
    if (st == CKPT_OK && !room_make(&f->words, PAGE))
        st = err_set(err, CKPT_NO_MEMORY, "out of memory");
    if (st == CKPT_OK)
        st = f->gpu->ops->pin(f->gpu, f->words.bytes, f->words.len, err);
    if (st == CKPT_OK)
        f->words.pinned_by = f->gpu;
    return st;
}

/* The queue of the copies is behind all that the caller has queued (flight_prepare): so is ours
 * from now on. */
static enum ckpt_status follow_caller(const struct fanout *f, struct ckpt_err *err)
{
    struct gpu *copies = devices_gpu(f->s->ctx->devices, f->device);
    enum ckpt_status st = copies->ops->record(copies, f->ended[0], err);
    return st == CKPT_OK ? f->gpu->ops->wait(f->gpu, f->ended[0], err) : st;
}

/* Ranks whose digests are equal do the same: the plan names tensors as declared, the rules say
 * which ones of the checkpoint those are. */
static enum ckpt_status digest_ask(const struct fanout *f, const struct wire_load *load,
                                   const struct fanout_plan *p, struct digest *ret,
                                   struct ckpt_err *err)
{
    CLEANUP_BUF struct buf rules = { 0 };
    struct digest_state all;
    enum ckpt_status st = select_encode(&f->s->select, &rules, err);
    if (st != CKPT_OK)
        return st;
    digest_begin(&all);
    digest_add(&all, &load->point, sizeof(load->point));
    digest_add(&all, &load->flags, sizeof(load->flags));
    digest_add(&all, p->digest.b, sizeof(p->digest.b));
    digest_add(&all, rules.data, rules.len);
    *ret = digest_end(&all);
    return CKPT_OK;
}

/* What this rank would do. */
static enum ckpt_status make_plan(struct fanout *f, const struct wire_load *load,
                                  struct ckpt_err *err)
{
    struct ckpt_state *s = f->s;
    const struct fanout_ask ask = { .decl = &s->decl,
                                    .select = &s->select,
                                    .at = s->at,
                                    .on = s->on,
                                    .device = f->device,
                                    .rank = f->opts.rank,
                                    .count = f->opts.count };
    if (load->flags & WIRE_LOAD_PARTIAL) /* what one left as it was would go to all */
        return err_set(err, CKPT_UNSUPPORTED, "a partial restore");
    if (load->flags & WIRE_LOAD_CONVERT)
        return err_set(err, CKPT_UNSUPPORTED, "a restore that converts");
    struct fanout_plan *p = calloc(1, sizeof(*p));
    if (!p)
        return err_set(err, CKPT_NO_MEMORY, "out of memory");
    enum ckpt_status st = fanout_plan_make(&ask, p, err);
    if (st == CKPT_OK)
        st = digest_ask(f, load, p, &f->asked, err);
    if (st != CKPT_OK) {
        fanout_plan_fini(p);
        free(p);
        return st;
    }
    f->plan = p;
    pthread_mutex_lock(&s->ctx->lock);
    s->fan = p;
    pthread_mutex_unlock(&s->ctx->lock);
    return CKPT_OK;
}

/* Ranks that end theirs too do so within a step; the device waits for none of them. */
static void let_end(const struct fanout *f, struct nccl_end *e)
{
    int64_t soon = lib_now_ns() + LIB_LAND_NS, by = stall_at(f);
    nccl_end_wait(e, by < soon ? by : soon);
}

static struct nccl_end *begin_end(struct fanout *f, nccl_result (*call)(nccl_comm c))
{
    const struct cuda *cuda = devices_cuda(f->s->ctx->devices);
    struct nccl_end *e = nccl_end_begin(call, f->comm, &cuda->api, (int)f->device - 1);
    f->comm = NULL;
    return e;
}

static struct nccl_end *begin_abort(struct fanout *f)
{
    struct nccl_end *e = f->comm ? begin_end(f, f->api.CommAbort) : NULL;
    if (e)
        f->left = CKPT_COMM_ABORTED; /* else the caller's is his to abort */
    return e;
}

/* Until nothing of an aborted communicator runs any more: the tensors are ours again.  A queue that
 * answers nothing any more does not say when. */
static bool queue_ends(const struct fanout *f)
{
    int64_t by = stall_at(f) + LIB_LAND_NS; /* an abort may take a while */
    enum ckpt_status st = f->gpu->ops->record(f->gpu, f->ended[0], NULL);
    if (st == CKPT_OK)
        while ((st = f->gpu->ops->query(f->ended[0], NULL)) == CKPT_BUSY && lib_now_ns() < by)
            pause_to_look();
    return st == CKPT_OK;
}

static void give_up_comm(struct fanout *f)
{
    struct nccl_end *e = begin_abort(f);
    f->stuck = f->busy && !queue_ends(f);
    let_end(f, e);
}

enum ckpt_status fanout_opts(const struct ckpt_fanout *given, struct ckpt_fanout *ret,
                             struct ckpt_err *err)
{
    memset(ret, 0, sizeof(*ret));
    if (!given)
        return CKPT_OK;
    enum ckpt_status st =
        lib_take_struct(ret, sizeof(*ret), given, sizeof(*given), "ckpt_fanout", err);
    if (st != CKPT_OK)
        return st;
    if (ret->timeout_ms < 0)
        return err_set(err, CKPT_INVALID, "ckpt_fanout: negative timeout");
    if (ret->timeout_ms == 0)
        ret->timeout_ms = TIMEOUT_MS;
    if (ret->comm)
        return CKPT_OK;
    if (!ret->broadcast || ret->count > CKPT_RANKS_MAX || ret->rank >= ret->count)
        return err_set(err, CKPT_INVALID,
                       "ckpt_fanout: without a communicator it takes broadcast, and rank %u below "
                       "count %u",
                       ret->rank, ret->count);
    if (ret->count == 1)
        ret->size = 0; /* nobody to share with */
    return CKPT_OK;
}

void fanout_begin(struct fanout *f, const struct wire_load *load)
{
    struct ckpt *c = f->s->ctx;
    struct ckpt_err why = f->why;
    enum ckpt_status st = why.status;
    if (st == CKPT_OK)
        st = join(f, &why);
    if (st == CKPT_OK)
        st = make_queue(f, &why);
    if (st != CKPT_OK)
        give_up_comm(f); /* not even a vote is possible */
    if (st == CKPT_OK && load)
        st = follow_caller(f, &why);
    if (st == CKPT_OK && load)
        st = make_plan(f, load, &why);
    pthread_mutex_lock(&c->lock);
    if (st != CKPT_OK)
        say(c, "not used: ", err_text(&why));
    pthread_mutex_unlock(&c->lock);
}

/* -- the broadcasts ------------------------------------------------------------------------ */

/* Waits until those of this rank's units are on their way to the device; if they will not
 * come, the others get what is there, and hear of it in the last vote. */
static enum ckpt_status await_own(struct fanout *f, const struct lib_op *op, size_t first,
                                  size_t end, int64_t deadline_ns, struct ckpt_err *err)
{
    struct ckpt *c = f->s->ctx;
    const struct fanout_plan *p = f->plan;
    enum ckpt_status st = CKPT_OK;
    nccl_result r;
    pthread_mutex_lock(&c->lock);
    for (size_t i = first; st == CKPT_OK && i < end; i++) {
        const struct fanout_unit *u = &p->units[i];
        if (u->part_piece == SIZE_MAX)
            continue;
        while (st == CKPT_OK && p->came[u->part_piece] < u->bytes && !op->final) {
            int64_t now = lib_now_ns();
            if (now >= deadline_ns)
                st = err_set(err, CKPT_TIMEOUT, "not done within the time limit");
            if (st != CKPT_OK ||
                lib_wait_changed(c, deadline_ns < now + WAKE_NS ? deadline_ns : now + WAKE_NS))
                continue;
            pthread_mutex_unlock(&c->lock);
            st = look_for_error(f, &r, err);
            pthread_mutex_lock(&c->lock);
        }
        f->bad |= p->came[u->part_piece] < u->bytes;
    }
    pthread_mutex_unlock(&c->lock);
    return st;
}

/* The copies out of the slots come first. */
static enum ckpt_status follow_copies(const struct fanout *f, struct ckpt_err *err)
{
    const struct gpu *copies = devices_gpu(f->s->ctx->devices, f->device);
    const struct gpu_event *last = f->s->last;
    while (last && last->gpu != copies)
        last = last->next;
    return last ? f->gpu->ops->wait(f->gpu, last, err) : CKPT_OK;
}

static enum ckpt_status broadcast_group(const struct fanout *f, size_t first, size_t end,
                                        struct ckpt_err *err)
{
    const struct fanout_plan *p = f->plan;
    nccl_result r = f->api.GroupStart();
    if (r != NCCL_SUCCESS)
        return nccl_fail(&f->api, r, "broadcasting", err);
    for (size_t i = first; (r == NCCL_SUCCESS || r == NCCL_IN_PROGRESS) && i < end; i++)
        r = f->api.Broadcast(p->units[i].at, p->units[i].at, p->units[i].bytes, NCCL_U8,
                             (int)p->units[i].owner, f->comm, gpu_cuda_stream(f->gpu));
    nccl_result ended = f->api.GroupEnd();
    if (r == NCCL_SUCCESS || r == NCCL_IN_PROGRESS)
        r = ended;
    return settle(f, r, "broadcasting", err);
}

static enum ckpt_status broadcast_all(struct fanout *f, const struct lib_op *op,
                                      int64_t deadline_ns, struct ckpt_err *err)
{
    const struct fanout_plan *p = f->plan;
    enum ckpt_status st = CKPT_OK;
    size_t end, groups = 0;
    for (size_t first = 0; st == CKPT_OK && first < p->count; first = end, groups++) {
        struct gpu_event *ended = f->ended[groups % AHEAD];
        end = fanout_plan_round(p, first);
        if (groups >= AHEAD)
            st = await(f, ended, err);
        if (st == CKPT_OK)
            st = await_own(f, op, first, end, deadline_ns, err);
        if (st == CKPT_OK)
            st = follow_copies(f, err);
        if (st == CKPT_OK)
            st = broadcast_group(f, first, end, err);
        if (st == CKPT_OK)
            st = f->gpu->ops->record(f->gpu, ended, err);
    }
    for (size_t i = 0; st == CKPT_OK && i < AHEAD && i < groups; i++)
        st = await(f, f->ended[i], err);
    return st;
}

/* -- the whole ------------------------------------------------------------------------------ */

/* Until ckptd has planned: what it refuses, nobody shall wait for.  The time limit is the
 * restore's: a slow store is no reason to ask it for more. */
static bool planned(struct fanout *f, const struct lib_op *op, int64_t deadline_ns)
{
    struct ckpt *c = f->s->ctx;
    pthread_mutex_lock(&c->lock);
    while (!op->begun && !op->final && lib_now_ns() < deadline_ns)
        (void)lib_wait_changed(c, deadline_ns);
    bool well = op->final ? op->status == CKPT_OK : op->begun;
    pthread_mutex_unlock(&c->lock);
    return well;
}

/* This rank's own part is here, on devices too. */
static bool landed(struct fanout *f, struct lib_op *op, int64_t deadline_ns)
{
    struct ckpt_err err = { 0 };
    struct ckpt_state *s = f->s;
    struct ckpt *c = s->ctx;
    pthread_mutex_lock(&c->lock);
    bool well = lib_op_wait(c, op, true, deadline_ns, &err) == CKPT_OK;
    int64_t by = lib_now_ns() + LIB_LAND_NS;
    while (s->shared.busy && (lib_wait_changed(c, by) || lib_now_ns() < by))
        ;
    well = well && s->shared.busy == 0 && s->shared.failed.status == CKPT_OK;
    pthread_mutex_unlock(&c->lock);
    return well;
}

enum outcome { WHOLE, VOTED_NO, BROKEN };

static enum outcome fan_out(struct fanout *f, struct lib_op *op, int64_t deadline_ns,
                            struct ckpt_err *err)
{
    bool yes = false;
    enum ckpt_status st = CKPT_OK;
    if (f->own)
        st = settle(f, NCCL_IN_PROGRESS, "making a communicator", err);
    if (st == CKPT_OK)
        st = await_caller(f, deadline_ns, err);
    if (st == CKPT_OK)
        st = vote(f, f->plan && planned(f, op, deadline_ns), &yes, err);
    if (st == CKPT_OK && !yes)
        (void)!err_set(err, CKPT_MISMATCH, "the ranks do not ask for the same, or one cannot");
    if (st != CKPT_OK || !yes)
        return st == CKPT_OK ? VOTED_NO : BROKEN;
    st = broadcast_all(f, op, deadline_ns, err);
    if (st == CKPT_OK) {
        bool well = landed(f, op, deadline_ns) && !f->bad;
        st = vote(f, well, &yes, err);
    }
    if (st != CKPT_OK)
        return BROKEN;
    if (!yes)
        (void)!err_set(err, CKPT_MISMATCH, "a rank has not got what it was to read");
    return yes ? WHOLE : VOTED_NO;
}

/* What others brought counts as come.  Lock held. */
static void count_all(const struct fanout *f)
{
    struct ckpt_state *s = f->s;
    for (size_t i = 0; i < f->plan->count; i++) {
        const struct fanout_unit *u = &f->plan->units[i];
        if (u->part_piece != SIZE_MAX)
            continue;
        s->fates[s->decl.pieces[u->piece].tensor].came_bytes += u->bytes;
        s->ctx->shared.info.restored_from_ranks += u->bytes;
    }
}

/* An orderly end, for which all must come here. */
static void leave(struct fanout *f)
{
    struct ckpt_err err = { 0 };
    f->left = CKPT_COMM_KEPT;
    if (!f->own)
        return;
    enum ckpt_status st = settle(f, f->api.CommFinalize(f->comm), "ending a communicator", &err);
    let_end(f, begin_end(f, st == CKPT_OK ? f->api.CommDestroy : f->api.CommAbort));
}

enum fanout_end fanout_run(struct fanout *f, struct lib_op *op, int64_t deadline_ns)
{
    struct ckpt *c = f->s->ctx;
    struct ckpt_err err = { 0 };
    if (!f->comm)
        return FANOUT_ALONE; /* why was said when it began */
    pthread_mutex_unlock(&c->lock);
    enum outcome outcome = fan_out(f, op, deadline_ns, &err);
    if (outcome == BROKEN)
        give_up_comm(f);
    else
        leave(f);
    pthread_mutex_lock(&c->lock);
    if (outcome == WHOLE) {
        count_all(f);
        return FANOUT_WHOLE;
    }
    if (f->plan || f->stuck)
        say(c, "given up: ", err_text(&err));
    if (f->stuck)
        return FANOUT_STUCK;
    return f->plan ? FANOUT_AGAIN : FANOUT_ALONE;
}

void fanout_free(struct fanout *f, uint32_t *ret_comm)
{
    if (!f)
        return;
    *ret_comm = f->left;
    if (f->gpu && !f->stuck) {
        for (size_t i = 0; i < AHEAD; i++)
            f->gpu->ops->event_free(f->ended[i]);
        room_drop(&f->words);
        f->gpu->ops->free(f->gpu);
    }
    free(f);
}

void fanout_took(struct ckpt_state *s, const struct wire_msg *m)
{
    struct wire_frags w;
    struct wire_frag frag;
    struct box box;
    size_t len;
    const uint8_t *bytes = wire_tail_of(m, &len);
    struct cursor tail = cursor_over(bytes, len);
    memcpy(&w, wire_body(m), sizeof(w));
    for (uint32_t i = 0; i < w.count && slots_read_frag(&tail, &frag, &box); i++) {
        const struct decl_tensor *t = &s->fan->part.tensors[frag.tensor];
        s->fan->came[t->first_piece + frag.piece] += box_bytes(&box, dtype_bits(t->dtype));
    }
    pthread_cond_broadcast(&s->ctx->changed);
}
