/* See flight.h. */
#include <time.h>

#include "libckpt/context.h"

#define LOOK_NS 200000

static void events_free(struct gpu_event **list)
{
    while (*list) {
        struct gpu_event *e = *list;
        *list = e->next;
        e->gpu->ops->event_free(e);
    }
}

static void pause_to_look(void)
{
    nanosleep(&(struct timespec){ .tv_nsec = LOOK_NS }, NULL);
}

/* Goes through a set of CUDA devices: the next one's number after `i`, or 0. */
static unsigned next_of(uint64_t set, unsigned i)
{
    for (i++; i < DEVICES_MAX; i++)
        if (set >> i & 1)
            return i;
    return 0;
}

static unsigned next_device(const struct ckpt_state *s, unsigned i)
{
    return next_of(s->devices, i);
}

/* The devices that a caller's stream is of: NULL is the default stream of each that the state
 * lies on, and of his own.  A thread that has none yet gets none made. */
static uint64_t places_of(const struct ckpt_state *s, const void *stream)
{
    unsigned own = 0;
    bool has = devices_in_use(s->ctx->devices, &own);
    if (!stream)
        return s->devices | (has ? UINT64_C(1) << own : 0);
    return UINT64_C(1) << (has ? own : next_device(s, 0));
}

static enum ckpt_status add_event(struct gpu *g, struct gpu_event **list, struct ckpt_err *err)
{
    struct gpu_event *e = NULL;
    enum ckpt_status st = g->ops->event_new(g, &e, err);
    if (st != CKPT_OK)
        return st;
    e->next = *list;
    *list = e;
    return CKPT_OK;
}

/* -- flights ------------------------------------------------------------------ */

static void free_flight(struct lib_flight *f)
{
    events_free(&f->begins);
    events_free(&f->events);
    free(f);
}

/* A flight whose copies are still to be queued: its events exist. */
static enum ckpt_status make_flight(struct ckpt_state *s, struct lib_flight **ret,
                                    struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    struct lib_flight *f = calloc(1, sizeof(*f));
    if (!f)
        return err_set(err, CKPT_NO_MEMORY, "out of memory");
    for (unsigned i = next_device(s, 0); st == CKPT_OK && i; i = next_device(s, i)) {
        struct gpu *g = devices_gpu(s->ctx->devices, i);
        st = add_event(g, &f->events, err);
        if (st == CKPT_OK)
            st = add_event(g, &f->begins, err);
        if (st == CKPT_OK)
            st = g->ops->record(g, f->begins, err);
    }
    if (st == CKPT_OK)
        *ret = f;
    else
        free_flight(f);
    return st;
}

static void append(struct ckpt_state *s, struct lib_flight *f)
{
    struct lib_flight **end = &s->flights;
    while (*end)
        end = &(*end)->next;
    *end = f;
}

/* -- the caller's side ------------------------------------------------------ */

/* The event behind the last copy on each device, kept as long as the state: a captured
 * graph refers to it. */
static enum ckpt_status make_last(struct ckpt_state *s, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    for (unsigned i = next_device(s, 0); st == CKPT_OK && i; i = next_device(s, i)) {
        struct gpu *g = devices_gpu(s->ctx->devices, i);
        const struct gpu_event *e = s->last;
        while (e && e->gpu != g)
            e = e->next;
        if (!e)
            st = add_event(g, &s->last, err);
    }
    return st;
}

/* Queues the copy of one volatile tensor, slice by slice as it is pinned. */
static enum ckpt_status copy_side(struct lib_side *side, struct gpu *g, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    /* Not pinned, it waits for the stream here: slow, not wrong. */
    (void)room_pin(&side->room, g, NULL);
    for (uint64_t at = 0; st == CKPT_OK && at < side->len; at += GPU_PIN_SLICE) {
        struct box all = { .ndim = 1, .len = { min_u64(GPU_PIN_SLICE, side->len - at) } };
        struct strided from = dense_at(&all, 8, (uint8_t *)side->from + at);
        st = g->ops->copy_out(g, side->bytes + at, &all, 8, &all, &from, err);
    }
    return st;
}

