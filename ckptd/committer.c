/* The committer machine. */
#include "ckptd/committer.h"

#include <stdio.h>

struct committer_attempt *committer_find(struct committer *c, const char *job,
                                         const struct ckpt_name *name)
{
    for (size_t i = 0; i < c->end; i++) {
        struct committer_attempt *a = &c->attempts[i];
        if (a->used && name_equal(&a->name, name) && strcmp(a->job, job) == 0)
            return a;
    }
    return NULL;
}

static struct committer_attempt *find_or_add(struct committer *c, const struct committer_event *ev,
                                             int64_t now)
{
    struct committer_attempt *a = committer_find(c, ev->job, &ev->name);
    for (size_t i = 0; !a && i < COMMITTER_ATTEMPTS_MAX; i++) {
        if (c->attempts[i].used)
            continue;
        a = &c->attempts[i];
        c->end = i < c->end ? c->end : i + 1;
        *a = (struct committer_attempt){
            .used = true,
            .name = ev->name,
            .world = ev->world,
            .begun_ns = now,
            .deadline_ns = INT64_MAX,
            .poll_ns = now,
            .poll_every_ns = COMMITTER_POLL_FIRST_NS,
            .bad_rank = UINT32_MAX,
            .by_epoch = ev->name.epoch,
        };
        snprintf(a->job, sizeof(a->job), "%s", ev->job);
    }
    return a;
}

static bool bit(const uint8_t *map, uint32_t rank)
{
    return rank < COMMITTER_RANKS_NAMED && (map[rank / 8] >> (rank % 8) & 1);
}

/* Sets a rank's bit; false if it was set.  Ranks beyond the map count each time. */
static bool set_bit(uint8_t *map, uint32_t rank)
{
    if (bit(map, rank))
        return false;
    if (rank < COMMITTER_RANKS_NAMED)
        map[rank / 8] |= (uint8_t)(1 << rank % 8);
    return true;
}

bool committer_has_joined(const struct committer_attempt *a, uint32_t rank)
{
    return bit(a->joined_map, rank);
}

static void run(struct committer *c, struct committer_attempt *a, enum committer_job job,
                struct committer_actions *out)
{
    a->job_out = job;
    out->list[out->count++] = (struct committer_action){
        .kind = COMMITTER_RUN,
        .attempt = (uint32_t)(a - c->attempts),
    };
}

static void say_decided(const struct committer *c, const struct committer_attempt *a,
                        enum ckpt_status status, struct committer_actions *out)
{
    out->list[out->count++] = (struct committer_action){
        .kind = COMMITTER_DECIDED,
        .attempt = (uint32_t)(a - c->attempts),
        .name = a->name,
        .status = status,
    };
    memcpy(out->text, a->text, sizeof(out->text));
}

static void decide(struct committer *c, struct committer_attempt *a, enum ckpt_status status,
                   struct committer_actions *out)
{
    if (!a->told) {
        say_decided(c, a, status, out);
        c->committed += status == CKPT_OK;
        c->aborted += status != CKPT_OK;
    }
    a->told = true;
}

/* The first reason stays: it is the cause of the others. */
static void condemn(struct committer_attempt *a, enum ckpt_status status, uint32_t rank,
                    const char *text)
{
    if (a->status != CKPT_OK)
        return;
    a->status = status == CKPT_OK ? CKPT_ABORTED : status;
    a->bad_rank = rank;
    snprintf(a->text, sizeof(a->text), "%s", text && text[0] ? text : status_sentence(a->status));
}

/* "1, 3, ...": ranks that have not put their part; `joined`: of those that did begin. */
static void name_missing(const struct committer_attempt *a, bool joined, char *ret, size_t cap)
{
    size_t at = 0;
    uint32_t named = 0;
    uint32_t end = (uint32_t)min_u64(a->world, COMMITTER_RANKS_NAMED);
    ret[0] = 0;
    for (uint32_t r = 0; r < end && named < 16; r++) {
        if (bit(a->put_map, r) || bit(a->joined_map, r) != joined)
            continue;
        int n = snprintf(ret + at, cap - at, "%s%u", named ? ", " : "", r);
        if (n < 0 || (size_t)n >= cap - at)
            return;
        at += (size_t)n;
        named++;
    }
}

