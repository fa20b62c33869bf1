/* The drainer machine. */
#include "ckptd/drainer.h"

#include <stdio.h>

#define NO_TARGET UINT32_MAX

void drainer_init(struct drainer *d, uint32_t tier_count, uint32_t streams, int64_t now)
{
    *d = (struct drainer){ .tier_count = tier_count > 1 ? tier_count : 0, .streams = streams };
    for (uint32_t i = 0; i < d->tier_count; i++)
        d->tiers[i] = (struct drainer_tier){ .on = true,
                                             .target = NO_TARGET,
                                             .scan_ns = i ? now : INT64_MAX,
                                             .pause_ns = DRAINER_PAUSE_MIN_NS };
}

const char *drainer_job_name(unsigned what)
{
    static const char *const names[] = { "idle", "scan",    "open",   "part",
                                         "pack", "account", "finish", "repair" };
    return what < ARRAY_COUNT(names) ? names[what] : "?";
}

static bool same(const struct drainer_target *t, const char *job, const struct ckpt_name *name)
{
    return t->used && name_equal(&t->name, name) && strcmp(t->job, job) == 0;
}

static bool any_other(const struct drainer *d, const char *job, const struct ckpt_name *name)
{
    for (size_t i = 0; i < DRAINER_TARGETS_MAX; i++)
        if (same(&d->targets[i], job, name) && d->targets[i].tier != 0)
            return true;
    return false;
}

uint32_t drainer_lag(const struct drainer *d, uint32_t tier)
{
    uint32_t n = 0;
    for (size_t i = 0; i < DRAINER_TARGETS_MAX; i++)
        n += d->targets[i].used && d->targets[i].tier == tier;
    return n;
}

int64_t drainer_lag_ns(const struct drainer *d, uint32_t tier, int64_t now)
{
    int64_t since = now;
    for (size_t i = 0; i < DRAINER_TARGETS_MAX; i++) {
        const struct drainer_target *t = &d->targets[i];
        if (t->used && t->tier == tier && t->since_ns < since)
            since = t->since_ns;
    }
    return now - since;
}

double drainer_rate(const struct drainer_tier *t, int64_t now)
{
    return progress_rate(t->put_bytes, now - t->begun_ns);
}

double drainer_left(const struct drainer_tier *t, int64_t now)
{
    return progress_left(drainer_raw_done(t), t->raw_total,
                         progress_rate(t->put_raw, now - t->begun_ns));
}

uint64_t drainer_raw_done(const struct drainer_tier *t)
{
    uint64_t here = t->packs - t->next + t->out; /* not put yet */
    uint64_t part = t->doing == DRAINER_ACCOUNT ? t->rank_raw : 0;
    if (t->doing == DRAINER_PACK && t->rank_total > 0)
        part = t->rank_raw / t->rank_total * (t->rank_total - min_u64(here, t->rank_total));
    return t->raw_done + part;
}

/* What only other nodes can bring is not waited for, unless they wait for this one's word. */
static bool worth_waiting(const struct drainer_target *t)
{
    if (t->phase == TARGET_WAITING)
        return t->wait.ours && t->wait.looks < DRAINER_OURS_LOOKS;
    return t->pause_ns < DRAINER_BAD_NS;
}

bool drainer_busy(const struct drainer *d)
{
    for (uint32_t i = 0; i < d->tier_count; i++) {
        const struct drainer_tier *t = &d->tiers[i];
        if (t->out > 0 || t->scan_out || t->scan_again)
            return true;
        for (size_t k = 0; k < DRAINER_TARGETS_MAX && t->pause_ns < DRAINER_GIVE_UP_NS; k++)
            if (d->targets[k].used && d->targets[k].tier == i && worth_waiting(&d->targets[k]))
                return true;
    }
    return false;
}

/* -- targets ----------------------------------------------------------------------- */