static enum ckpt_status stream_waits(struct ckpt_state *s, void *stream, const struct gpu_event *e,
                                     struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    uint64_t places = places_of(s, stream);
    for (unsigned i = next_of(places, 0); st == CKPT_OK && i; i = next_of(places, i)) {
        struct gpu *g = devices_gpu(s->ctx->devices, i);
        st = g->ops->wait_user(g, stream, e, err);
    }
    return st;
}

/* Queues the copies of volatile tensors; later work on the stream waits for them. */
static enum ckpt_status copy_aside(struct ckpt_state *s, void *stream, struct ckpt_err *err)
{
    struct lib_flight *f = NULL;
    enum ckpt_status st = CKPT_OK;
    for (size_t i = 0; st == CKPT_OK && i < s->side_count; i++) {
        struct lib_side *side = &s->sides[i];
        if (side->on == 0 || side->len == 0)
            continue;
        if (!f && (st = make_flight(s, &f, err)) != CKPT_OK)
            return st;
        st = copy_side(side, devices_gpu(s->ctx->devices, side->on), err);
    }
    if (!f)
        return st;
    f->aside = true;
    f->full.arena_slot = UINT32_MAX;
    s->aside = f;
    enum ckpt_status gone = flight_depart(s, f, st == CKPT_OK ? err : NULL);
    st = st == CKPT_OK ? gone : st;
    for (const struct gpu_event *e = f->events; st == CKPT_OK && e; e = e->next)
        st = stream_waits(s, stream, e, err);
    return st;
}

void flight_add_aside(struct ckpt_state *s, uint64_t op)
{
    if (!s->aside)
        return;
    s->aside->full.op = op;
    append(s, s->aside);
    s->aside = NULL;
    s->shared.busy++;
    client_wake(s->ctx);
}

/* A restore fills host memory as soon as its bytes come, so what the stream does with that
 * memory must be over. */
static enum ckpt_status await_stream(const struct gpu_event *e, int64_t deadline_ns,
                                     struct ckpt_err *err)
{
    for (;;) {
        enum ckpt_status st = e->gpu->ops->query(e, err);
        if (st != CKPT_BUSY)
            return st;
        if (lib_now_ns() >= deadline_ns)
            return err_set(err, CKPT_TIMEOUT,
                           "the work on the stream before the restore did not end in time");
        pause_to_look();
    }
}

/* Our queues wait for the stream's present end, which *ret_ends are made for. */
static enum ckpt_status queues_wait(struct ckpt_state *s, void *stream, struct gpu_event **ret_ends,
                                    struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    uint64_t places = places_of(s, stream);
    for (unsigned p = next_of(places, 0); st == CKPT_OK && p; p = next_of(places, p)) {
        struct gpu *at = devices_gpu(s->ctx->devices, p);
        st = add_event(at, ret_ends, err);
        if (st == CKPT_OK)
            st = at->ops->record_user(at, *ret_ends, stream, err);
        for (unsigned i = next_device(s, 0); st == CKPT_OK && i; i = next_device(s, i)) {
            struct gpu *g = devices_gpu(s->ctx->devices, i);
            st = g->ops->wait(g, *ret_ends, err);
        }
    }
    return st;
}

enum ckpt_status flight_prepare(struct ckpt_state *s, void *stream, bool load, int64_t deadline_ns,
                                struct ckpt_err *err)
{
    struct gpu *host = devices_gpu(s->ctx->devices, 0);
    struct gpu_event *begun = NULL;
    enum ckpt_status st = make_last(s, err);
    s->prepared = st == CKPT_OK;
    if (st == CKPT_OK && !s->devices)
        return host->ops->record_user(host, NULL, stream, err);
    if (st == CKPT_OK)
        st = queues_wait(s, stream, &begun, err);
    for (const struct gpu_event *e = begun; st == CKPT_OK && load && s->host_memory && e;
         e = e->next)
        st = await_stream(e, deadline_ns, err);
    if (st == CKPT_OK && !load)
        st = copy_aside(s, stream, err);
    events_free(&begun);
    return st;
}

