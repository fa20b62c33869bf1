/* What a checkpoint holds, and who takes which part of a list. */
#include <inttypes.h>
#include <sys/mman.h>

#include "formats/desc.h"
#include "libckpt/context.h"

#define LIST_TIMEOUT_MS 60000
#define LIST_PAUSE_NS   (INT64_C(50) * 1000000)

/* Everything points into the daemon's bytes: a sealed memfd, which nobody can change. */
struct ckpt_list {
    const void *bytes;
    size_t len;
    uint64_t count;
    struct ckpt_point point;
    size_t at[]; /* where each description begins */
};

/* -- the answer; lock held ------------------------------------------------------- */

void list_take(struct ckpt *c, struct wire_msg *m)
{
    struct wire_listed w;
    char text[512];
    struct ckpt_err err = { 0 };
    memcpy(&w, wire_body(m), sizeof(w));
    if (!c->shared.list.asked || c->shared.list.answered || w.token != c->shared.list.token)
        return;
    wire_text(m, text, sizeof(text));
    enum ckpt_status st = status_known(w.status) ? (enum ckpt_status)w.status : CKPT_BUG;
    if (st != CKPT_OK)
        st = err_set(&err, st, "%s", text[0] ? text : status_sentence(st));
    else if (m->fd_count != 1 || w.bytes > WIRE_DECL_MAX)
        st = err_set(&err, CKPT_CORRUPT, "list: ckptd sent %" PRIu64 " bytes", w.bytes);
    else
        st = wire_memfd_map(m->fds[0], w.bytes, &c->shared.list.bytes, &err);
    c->shared.list.len = st == CKPT_OK ? w.bytes : 0;
    c->shared.list.err = err;
    c->shared.list.err.status = st;
    c->shared.list.answered = true;
}

void list_lost(struct ckpt *c)
{
    if (!c->shared.list.asked || c->shared.list.answered)
        return;
    c->shared.list.err = (struct ckpt_err){ 0 };
    err_set(&c->shared.list.err, CKPT_DAEMON_GONE, "ckptd's worker died");
    c->shared.list.answered = true;
}

/* -- the call ---------------------------------------------------------------------- */

struct list_call {
    struct ckpt *c;
    struct wire_list body;
    struct select select;
    int64_t deadline;
};

static enum ckpt_status ask(struct list_call *l, struct ckpt_err *err)
{
    struct ckpt *c = l->c;
    CLEANUP_BUF struct buf rules = { 0 };
    enum ckpt_status st = select_encode(&l->select, &rules, err);
    if (st != CKPT_OK)
        return st;
    l->body.token = ++c->shared.list.token;
    wire_begin(c->compose, WIRE_LIST, &l->body);
    if (!wire_tail(c->compose, rules.data, rules.len))
        return err_set(err, CKPT_LIMIT, "list: the patterns do not fit a message");
    return client_queue(c, c->compose, -1) == CKPT_OK
               ? CKPT_OK
               : err_set(err, CKPT_NO_MEMORY, "list: out of memory");
}

/* One try.  Lock held. */
static enum ckpt_status ask_once(struct list_call *l, struct ckpt_err *err)
{
    struct ckpt *c = l->c;
    while (c->shared.list.asked && !c->shared.broken)
        if (!lib_wait_changed(c, l->deadline))
            return err_set(err, CKPT_TIMEOUT, "list: another one is under way");
    c->shared.list.asked = true;
    c->shared.list.answered = false;
    c->shared.list.bytes = NULL;
    enum ckpt_status st = ask(l, err);
    while (st == CKPT_OK && !c->shared.list.answered && !c->shared.broken)
        if (!lib_wait_changed(c, l->deadline) && !c->shared.list.answered)
            st = err_set(err, CKPT_TIMEOUT, "list: ckptd did not answer in time");
    c->shared.list.asked = false;
    pthread_cond_broadcast(&c->changed);
    if (st == CKPT_OK && !c->shared.list.answered)
        st = err_set(err, c->shared.err.status, "%s", err_text(&c->shared.err));
    else if (st == CKPT_OK && c->shared.list.err.status != CKPT_OK)
        st = err_set(err, c->shared.list.err.status, "%s", err_text(&c->shared.list.err));
    return st;
}