static void check_deadlines(const struct committer *c, struct committer_attempt *a, int64_t now)
{
    char ranks[160], text[COMMITTER_TEXT_MAX];
    if (a->status != CKPT_OK || a->put == a->world)
        return;
    bool late = now >= a->deadline_ns;
    if (!late && (a->joined >= a->world || a->several || now - a->begun_ns < c->arrival_ns))
        return;
    bool elsewhere = a->several && a->put >= a->joined; /* the parts of this node are there */
    if (elsewhere)
        snprintf(ranks, sizeof(ranks), "%u", a->missing);
    else
        name_missing(a, a->several, ranks, sizeof(ranks));
    bool came = elsewhere || a->several || !ranks[0];
    if (!ranks[0])
        name_missing(a, true, ranks, sizeof(ranks));
    snprintf(text, sizeof(text), "rank %s did not %s the save of step %llu in time", ranks,
             came ? "finish" : "come to", (unsigned long long)a->name.step);
    condemn(a, CKPT_TIMEOUT, UINT32_MAX, text);
}

/* Starts what is due, if no job of the attempt is out. */
static void go_on(struct committer *c, struct committer_attempt *a, int64_t now,
                  struct committer_actions *out)
{
    if (a->job_out != COMMITTER_IDLE)
        return;
    check_deadlines(c, a, now);
    if (now < a->poll_ns)
        return;
    if (a->status != CKPT_OK)
        run(c, a, COMMITTER_ABORT, out);
    else if (a->put >= a->world)
        run(c, a, COMMITTER_PUBLISH, out);
    else if (a->put > 0 && a->put >= a->joined && a->rank0_here)
        run(c, a, COMMITTER_MISSING, out);
    else if (a->put > 0 && a->put >= a->joined)
        run(c, a, COMMITTER_LOOK, out);
}

static void poll_later(struct committer_attempt *a, int64_t now)
{
    a->poll_ns = now + a->poll_every_ns;
    a->poll_every_ns = (int64_t)min_u64((uint64_t)a->poll_every_ns * 2, COMMITTER_POLL_MAX_NS);
}

/* Something happened on this node: look at once. */
static void poll_now(struct committer_attempt *a, int64_t now)
{
    a->poll_ns = now;
    a->poll_every_ns = COMMITTER_POLL_FIRST_NS;
}

static void on_published(struct committer *c, struct committer_attempt *a,
                         const struct committer_event *ev, int64_t now,
                         struct committer_actions *out)
{
    enum ckpt_status st = ev->status;
    if (st == CKPT_OK) {
        decide(c, a, CKPT_OK, out);
        a->used = false;
    } else if (st == CKPT_ABORTED) {
        condemn(a, st, UINT32_MAX, ev->text);
        decide(c, a, a->status, out);
        a->used = false;
    } else if (st == CKPT_NOT_FOUND || st == CKPT_IO || st == CKPT_UNREACHABLE ||
               st == CKPT_TIMEOUT || st == CKPT_CANCELLED || st == CKPT_NO_MEMORY) {
        poll_later(a, now); /* nothing was decided */
        if (now >= a->deadline_ns)
            condemn(a, st, UINT32_MAX, ev->text);
    } else {
        condemn(a, st, ev->rank, ev->text);
        poll_now(a, now);
    }
}