enum ckpt_status flight_follow(struct ckpt_state *s, void *stream, struct ckpt_err *err)
{
    struct gpu_event *here = NULL;
    enum ckpt_status st = queues_wait(s, stream, &here, err);
    events_free(&here);
    return st == CKPT_WRONG_STATE ? CKPT_OK : st;
}

enum ckpt_status flight_join(struct ckpt_state *s, void *stream, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    for (const struct gpu_event *e = s->last; st == CKPT_OK && e; e = e->next)
        st = stream_waits(s, stream, e, err);
    return st;
}

/* -- the transfer thread ---------------------------------------------------- */

enum ckpt_status flight_new(struct ckpt_state *s, struct lib_flight **ret, struct ckpt_err *err)
{
    enum ckpt_status st = make_flight(s, ret, err);
    if (st == CKPT_OK)
        append(s, *ret);
    return st;
}

enum ckpt_status flight_depart(struct ckpt_state *s, struct lib_flight *f, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    for (struct gpu_event *e = f->events; e; e = e->next) {
        enum ckpt_status one = e->gpu->ops->record(e->gpu, e, err);
        struct gpu_event *last = s->last;
        while (last && last->gpu != e->gpu)
            last = last->next;
        if (one == CKPT_OK && last)
            one = e->gpu->ops->record(e->gpu, last, err);
        st = st == CKPT_OK ? one : st;
    }
    return st;
}

/* Drops what has happened from the front of a list. */
static enum ckpt_status look(struct gpu_event **list, struct ckpt_err *err)
{
    while (*list) {
        struct gpu_event *e = *list;
        enum ckpt_status st = e->gpu->ops->query(e, err);
        if (st == CKPT_BUSY)
            return st;
        *list = e->next;
        e->gpu->ops->event_free(e);
        if (st != CKPT_OK)
            return st;
    }
    return CKPT_OK;
}

/* All of a list; what fails will not happen. */
static bool look_all(struct lib_flight *f, struct gpu_event **list)
{
    while (*list) {
        enum ckpt_status st = look(list, &f->err);
        if (st == CKPT_BUSY)
            return false;
        f->status = f->status == CKPT_OK ? st : f->status;
    }
    return true;
}

enum ckpt_status flight_look(struct lib_flight *f, struct ckpt_err *err)
{
    if (!look_all(f, &f->begins))
        return CKPT_BUSY;
    f->begun_ns = f->begun_ns ? f->begun_ns : lib_now_ns();
    if (!look_all(f, &f->events))
        return CKPT_BUSY;
    if (f->status != CKPT_OK)
        *err = f->err;
    return f->status;
}

bool flight_hangs(const struct lib_flight *f)
{
    return f->begun_ns && lib_now_ns() - f->begun_ns > LIB_LAND_NS;
}

/* It ends at the caller's deadline, and when the context is closed or broken. */
static bool restoring(struct ckpt_state *s)
{
    struct ckpt *c = s->ctx;
    bool is = false;
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < LIB_OPS; i++) {
        const struct lib_op *op = &c->shared.ops[i];
        is |= op->id && op->state == s && op->load && !op->final;
    }
    pthread_mutex_unlock(&c->lock);
    return is;
}

enum ckpt_status flight_settle(struct ckpt_state *s, struct gpu_event **event, struct ckpt_err *err)
{
    struct gpu_event *e = *event;
    enum ckpt_status st = CKPT_OK;
    while (e && (st = e->gpu->ops->query(e, err)) == CKPT_BUSY) {
        if (!restoring(s))
            return err_set(err, CKPT_CANCELLED, "restore: over before its copies to the device");
        pause_to_look();
    }
    if (e)
        e->gpu->ops->event_free(e);
    *event = NULL;
    return st;
}

void flight_remove(struct ckpt_state *s)
{
    struct lib_flight *f = s->flights;
    s->flights = f->next;
    free_flight(f);
}

void flight_forget(struct ckpt_state *s)
{
    while (s->flights)
        flight_remove(s);
    events_free(&s->last);
}