/* The worker died: the next one is asked.  It may be busy with what was asked before, which
 * is repeated to it, too.  Lock held, and dropped for a while in that case. */
static bool again(struct list_call *l, enum ckpt_status st)
{
    int64_t until = min_u64((uint64_t)l->deadline, (uint64_t)lib_now_ns() + LIST_PAUSE_NS);
    while (st == CKPT_BUSY && !l->c->shared.broken && lib_wait_changed(l->c, until))
        ;
    return (st == CKPT_BUSY || st == CKPT_DAEMON_GONE) && lib_now_ns() < l->deadline &&
           !l->c->shared.broken;
}

/* Checks all of it once, so that ckpt_list_at cannot fail. */
static enum ckpt_status index_bytes(const void *bytes, size_t len, const struct wire_name *point,
                                    struct ckpt_list **ret, struct ckpt_err *err)
{
    struct cursor c = cursor_over(bytes, len);
    uint64_t count = cursor_u64(&c);
    if (!cursor_ok(&c) || count > cursor_left(&c) / DESC_BYTES_MIN)
        return err_set(err, CKPT_CORRUPT, "list: ckptd sent a list that is cut short");
    struct ckpt_list *l = calloc(1, sizeof(*l) + count * sizeof(l->at[0]));
    if (!l)
        return err_set(err, CKPT_NO_MEMORY, "list: no memory for %" PRIu64 " entries", count);
    enum ckpt_status st = CKPT_OK;
    for (uint64_t i = 0; st == CKPT_OK && i < count; i++) {
        struct desc desc;
        l->at[i] = (size_t)(c.at - (const uint8_t *)bytes);
        st = desc_decode(&c, &desc, err);
    }
    if (st == CKPT_OK && !cursor_done(&c))
        st = err_set(err, CKPT_CORRUPT, "list: ckptd sent more than %" PRIu64 " entries", count);
    if (st != CKPT_OK) {
        free(l);
        return st;
    }
    l->bytes = bytes;
    l->len = len;
    l->count = count;
    l->point = (struct ckpt_point){ sizeof(l->point), point->step, point->epoch, point->attempt };
    *ret = l;
    return CKPT_OK;
}

static enum ckpt_status read_opts(struct list_call *l, const struct ckpt_list_opts *given,
                                  struct ckpt_err *err)
{
    struct ckpt_list_opts o = { .size = sizeof(o) };
    enum ckpt_status st = CKPT_OK;
    if (given)
        st = lib_take_struct(&o, sizeof(o), given, offsetof(struct ckpt_list_opts, pattern),
                             "ckpt_list_opts", err);
    if (st == CKPT_OK && (o.flags & ~(uint32_t)CKPT_LIST_OBJECTS))
        st = err_set(err, CKPT_INVALID, "ckpt_list: unknown flags %#x", o.flags);
    if (st == CKPT_OK && o.timeout_ms < 0)
        st = err_set(err, CKPT_INVALID, "ckpt_list: negative timeout");
    if (st == CKPT_OK && o.pattern)
        st = select_add(&l->select, SELECT_ONLY, o.pattern, NULL, err);
    l->body.flags = o.flags & CKPT_LIST_OBJECTS ? WIRE_LIST_OBJECTS : 0;
    l->deadline = lib_now_ns() + (int64_t)(o.timeout_ms ? o.timeout_ms : LIST_TIMEOUT_MS) * 1000000;
    return st;
}

static enum ckpt_status choose_point(struct list_call *l, const struct ckpt_point *point,
                                     struct ckpt_err *err)
{
    if (point && point->size < sizeof(*point))
        return err_set(err, CKPT_INVALID, "set .size = sizeof(struct ckpt_point)");
    if (point) {
        l->body.point = (struct wire_name){ point->epoch, point->step, point->attempt };
        return CKPT_OK;
    }
    if (!(l->c->shared.ok_flags & WIRE_HAS_POINT))
        return err_set(err, CKPT_NOT_FOUND, "list: %s",
                       l->c->shared.why[0] ? l->c->shared.why : "the job has no checkpoint yet");
    l->body.point = l->c->shared.point;
    return CKPT_OK;
}