static void on_aborted(struct committer *c, struct committer_attempt *a, enum ckpt_status st,
                       int64_t now, struct committer_actions *out)
{
    if (st == CKPT_EXISTS) { /* somebody committed it before: then it is saved */
        decide(c, a, CKPT_OK, out);
        a->used = false;
        return;
    }
    decide(c, a, a->status, out);
    if (st == CKPT_OK || now >= a->deadline_ns)
        a->used = false; /* undecided ones are left to the next launch's resolver */
    else
        poll_later(a, now);
}

static void on_looked(struct committer *c, struct committer_attempt *a,
                      const struct committer_event *ev, int64_t now, struct committer_actions *out)
{
    if (ev->status == CKPT_OK || ev->status == CKPT_ABORTED) {
        if (ev->status != CKPT_OK)
            condemn(a, CKPT_ABORTED, UINT32_MAX, ev->text);
        decide(c, a, ev->status == CKPT_OK ? CKPT_OK : a->status, out);
        a->used = false;
    } else {
        poll_later(a, now);
    }
}

/* Given up by another node: no job of ours has to. */
static void on_missing(struct committer *c, struct committer_attempt *a,
                       const struct committer_event *ev, int64_t now, struct committer_actions *out)
{
    if (ev->status == CKPT_ABORTED) {
        on_looked(c, a, ev, now, out);
        return;
    }
    if (ev->status == CKPT_OK)
        a->missing = ev->rank;
    if (ev->status == CKPT_OK && ev->rank >= a->world)
        a->put = a->world;
    else
        poll_later(a, now);
}

static void on_done(struct committer *c, struct committer_attempt *a,
                    const struct committer_event *ev, int64_t now, struct committer_actions *out)
{
    a->job_out = COMMITTER_IDLE;
    switch (ev->done) {
    case COMMITTER_PUBLISH:
        on_published(c, a, ev, now, out);
        break;
    case COMMITTER_ABORT:
        on_aborted(c, a, ev->status, now, out);
        break;
    case COMMITTER_MISSING:
        on_missing(c, a, ev, now, out);
        break;
    case COMMITTER_LOOK:
        on_looked(c, a, ev, now, out);
        break;
    case COMMITTER_IDLE:
        break;
    }
    if (a->used)
        go_on(c, a, now, out);
}

static void on_rank(struct committer *c, struct committer_attempt *a,
                    const struct committer_event *ev, int64_t now, struct committer_actions *out)
{
    if (ev->kind == COMMITTER_JOINED) {
        a->joined += set_bit(a->joined_map, ev->rank);
        a->rank0_here |= ev->rank == 0;
        a->several |= ev->several;
        a->deadline_ns = (int64_t)min_u64((uint64_t)a->deadline_ns, (uint64_t)ev->deadline_ns);
    } else if (ev->kind == COMMITTER_PUT_DONE) {
        a->put += set_bit(a->put_map, ev->rank);
        poll_now(a, now);
    } else {
        condemn(a, ev->status, ev->rank, ev->text);
        poll_now(a, now);
    }
    /* The others were told while the store could not be: a rank that comes only now would
     * wait for ever for what has been said. */
    if (a->told)
        say_decided(c, a, a->status, out);
    go_on(c, a, now, out);
}

enum ckpt_status committer_step(struct committer *c, const struct committer_event *ev, int64_t now,
                                struct committer_actions *out)
{
    struct committer_attempt *a;
    switch (ev->kind) {
    case COMMITTER_TICK:
        for (size_t i = 0; i < c->end; i++)
            if (c->attempts[i].used)
                go_on(c, &c->attempts[i], now, out);
        return CKPT_OK;
    case COMMITTER_DONE:
        a = committer_find(c, ev->job, &ev->name);
        if (a)
            on_done(c, a, ev, now, out);
        return CKPT_OK;
    case COMMITTER_JOINED:
    case COMMITTER_PUT_DONE:
    case COMMITTER_FAILED:
        break;
    }
    a = find_or_add(c, ev, now);
    if (!a)
        return CKPT_BUSY;
    on_rank(c, a, ev, now, out);
    return CKPT_OK;
}
