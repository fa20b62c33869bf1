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

/* Goes through the devices of a state: the next one's number after `i`, or 0. */
static unsigned next_device(const struct ckpt_state *s, unsigned i)
{
    for (i++; i < DEVICES_MAX; i++)
        if (s->devices >> i & 1)
            return i;
    return 0;
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

static void pin_side(struct lib_side *side, struct gpu *g)
{
    if (!side->pinned_by && g->ops->pin(g, side->bytes, side->len, NULL) == CKPT_OK)
        side->pinned_by = g; /* else the copy waits for the stream here: slow, not wrong */
}

/* Queues the copies of volatile tensors on one device; later work on the stream waits. */
static enum ckpt_status copy_aside(struct ckpt_state *s, unsigned on, void *stream,
                                   struct ckpt_err *err)
{
    struct gpu *g = devices_gpu(s->ctx->devices, on);
    struct gpu_event *done = NULL;
    enum ckpt_status st = CKPT_OK;
    for (size_t i = 0; st == CKPT_OK && i < s->side_count; i++) {
        struct lib_side *side = &s->sides[i];
        struct box all = { .ndim = 1, .len = { side->len } };
        struct strided from = dense_at(&all, 8, side->from);
        if (side->on != on || side->len == 0)
            continue;
        if (!done && (st = add_event(g, &done, err)) != CKPT_OK)
            break;
        pin_side(side, g);
        st = g->ops->copy_out(g, side->bytes, &all, 8, &all, &from, err);
    }
    if (!done)
        return st;
    enum ckpt_status recorded = g->ops->record(g, done, st == CKPT_OK ? err : NULL);
    st = st == CKPT_OK ? recorded : st;
    if (st == CKPT_OK)
        st = g->ops->wait_user(g, stream, done, err);
    events_free(&done);
    return st;
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

/* Our queues wait for `e`, at the stream's present end. */
static enum ckpt_status queues_wait(struct ckpt_state *s, struct gpu_event *e, void *stream,
                                    struct ckpt_err *err)
{
    enum ckpt_status st = e->gpu->ops->record_user(e->gpu, e, stream, err);
    for (unsigned i = next_device(s, 0); st == CKPT_OK && i; i = next_device(s, i)) {
        struct gpu *g = devices_gpu(s->ctx->devices, i);
        st = g->ops->wait(g, e, err);
    }
    return st;
}

/* Everything after `e`. */
static enum ckpt_status order_after(struct ckpt_state *s, struct gpu_event *e, void *stream,
                                    bool load, int64_t deadline_ns, struct ckpt_err *err)
{
    enum ckpt_status st = queues_wait(s, e, stream, err);
    if (st == CKPT_OK && load && s->host_memory)
        st = await_stream(e, deadline_ns, err);
    for (unsigned i = next_device(s, 0); st == CKPT_OK && !load && i; i = next_device(s, i))
        st = copy_aside(s, i, stream, err);
    return st;
}

enum ckpt_status flight_prepare(struct ckpt_state *s, void *stream, bool load, int64_t deadline_ns,
                                struct ckpt_err *err)
{
    unsigned current = 0;
    struct gpu *host = devices_gpu(s->ctx->devices, 0);
    struct gpu_event *begun = NULL;
    if (!s->devices)
        return host->ops->record_user(host, NULL, stream, err);
    enum ckpt_status st = make_last(s, err);
    if (st == CKPT_OK)
        st = devices_current(s->ctx->devices, &current, err);
    if (st == CKPT_OK)
        st = add_event(devices_gpu(s->ctx->devices, current), &begun, err);
    if (st != CKPT_OK)
        return st;
    st = order_after(s, begun, stream, load, deadline_ns, err);
    events_free(&begun);
    return st;
}

enum ckpt_status flight_follow(struct ckpt_state *s, void *stream, struct ckpt_err *err)
{
    unsigned current = 0;
    struct gpu_event *here = NULL;
    enum ckpt_status st = devices_current(s->ctx->devices, &current, err);
    if (st == CKPT_OK)
        st = add_event(devices_gpu(s->ctx->devices, current), &here, err);
    if (st != CKPT_OK)
        return st;
    st = queues_wait(s, here, stream, err);
    events_free(&here);
    return st == CKPT_WRONG_STATE ? CKPT_OK : st;
}

enum ckpt_status flight_join(struct ckpt_state *s, void *stream, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    for (const struct gpu_event *e = s->last; st == CKPT_OK && e; e = e->next)
        st = e->gpu->ops->wait_user(e->gpu, stream, e, err);
    return st;
}

/* -- the transfer thread ---------------------------------------------------- */

enum ckpt_status flight_new(struct ckpt_state *s, struct lib_flight **ret, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    struct lib_flight **end = &s->flights;
    struct lib_flight *f = calloc(1, sizeof(*f));
    if (!f)
        return err_set(err, CKPT_NO_MEMORY, "out of memory");
    for (unsigned i = next_device(s, 0); st == CKPT_OK && i; i = next_device(s, i))
        st = add_event(devices_gpu(s->ctx->devices, i), &f->events, err);
    if (st != CKPT_OK) {
        events_free(&f->events);
        free(f);
        return st;
    }
    while (*end)
        end = &(*end)->next;
    *end = f;
    *ret = f;
    return CKPT_OK;
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

enum ckpt_status flight_look(struct lib_flight *f, struct ckpt_err *err)
{
    while (f->events) {
        enum ckpt_status st = look(&f->events, &f->err);
        if (st == CKPT_BUSY)
            return st;
        f->status = f->status == CKPT_OK ? st : f->status;
    }
    if (f->status != CKPT_OK)
        *err = f->err;
    return f->status;
}

enum ckpt_status flight_settle(struct gpu *g, struct ckpt_err *err)
{
    struct gpu_event *e = NULL;
    enum ckpt_status st = g->ops->event_new(g, &e, err);
    if (st != CKPT_OK)
        return st;
    st = g->ops->record(g, e, err);
    if (st == CKPT_OK)
        while ((st = g->ops->query(e, err)) == CKPT_BUSY)
            pause_to_look();
    g->ops->event_free(e);
    return st;
}

void flight_remove(struct ckpt_state *s)
{
    struct lib_flight *f = s->flights;
    s->flights = f->next;
    events_free(&f->events);
    free(f);
}

void flight_forget(struct ckpt_state *s)
{
    while (s->flights)
        flight_remove(s);
    events_free(&s->last);
}