static bool want(struct drainer *d, uint32_t tier, const struct drainer_event *ev, int64_t now)
{
    struct drainer_target *to = NULL;
    for (size_t i = 0; i < DRAINER_TARGETS_MAX; i++) {
        struct drainer_target *t = &d->targets[i];
        if (t->tier == tier && same(t, ev->job, &ev->name))
            return true;
        if (!t->used && !to)
            to = t;
    }
    if (!to)
        return false;
    *to = (struct drainer_target){ .used = true,
                                   .tier = tier,
                                   .phase = TARGET_WANTED,
                                   .name = ev->name,
                                   .order = ev->fresh ? ++d->last_order : 0,
                                   .fresh = ev->fresh,
                                   .since_ns = now,
                                   .due_ns = now,
                                   .pause_ns = DRAINER_PAUSE_MIN_NS };
    snprintf(to->job, sizeof(to->job), "%s", ev->job);
    return true;
}

static bool newer(const struct drainer_target *a, const struct drainer_target *b)
{
    if (a->order != b->order)
        return a->order > b->order;
    if (a->name.epoch != b->name.epoch)
        return a->name.epoch > b->name.epoch;
    return a->name.step > b->name.step;
}

/* The newest that is due; NO_TARGET if there is none. */
static uint32_t next_target(const struct drainer *d, uint32_t tier, int64_t now)
{
    uint32_t best = NO_TARGET;
    for (uint32_t i = 0; i < DRAINER_TARGETS_MAX; i++) {
        const struct drainer_target *t = &d->targets[i];
        if (!t->used || t->tier != tier || t->phase == TARGET_BEGUN || now < t->due_ns)
            continue;
        if (best == NO_TARGET || newer(t, &d->targets[best]))
            best = i;
    }
    return best;
}

/* -- running ----------------------------------------------------------------------- */

static struct drainer_action *act(struct drainer_actions *out, enum drainer_action_kind kind,
                                  uint32_t tier)
{
    struct drainer_action *a = &out->list[out->count++];
    *a = (struct drainer_action){ .kind = kind, .tier = tier, .target = NO_TARGET };
    return a;
}

static void run(struct drainer *d, uint32_t tier, enum drainer_job what,
                struct drainer_actions *out)
{
    struct drainer_tier *t = &d->tiers[tier];
    struct drainer_action *a = act(out, DRAINER_RUN, tier);
    a->what = what;
    a->target = t->target;
    a->rank = t->rank;
    a->pack = what == DRAINER_PACK ? t->next++ : 0;
    t->doing = what;
    t->out++;
}

static void begin(struct drainer *d, uint32_t tier, uint32_t target, int64_t now,
                  struct drainer_actions *out)
{
    struct drainer_tier *t = &d->tiers[tier];
    bool waited = d->targets[target].phase == TARGET_WAITING;
    d->targets[target].phase = TARGET_BEGUN;
    t->target = target;
    t->trouble = t->bad = false;
    t->rank = t->packs = t->next = 0;
    t->raw_done = t->raw_total = t->put_bytes = t->put_raw = 0;
    t->begun_ns = now;
    run(d, tier, tier == 0 ? DRAINER_REPAIR : waited ? DRAINER_FINISH : DRAINER_OPEN, out);
}

/* Fills the streams, or goes on to the account. */
static void pack_on(struct drainer *d, uint32_t tier, struct drainer_actions *out)
{
    struct drainer_tier *t = &d->tiers[tier];
    while (!t->trouble && !d->stopping && t->next < t->packs && t->out < d->streams)
        run(d, tier, DRAINER_PACK, out);
    if (t->out == 0 && !t->trouble && t->next >= t->packs)
        run(d, tier, DRAINER_ACCOUNT, out);
}

/* Starts what is due and not under way. */
static void go_on(struct drainer *d, uint32_t tier, int64_t now, struct drainer_actions *out)
{
    struct drainer_tier *t = &d->tiers[tier];
    if (!t->on || d->stopping)
        return;
    if (!t->scan_out && (now >= t->scan_ns || t->scan_again) && now >= t->due_ns) {
        t->scan_out = true;
        t->scan_again = false;
        act(out, DRAINER_RUN, tier)->what = DRAINER_SCAN;
    }
    if (t->out > 0 || now < t->due_ns)
        return;
    if (t->target == NO_TARGET) {
        uint32_t next = next_target(d, tier, now);
        if (next != NO_TARGET)
            begin(d, tier, next, now, out);
        return;
    }
    t->trouble = false; /* the pause is over */
    if (t->doing == DRAINER_PACK || t->doing == DRAINER_ACCOUNT)
        run(d, tier, DRAINER_PART, out);
    else
        run(d, tier, (enum drainer_job)t->doing, out);
}