enum ckpt_status ckpt_list(struct ckpt *c, const struct ckpt_point *point,
                           const struct ckpt_list_opts *opts, struct ckpt_list **ret)
{
    struct ckpt_err err = { 0 };
    struct list_call l = { .c = c };
    const void *bytes = NULL;
    size_t len = 0;
    enum ckpt_status st = lib_enter(c);
    if (st != CKPT_OK)
        return st;
    st = ret ? read_opts(&l, opts, &err) : err_set(&err, CKPT_INVALID, "ckpt_list: ret is NULL");
    pthread_mutex_lock(&c->lock);
    if (st == CKPT_OK)
        st = choose_point(&l, point, &err);
    if (st == CKPT_OK)
        st = ask_once(&l, &err);
    while (again(&l, st)) {
        err = (struct ckpt_err){ 0 };
        st = ask_once(&l, &err);
    }
    if (st == CKPT_OK) {
        bytes = c->shared.list.bytes;
        len = c->shared.list.len;
    }
    pthread_mutex_unlock(&c->lock);
    if (bytes)
        st = index_bytes(bytes, len, &l.body.point, ret, &err);
    if (bytes && st != CKPT_OK)
        munmap((void *)(uintptr_t)bytes, len);
    select_fini(&l.select);
    err.status = st;
    return st == CKPT_OK ? CKPT_OK : lib_fail(&err);
}

/* -- what is in it -------------------------------------------------------------------- */

uint64_t ckpt_list_count(const struct ckpt_list *l)
{
    return l ? l->count : 0;
}

enum ckpt_status ckpt_list_at(const struct ckpt_list *l, uint64_t i, struct ckpt_listed *ret)
{
    struct ckpt_err err = { 0 };
    struct desc d;
    enum ckpt_status st = CKPT_OK;
    lib_clear_error();
    if (!l || !ret || ret->size < offsetof(struct ckpt_listed, shape))
        st = err_set(&err, CKPT_INVALID, "ckpt_list_at: no list, or no .size");
    else if (i >= l->count)
        st = err_set(&err, CKPT_NOT_FOUND, "the list has %" PRIu64 " entries", l->count);
    if (st != CKPT_OK)
        return lib_fail(&err);
    struct cursor c = cursor_over((const uint8_t *)l->bytes + l->at[i], l->len - l->at[i]);
    st = desc_decode(&c, &d, &err);
    if (st != CKPT_OK)
        return lib_fail(&err); /* it was checked: cannot be */
    bool object = d.flags & DECL_OBJECT;
    struct ckpt_listed r = { .size = ret->size,
                             .name = d.name,
                             .alias = d.alias,
                             .dtype = d.dtype,
                             .kind = d.kind,
                             .object = object,
                             .ndim = d.ndim };
    if (!d.alias && !shape_bytes(d.ndim, d.shape, dtype_bits(d.dtype), &r.bytes))
        r.bytes = 0;
    if (object)
        r.bytes -= min_u64(r.bytes, DECL_OBJECT_HEAD);
    memcpy(r.shape, d.shape, sizeof(r.shape));
    memcpy(ret, &r, min_u64(ret->size, sizeof(r)));
    return CKPT_OK;
}

void ckpt_list_free(struct ckpt_list *l)
{
    if (!l)
        return;
    munmap((void *)(uintptr_t)l->bytes, l->len);
    free(l);
}

enum ckpt_status ckpt_deal(uint64_t count, uint32_t rank, uint32_t world, uint64_t *ret_first,
                           uint64_t *ret_count)
{
    struct ckpt_err err = { 0 };
    lib_clear_error();
    if (world == 0 || rank >= world || !ret_first || !ret_count) {
        err_set(&err, CKPT_INVALID, "ckpt_deal: rank %u of %u", rank, world);
        return lib_fail(&err);
    }
    uint64_t each = count / world, more = count % world; /* the first `more` ranks get one more */
    *ret_first = rank * each + min_u64(rank, more);
    *ret_count = each + (rank < more);
    return CKPT_OK;
}