/* -- how jobs end ------------------------------------------------------------------ */

static void well(struct drainer_tier *t)
{
    t->status = CKPT_OK;
    t->pause_ns = DRAINER_PAUSE_MIN_NS;
}

static void note(struct drainer_tier *t, const struct drainer_event *ev)
{
    t->status = ev->status;
    t->troubles++;
    snprintf(t->text, sizeof(t->text), "%s",
             ev->text && ev->text[0] ? ev->text : status_sentence(ev->status));
}

static int64_t longer(int64_t pause, int64_t max)
{
    return pause * 2 < max ? pause * 2 : max;
}

/* Gives the tier to others; the target comes again at `due`. */
static void set_aside(struct drainer *d, struct drainer_tier *t, uint32_t phase, int64_t due)
{
    struct drainer_target *to = &d->targets[t->target];
    to->phase = phase;
    to->due_ns = due;
    t->target = NO_TARGET;
    t->doing = DRAINER_IDLE;
}

/* The begun target is over. */
static void end(struct drainer *d, uint32_t tier, enum drainer_action_kind kind, int64_t now,
                struct drainer_actions *out)
{
    struct drainer_tier *t = &d->tiers[tier];
    struct drainer_target *to = &d->targets[t->target];
    struct drainer_action *a = act(out, kind, tier);
    to->used = false;
    memcpy(a->job, to->job, sizeof(a->job));
    a->name = to->name;
    a->last = !any_other(d, to->job, &to->name);
    if (kind == DRAINER_HELD) {
        t->held_step = to->name.step;
        t->held_ns = now;
    }
    t->target = NO_TARGET;
    t->doing = DRAINER_IDLE;
}

/* True if the failure is one of the store or the moment, and may pass. */
static bool may_pass(enum ckpt_status st)
{
    return st != CKPT_CORRUPT && st != CKPT_CONFLICT && st != CKPT_UNSUPPORTED && st != CKPT_LIMIT;
}

/* Some job of the begun target failed, and none is out any more.  When the tier is in
 * trouble the checkpoint stays begun; when it is the checkpoint, others get the tier. */
static void settle(struct drainer *d, struct drainer_tier *t, int64_t now)
{
    struct drainer_target *to = &d->targets[t->target];
    if (t->bad && !to->doubted) {
        to->doubted = true;
        set_aside(d, t, TARGET_WANTED, now + DRAINER_DOUBT_NS);
        return;
    }
    if (t->bad) {
        to->pause_ns = DRAINER_BAD_NS;
        set_aside(d, t, TARGET_WANTED, now + DRAINER_BAD_NS);
        return;
    }
    t->due_ns = now + t->pause_ns;
    t->pause_ns = longer(t->pause_ns, DRAINER_PAUSE_MAX_NS);
}

static void on_failure(struct drainer *d, uint32_t tier, const struct drainer_event *ev,
                       int64_t now, struct drainer_actions *out)
{
    struct drainer_tier *t = &d->tiers[tier];
    if (ev->status == CKPT_ABORTED || ev->status == CKPT_NOT_PLANNED) { /* OPEN, FINISH: alone */
        end(d, tier, DRAINER_NOT_PLANNED, now, out);
        return;
    }
    if (ev->what == DRAINER_FINISH && ev->status == CKPT_BUSY) {
        struct drainer_target *to = &d->targets[t->target];
        int64_t pause = to->pause_ns;
        to->wait = ev->wait;
        to->pause_ns =
            longer(to->pause_ns, ev->wait.ours ? DRAINER_OURS_MAX_NS : DRAINER_WAIT_MAX_NS);
        set_aside(d, t, TARGET_WAITING, now + pause);
        return;
    }
    t->trouble = true;
    t->bad |= !may_pass(ev->status);
    if (ev->status != CKPT_CANCELLED)
        note(t, ev);
}

static void on_part(struct drainer *d, uint32_t tier, const struct drainer_event *ev,
                    struct drainer_actions *out)
{
    struct drainer_tier *t = &d->tiers[tier];
    t->rank = ev->rank;
    if (ev->rank >= t->world) {
        run(d, tier, DRAINER_FINISH, out);
        return;
    }
    t->packs = ev->packs;
    t->next = 0;
    t->rank_total = ev->total;
    t->rank_raw = ev->raw_bytes;
    t->rank_stored = ev->bytes;
    t->doing = DRAINER_PACK;
    pack_on(d, tier, out);
}

static void on_success(struct drainer *d, uint32_t tier, const struct drainer_event *ev,
                       int64_t now, struct drainer_actions *out)
{
    struct drainer_tier *t = &d->tiers[tier];
    if (!t->trouble && ev->what != DRAINER_OPEN && ev->what != DRAINER_PART)
        well(t); /* looking is not yet putting */
    switch (ev->what) {
    case DRAINER_OPEN:
        d->targets[t->target].fresh = false;
        t->world = ev->world;
        t->raw_total = ev->bytes;
        t->rank = 0;
        run(d, tier, DRAINER_PART, out);
        break;
    case DRAINER_PART:
        on_part(d, tier, ev, out);
        break;
    case DRAINER_PACK:
        t->rank_stored += ev->bytes;
        t->put_bytes += ev->bytes;
        t->put_raw += t->rank_raw / max_u64(t->rank_total, 1);
        t->put_total += ev->bytes;
        t->put_packs++;
        pack_on(d, tier, out);
        break;
    case DRAINER_ACCOUNT:
        t->raw_done += t->rank_raw;
        t->rank++;
        run(d, tier, DRAINER_PART, out);
        break;
    case DRAINER_FINISH:
        t->held++;
        end(d, tier, DRAINER_HELD, now, out);
        break;
    case DRAINER_REPAIR:
        end(d, tier, ev->bytes ? DRAINER_REPAIRED : DRAINER_NEEDLESS, now, out);
        break;
    case DRAINER_IDLE:
    case DRAINER_SCAN:
        break;
    }
}

static void on_done(struct drainer *d, const struct drainer_event *ev, int64_t now,
                    struct drainer_actions *out)
{
    struct drainer_tier *t = &d->tiers[ev->tier];
    if (t->target == NO_TARGET || t->out == 0)
        return;
    t->out--;
    if (ev->status == CKPT_OK)
        on_success(d, ev->tier, ev, now, out);
    else if (ev->status == CKPT_EXISTS && ev->what == DRAINER_OPEN)
        end(d, ev->tier, DRAINER_HELD, now, out);
    else
        on_failure(d, ev->tier, ev, now, out);
    if (t->trouble && t->out == 0 && t->target != NO_TARGET)
        settle(d, t, now);
}

static void on_scanned(struct drainer *d, const struct drainer_event *ev, int64_t now)
{
    struct drainer_tier *t = &d->tiers[ev->tier];
    t->scan_out = false;
    t->scan_ns = now + DRAINER_SCAN_NS;
    if (ev->status == CKPT_OK) {
        if (t->target == NO_TARGET)
            well(t);
        if (ev->more) /* looked for again when these are done */
            t->scan_ns = now + DRAINER_PAUSE_MAX_NS;
        return;
    }
    note(t, ev);
    t->scan_ns = now + t->pause_ns;
    t->pause_ns = longer(t->pause_ns, DRAINER_PAUSE_MAX_NS);
}

bool drainer_step(struct drainer *d, const struct drainer_event *ev, int64_t now,
                  struct drainer_actions *out)
{
    bool ok = true;
    switch (ev->kind) {
    case DRAINER_WANT:
        if (ev->tier < d->tier_count)
            ok = want(d, ev->tier, ev, now);
        if (!ok) /* found again when there is room */
            d->tiers[ev->tier].scan_ns = (int64_t)min_u64((uint64_t)d->tiers[ev->tier].scan_ns,
                                                          (uint64_t)(now + DRAINER_PAUSE_MAX_NS));
        break;
    case DRAINER_SCANNED:
        on_scanned(d, ev, now);
        break;
    case DRAINER_RESCAN:
        for (uint32_t i = 1; i < d->tier_count; i++)
            d->tiers[i].scan_again = true;
        break;
    case DRAINER_DONE:
        on_done(d, ev, now, out);
        break;
    case DRAINER_STOP:
        d->stopping = true;
        break;
    case DRAINER_TICK:
        break;
    }
    for (uint32_t i = 0; i < d->tier_count; i++)
        go_on(d, i, now, out);
    return ok;
}
