/* The scripted peer: see scripted_daemon.h. */
#include "fakes/scripted_daemon.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "formats/digest.h"

#include "check.h"

struct fake_state {
    bool used;
    struct decl decl;
    uint8_t *arena;
    uint32_t slots;
    bool lent[64];    /* the client's */
    uint64_t op;      /* save under way */
    uint32_t granted; /* so far, of that save */
    uint32_t filled;
    uint8_t **image; /* per slot of the image */
    uint64_t load;   /* load under way */
    uint32_t next_back;
    bool forgotten;
};
struct fake_daemon {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    char dir[64], path[108];
    int listener, fd, wake;
    bool stop, drop_now;
    struct fake_script script;
    struct fake_seen seen;
    uint32_t count[128];
    uint64_t seq, last_op; /* of the session */
    uint8_t session[16];
    struct {
        uint32_t len;
        uint64_t hash;
    } log[FAKE_LOG];
    struct fake_state states[FAKE_STATES + 1];
    struct wire_msg in, out;
};

static void wrong(struct fake_daemon *d, const char *why)
{
    if (!d->seen.wrong)
        snprintf(d->seen.why, sizeof(d->seen.why), "%s", why);
    d->seen.wrong = true;
}

static uint64_t slot_bytes(const struct fake_daemon *d)
{
    return d->script.slot_bytes ? d->script.slot_bytes : CKPT_SLOT_BYTES_MIN;
}

static void say(struct fake_daemon *d)
{
    d->out.head.ack = d->seq;
    enum ckpt_status st;
    if (d->fd < 0)
        return;
    while ((st = wire_send(d->fd, &d->out, NULL)) == CKPT_BUSY) {
        struct pollfd p = { .fd = d->fd, .events = POLLOUT };
        poll(&p, 1, 1000);
    }
    (void)st; /* a client that goes: its last words are still to be read */
}

static void say_op(struct fake_daemon *d, uint64_t op, uint32_t level, enum ckpt_status st,
                   bool final)
{
    struct wire_op w = { .op = op,
                         .level = level,
                         .status = st,
                         .flags = final ? WIRE_OP_FINAL : 0,
                         .done_bytes = 7,
                         .name = { .epoch = 3, .step = op, .attempt = op } };
    wire_begin(&d->out, WIRE_OP, &w);
    if (st != CKPT_OK && d->script.text)
        wire_tail(&d->out, d->script.text, strlen(d->script.text));
    say(d);
}

static void refuse(struct fake_daemon *d, enum ckpt_status st, uint32_t type, uint32_t state)
{
    struct wire_refused w = { .status = st, .type = type, .state = state };
    wire_begin(&d->out, WIRE_REFUSED, &w);
    if (d->script.text)
        wire_tail(&d->out, d->script.text, strlen(d->script.text));
    say(d);
}

/* -- lies ------------------------------------------------------------------ */

static void say_malformed(struct fake_daemon *d)
{
    wire_begin(&d->out, WIRE_ACK, NULL);
    if (d->script.lie == FAKE_MAGIC)
        d->out.head.magic = 1;
    if (d->script.lie == FAKE_VERSION)
        d->out.head.version = 99;
    if (d->script.lie == FAKE_LENGTH)
        d->out.head.bytes = 7;
    d->script.lie = FAKE_HONEST; /* once */
    say(d);
}

static void grant_slot(struct fake_daemon *d, uint32_t state, uint64_t op, uint32_t slot)
{
    struct wire_grant g = { .op = op, .state = state, .arena_slot = slot };
    wire_begin(&d->out, WIRE_GRANT, &g);
    say(d);
    for (uint32_t i = 0; i < d->script.repeat_grants; i++) {
        wire_begin(&d->out, WIRE_GRANT, &g);
        say(d);
        d->seen.repeated_grants++;
    }
}

/* -- saves ----------------------------------------------------------------- */

static void grant(struct fake_daemon *d, uint32_t number)
{
    struct fake_state *s = &d->states[number];
    uint32_t want = s->decl.slot_count + (d->script.lie == FAKE_MANY);
    for (uint32_t i = 0; s->op && number != d->script.hold_state && i < s->slots; i++) {
        if (s->lent[i] || s->granted >= want || s->granted >= d->script.grants)
            continue;
        s->lent[i] = true;
        s->granted++;
        grant_slot(d, number, s->op, i);
    }
}

/* Whoever has no memory yet can neither save nor restore. */
static void wait_for_hurry(struct fake_daemon *d)
{
    struct wire_head head;
    struct pollfd p = { .fd = d->fd, .events = POLLIN };
    pthread_mutex_unlock(&d->lock);
    bool came = poll(&p, 1, 200) == 1 &&
                recv(d->fd, &head, sizeof(head), MSG_PEEK | MSG_DONTWAIT) == sizeof(head);
    pthread_mutex_lock(&d->lock);
    if (came && (head.type == WIRE_SAVE || head.type == WIRE_LOAD))
        wrong(d, "SAVE or LOAD before STATE was answered");
}

static void on_state(struct fake_daemon *d)
{
    struct wire_state w;
    const void *bytes = NULL;
    memcpy(&w, wire_body(&d->in), sizeof(w));
    d->seen.states++;
    d->seen.numa = w.numa;
    if (d->script.refuse_state) {
        refuse(d, d->script.refuse_state, WIRE_STATE, w.state);
        return;
    }
    struct fake_state *s = &d->states[w.state];
    if (w.state == 0 || w.state > FAKE_STATES || s->used) {
        wrong(d, "STATE with a number that is used or out of range");
        return;
    }
    CHECK_OK(wire_memfd_map(d->in.fds[0], w.decl_bytes, &bytes, NULL));
    CHECK_OK(decl_decode(bytes, w.decl_bytes, slot_bytes(d), &s->decl, NULL));
    munmap((void *)(uintptr_t)bytes, w.decl_bytes);
    s->used = true;
    if (d->script.late_state)
        wait_for_hurry(d);
    s->slots = d->script.slots ? d->script.slots : 2;
    if (!s->image)
        s->image = calloc(s->decl.slot_count + 1, sizeof(*s->image));
    uint64_t size = s->slots * slot_bytes(d);
    int fd = memfd_create("arena", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)(d->script.small_arena ? size / 2 : size)) == 0);
    if (!d->script.unsealed)
        CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) == 0);
    s->arena = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(s->arena != MAP_FAILED);
    struct wire_state_ok ok = {
        .state = w.state, .slots = s->slots, .slot_bytes = slot_bytes(d), .ram_left_bytes = 99
    };
    wire_begin(&d->out, WIRE_STATE_OK, &ok);
    d->out.fds[0] = fd;
    d->out.fd_count = 1;
    say(d);
    close(fd);
}

static bool lie_about_save(struct fake_daemon *d, const struct wire_save *w)
{
    switch ((int)d->script.lie) {
    case FAKE_MAGIC:
    case FAKE_VERSION:
    case FAKE_LENGTH:
        say_op(d, w->op, WIRE_LEVEL_NONE, CKPT_OK, false);
        say_malformed(d);
        return true;
    case FAKE_GRANT:
        say_op(d, w->op, WIRE_LEVEL_NONE, CKPT_OK, false);
        grant_slot(d, w->state, w->op, 1000);
        return true;
    case FAKE_EARLY:
        say_op(d, w->op, WIRE_LEVEL_LOCAL, CKPT_OK, true);
        return true;
    case FAKE_LEVEL:
        say_op(d, w->op, 77, CKPT_OK, false);
        return true;
    case FAKE_MIXED: {
        struct wire_frags f = { .op = w->op, .state = w->state, .count = 1 };
        struct wire_frag frag = { .ndim = 1 };
        uint64_t box[2] = { 0, 8 };
        say_op(d, w->op, WIRE_LEVEL_NONE, CKPT_OK, false);
        wire_begin(&d->out, WIRE_FRAGS, &f);
        wire_tail(&d->out, &frag, sizeof(frag));
        wire_tail(&d->out, box, sizeof(box));
        say(d);
        return true;
    }
    default:
        return false;
    }
}

static void on_save(struct fake_daemon *d)
{
    struct wire_save w;
    memcpy(&w, wire_body(&d->in), sizeof(w));
    d->seen.saves++;
    d->seen.last_try = w.try_;
    d->last_op = w.op;
    struct fake_state *s = &d->states[w.state];
    if (w.state <= FAKE_STATES && !s->used && d->script.refuse_state) {
        say_op(d, w.op, 0, d->script.refuse_state, true);
        return;
    }
    if (w.state > FAKE_STATES || !s->used || s->forgotten) {
        wrong(d, "SAVE of a state that is not there");
        return;
    }
    if (d->script.silent || lie_about_save(d, &w))
        return;
    if (d->script.refuse_op) {
        say_op(d, w.op, 0, d->script.refuse_op, true);
        return;
    }
    s->op = w.op;
    s->granted = s->filled = 0;
    for (uint32_t i = 0; i < s->decl.slot_count; i++) {
        free(s->image[i]);
        s->image[i] = NULL;
    }
    say_op(d, w.op, WIRE_LEVEL_NONE, CKPT_OK, false);
    grant(d, w.state);
}

static void staged(struct fake_daemon *d, uint64_t op)
{
    uint32_t max = d->script.level_max ? d->script.level_max : WIRE_LEVEL_LOCAL;
    uint32_t first = d->script.process ? WIRE_LEVEL_PROCESS : WIRE_LEVEL_STAGED;
    say_op(d, op, first, CKPT_OK, false);
    for (uint32_t level = WIRE_LEVEL_LOCAL; level <= max; level++)
        say_op(d, op, level, CKPT_OK, level == max && !d->script.not_final);
}

static void on_full(struct fake_daemon *d)
{
    struct wire_full w;
    memcpy(&w, wire_body(&d->in), sizeof(w));
    d->seen.fulls++;
    struct fake_state *s = &d->states[w.state];
    if (w.op != s->op)
        return; /* of a save that ended */
    if (w.arena_slot == UINT32_MAX) {
        if (s->decl.slot_count || !(w.flags & WIRE_FULL_LAST))
            wrong(d, "an empty FULL of a state that is not empty");
    } else if (w.arena_slot >= s->slots || !s->lent[w.arena_slot] || w.slot != s->filled ||
               w.slot >= s->decl.slot_count || s->image[w.slot]) {
        wrong(d, "FULL of a slot that was not lent, or out of order, or filled twice");
        return;
    } else {
        s->image[w.slot] = malloc(slot_bytes(d));
        CHECK(s->image[w.slot]);
        memcpy(s->image[w.slot], s->arena + w.arena_slot * slot_bytes(d), slot_bytes(d));
        memset(s->arena + w.arena_slot * slot_bytes(d), 0xee, slot_bytes(d)); /* ours again */
        s->lent[w.arena_slot] = false;
        s->filled++;
    }
    if ((w.flags & WIRE_FULL_LAST) != (s->filled == s->decl.slot_count))
        wrong(d, "LAST at the wrong slot");
    bool witness = w.flags & WIRE_FULL_WITNESS, last = w.flags & WIRE_FULL_LAST;
    if (witness != (last && s->decl.witness_count > 0))
        wrong(d, "a witness that is missing, or comes too early");
    if (witness) {
        d->seen.witnesses++;
        d->seen.witness = w.witness;
        memcpy(d->seen.witness_digest.b, w.digest, sizeof(w.digest));
    }
    grant(d, w.state);
    if (s->filled == s->decl.slot_count) {
        s->op = 0;
        staged(d, w.op);
    }
}

/* -- loads ----------------------------------------------------------------- */

static void lie_about_frag(const struct fake_daemon *d, struct wire_frag *f, struct box *box,
                           bool object)
{
    if (d->script.lie == FAKE_HEADLESS && object) {
        box->off[0] += DECL_OBJECT_HEAD;
        box->len[0] -= DECL_OBJECT_HEAD;
    }
    if (d->script.lie == FAKE_SHORT && object)
        box->len[0] = DECL_OBJECT_HEAD + 1;
    if (d->script.lie == FAKE_TENSOR)
        f->tensor = 1000;
    if (d->script.lie == FAKE_PIECE)
        f->piece = 1000;
    if (d->script.lie == FAKE_OUTSIDE && f->ndim == 2) /* inside the shape all the same */
        box->off[0] += 1;
    if (d->script.lie == FAKE_OFFSET)
        f->offset = slot_bytes(d) - 1;
    if (d->script.lie == FAKE_NDIM)
        f->ndim = 17;
    if (d->script.lie == FAKE_DTYPE && f->tensor == 0)
        f->dtype = CKPT_DTYPE_F16;
}

static void add_frag(struct fake_daemon *d, const struct fake_state *s, const struct decl_tile *t)
{
    struct wire_frag f = { .tensor = (uint32_t)t->tensor,
                           .piece = (uint32_t)(t->piece - s->decl.tensors[t->tensor].first_piece),
                           .offset = t->place.offset,
                           .ndim = t->box.ndim };
    struct box box = t->box;
    lie_about_frag(d, &f, &box, s->decl.tensors[t->tensor].flags & DECL_OBJECT);
    wire_tail(&d->out, &f, sizeof(f));
    wire_tail(&d->out, box.off, t->box.ndim * sizeof(uint64_t));
    wire_tail(&d->out, box.len, t->box.ndim * sizeof(uint64_t));
}

/* One image slot as messages of at most three fragments. */
static void say_frags(struct fake_daemon *d, uint32_t number, uint32_t image_slot)
{
    struct fake_state *s = &d->states[number];
    struct decl_walk walk = decl_walk_slot(&s->decl, image_slot);
    struct decl_tile t;
    bool more = decl_walk_next(&walk, &t);
    memcpy(s->arena, s->image[image_slot], slot_bytes(d));
    while (more) {
        struct wire_frags w = { .op = s->load, .state = number, .done_bytes = 5, .total_bytes = 9 };
        if (d->script.lie == FAKE_SLOT)
            w.arena_slot = 1000;
        wire_begin(&d->out, WIRE_FRAGS, &w);
        for (int i = 0; more && i < 3 + (d->script.lie == FAKE_LOSES); i++) {
            if (!d->script.omit_objects || !(s->decl.tensors[t.tensor].flags & DECL_OBJECT)) {
                add_frag(d, s, &t);
                w.count++;
            }
            more = decl_walk_next(&walk, &t);
        }
        w.flags = more ? WIRE_FRAGS_MORE : 0;
        w.count += d->script.lie == FAKE_CUT;
        if (d->script.lie == FAKE_EXTRA)
            wire_tail(&d->out, "x", 1);
        memcpy(d->out.bytes + sizeof(struct wire_head), &w, sizeof(w));
        if (d->script.lie != FAKE_LOSES || !more)
            say(d);
    }
}

static void load_next(struct fake_daemon *d, uint32_t number)
{
    struct fake_state *s = &d->states[number];
    uint32_t at = s->next_back++;
    if (at < s->decl.slot_count) {
        CHECK(s->image[at]);
        say_frags(d, number, at);
        return;
    }
    say_op(d, s->load, d->script.lie == FAKE_NOT_DONE ? WIRE_LEVEL_NONE : WIRE_LEVEL_DONE, CKPT_OK,
           true);
    s->load = 0;
}

static void keep_rules(struct fake_daemon *d)
{
    const uint8_t *tail = wire_tail_of(&d->in, &d->seen.rules_len);
    CHECK(d->seen.rules_len <= sizeof(d->seen.rules));
    memcpy(d->seen.rules, tail, d->seen.rules_len);
}

/* With the script's bytes in a memfd. */
static void say_with_body(struct fake_daemon *d)
{
    static const uint8_t empty[8];
    const void *bytes = d->script.body ? d->script.body : empty;
    size_t len = d->script.body ? d->script.body_len : sizeof(empty);
    int fd = -1;
    if (d->script.body_open) {
        fd = memfd_create("open", MFD_CLOEXEC);
        CHECK(fd >= 0 && write(fd, bytes, len) == (ssize_t)len);
    } else {
        fd = wire_memfd("body", bytes, len, NULL);
    }
    CHECK(fd >= 0);
    d->out.fds[d->out.fd_count++] = fd;
    say(d);
    close(fd);
}

static uint64_t body_says(const struct fake_daemon *d, uint64_t otherwise)
{
    if (d->script.body_says)
        return d->script.body_says;
    return d->script.body ? d->script.body_len : otherwise;
}

static void on_list(struct fake_daemon *d)
{
    struct wire_list w;
    memcpy(&w, wire_body(&d->in), sizeof(w));
    struct wire_listed answer = { .token = w.token,
                                  .bytes = body_says(d, 8),
                                  .point = w.point,
                                  .status = d->script.refuse_list };
    if (d->script.lists_busy) {
        d->script.lists_busy--;
        answer.status = CKPT_BUSY;
    }
    d->seen.lists++;
    d->seen.list_flags = w.flags;
    d->seen.list_point = w.point;
    keep_rules(d);
    if (d->script.silent)
        return;
    if (d->script.loads_gone) { /* of another connection, say */
        d->script.loads_gone--;
        answer.token += 1000;
    }
    wire_begin(&d->out, WIRE_LISTED, &answer);
    if (answer.status && d->script.text)
        wire_tail(&d->out, d->script.text, strlen(d->script.text));
    if (answer.status)
        say(d);
    else
        say_with_body(d);
}

static void say_report(struct fake_daemon *d, uint64_t op)
{
    const struct wire_report w = { .op = op, .bytes = body_says(d, 0) };
    if (!d->script.body)
        return;
    wire_begin(&d->out, WIRE_REPORT, &w);
    say_with_body(d);
}

static void on_load(struct fake_daemon *d)
{
    struct wire_load w;
    memcpy(&w, wire_body(&d->in), sizeof(w));
    keep_rules(d);
    d->seen.loads++;
    d->last_op = w.op;
    d->seen.load_flags = w.flags;
    d->seen.load_point = w.point;
    if (d->script.silent)
        return;
    if (d->script.refuse_op || d->script.loads_gone) {
        enum ckpt_status st = d->script.loads_gone ? CKPT_DAEMON_GONE : d->script.refuse_op;
        d->script.loads_gone -= d->script.loads_gone > 0;
        say_op(d, w.op, 0, st, true);
        return;
    }
    d->states[w.state].load = w.op;
    d->states[w.state].next_back = 0;
    say_report(d, w.op);
    load_next(d, w.state);
}

static void on_back(struct fake_daemon *d)
{
    struct wire_back w;
    memcpy(&w, wire_body(&d->in), sizeof(w));
    d->seen.backs++;
    if (w.op > d->last_op)
        wrong(d, "BACK for an operation that was never asked for");
    if (d->states[w.state].load == w.op && w.op)
        load_next(d, w.state);
}

/* The client gave up a save or a load: its slots are ours again. */
static void end_op(struct fake_daemon *d, uint64_t op)
{
    for (uint32_t i = 1; i <= FAKE_STATES; i++) {
        struct fake_state *s = &d->states[i];
        if (s->op == op && op) {
            s->op = 0;
            memset(s->lent, 0, sizeof(s->lent));
        }
        if (s->load == op)
            s->load = 0;
    }
}

static void on_forget(struct fake_daemon *d)
{
    struct wire_forget w;
    memcpy(&w, wire_body(&d->in), sizeof(w));
    d->seen.forgets++;
    struct fake_state *s = &d->states[w.state <= FAKE_STATES ? w.state : 0];
    if (w.state == 0 || s->forgotten)
        wrong(d, "FORGET of a state that is not there");
    if (s->load || (s->op && s->filled < s->decl.slot_count))
        wrong(d, "FORGET of a state that is still copied");
    s->forgotten = w.state <= FAKE_STATES;
}

static void on_fail(struct fake_daemon *d)
{
    struct wire_fail w;
    memcpy(&w, wire_body(&d->in), sizeof(w));
    d->seen.fails++;
    d->seen.last_status = w.status;
    wire_text(&d->in, d->seen.fail_text, sizeof(d->seen.fail_text));
    end_op(d, w.op);
}

static void on_cancel(struct fake_daemon *d)
{
    struct wire_cancel w;
    memcpy(&w, wire_body(&d->in), sizeof(w));
    d->seen.cancels++;
    bool save = false;
    for (uint32_t i = 1; i <= FAKE_STATES; i++)
        save |= d->states[i].op == w.op;
    end_op(d, w.op);
    if (save)
        say_op(d, w.op, 0, CKPT_ABORTED, true);
}

static void on_restored(struct fake_daemon *d)
{
    struct wire_restored w;
    memcpy(&w, wire_body(&d->in), sizeof(w));
    d->seen.restored++;
    d->seen.last_status = w.status;
}

/* -- sessions -------------------------------------------------------------- */

static void forget(struct fake_daemon *d)
{
    for (uint32_t i = 1; i <= FAKE_STATES; i++) {
        struct fake_state *s = &d->states[i];
        if (s->arena)
            munmap(s->arena, s->slots * slot_bytes(d));
        for (uint32_t k = 0; s->image && k < s->decl.slot_count; k++)
            free(s->image[k]);
        free(s->image);
        decl_fini(&s->decl);
        *s = (struct fake_state){ 0 };
    }
    d->seq = d->last_op = 0;
    memset(d->log, 0, sizeof(d->log));
}

static void drop(struct fake_daemon *d)
{
    if (d->fd >= 0)
        close(d->fd);
    d->fd = -1;
    d->seen.drops++;
}

static void on_hello(struct fake_daemon *d)
{
    struct wire_hello w;
    size_t len;
    memcpy(&w, wire_body(&d->in), sizeof(w));
    struct cursor c = cursor_over(wire_tail_of(&d->in, &len), 0);
    c.end = c.at + len;
    cursor_str(&c, d->seen.job, sizeof(d->seen.job));
    cursor_str(&c, d->seen.launch, sizeof(d->seen.launch));
    cursor_str(&c, d->seen.resume, sizeof(d->seen.resume));
    bool resumed = w.flags & WIRE_HELLO_RESUMED;
    d->seen.hellos++;
    d->seen.resumed += resumed;
    if (!cursor_done(&c))
        wrong(d, "HELLO with a wrong tail");
    if (d->script.mute)
        return;
    if (d->script.refuse_hello) {
        refuse(d, d->script.refuse_hello, WIRE_HELLO, 0);
        return;
    }
    if (resumed && d->script.forget) {
        forget(d);
        d->script.forget = false;
        refuse(d, CKPT_NOT_FOUND, WIRE_HELLO, 0);
        return;
    }
    if (resumed && memcmp(w.session, d->session, sizeof(w.session)) != 0)
        wrong(d, "a resumed session under another id");
    if (!resumed)
        forget(d);
    memcpy(d->session, w.session, sizeof(w.session));
    if (!resumed && d->script.lose_answer) {
        d->script.lose_answer = false;
        drop(d);
        return;
    }
    struct wire_hello_ok ok = { .epoch = d->script.epoch ? d->script.epoch : 3,
                                .point = d->script.point,
                                .slot_bytes = (uint32_t)slot_bytes(d),
                                .flags = d->script.hello_flags };
    if (d->script.point.attempt)
        ok.flags |= WIRE_HAS_POINT;
    wire_begin(&d->out, WIRE_HELLO_OK, &ok);
    if (d->script.text)
        wire_tail(&d->out, d->script.text, strlen(d->script.text));
    say(d);
    for (uint32_t i = 1; resumed && i <= FAKE_STATES; i++)
        if (d->states[i].op)
            say_op(d, d->states[i].op, WIRE_LEVEL_NONE, CKPT_OK, false);
    for (uint32_t i = 1; resumed && i <= FAKE_STATES; i++)
        for (uint32_t k = 0; d->states[i].op && k < d->states[i].slots; k++)
            if (d->states[i].lent[k])
                grant_slot(d, i, d->states[i].op, k);
}

static void dispatch(struct fake_daemon *d, unsigned type)
{
    switch (type) {
    case WIRE_STATE:
        on_state(d);
        break;
    case WIRE_SAVE:
        on_save(d);
        break;
    case WIRE_FULL:
        on_full(d);
        break;
    case WIRE_FAIL:
        on_fail(d);
        break;
    case WIRE_LOAD:
        on_load(d);
        break;
    case WIRE_LIST:
        on_list(d);
        break;
    case WIRE_BACK:
        on_back(d);
        break;
    case WIRE_RESTORED:
        on_restored(d);
        break;
    case WIRE_PROGRESS:
        d->seen.progress++;
        break;
    case WIRE_CANCEL:
        on_cancel(d);
        break;
    case WIRE_FORGET:
        on_forget(d);
        break;
    case WIRE_BYE:
        d->seen.byes++;
        break;
    default:
        wrong(d, "a message that no client sends");
    }
    wire_begin(&d->out, WIRE_ACK, NULL);
    say(d);
}

/* True if this message is to be handled; checks its number, and that a number that was
 * said before comes with the same bytes. */
static bool is_new(struct fake_daemon *d)
{
    uint64_t seq = d->in.head.seq;
    uint64_t hash = digest_hash(d->in.bytes, d->in.len);
    if (seq == 0 || seq >= FAKE_LOG) {
        wrong(d, "a message without a number");
        return false;
    }
    bool known = d->log[seq].len;
    if (known && (d->log[seq].len != d->in.len || d->log[seq].hash != hash))
        wrong(d, "a repeat with other bytes");
    d->seen.repeats += known;
    if (seq > d->seq + 1)
        wrong(d, "a gap in the numbers");
    d->log[seq].len = d->in.len;
    d->log[seq].hash = hash;
    return seq == d->seq + 1;
}

static void on_message(struct fake_daemon *d)
{
    unsigned type = d->in.head.type;
    d->count[type % 128]++;
    if (type == WIRE_HELLO) {
        on_hello(d);
    } else if (type == WIRE_BYE) {
        d->seen.byes++;
    } else {
        bool hit = d->script.drop && type == d->script.drop_type && --d->script.drop_at == 0;
        enum fake_drop how = hit ? d->script.drop : FAKE_KEEP;
        if (hit)
            d->script.drop = FAKE_KEEP;
        if (how == FAKE_DROP_AFTER) { /* the effect, but no word of it */
            close(d->fd);
            d->fd = -1;
        }
        bool fresh = is_new(d);
        if (how != FAKE_DROP_BEFORE && fresh) {
            d->seq++;
            dispatch(d, type);
        }
        if (how)
            drop(d);
    }
    wire_close_fds(&d->in);
    pthread_cond_broadcast(&d->changed);
}

static void take_all(struct fake_daemon *d)
{
    while (d->fd >= 0) {
        enum ckpt_status st = wire_recv(d->fd, &d->in, NULL);
        if (st == CKPT_BUSY)
            return;
        if (st != CKPT_OK) {
            close(d->fd);
            d->fd = -1;
            pthread_cond_broadcast(&d->changed);
            return;
        }
        on_message(d);
    }
}

static void *fake_main(void *arg)
{
    struct fake_daemon *d = arg;
    pthread_mutex_lock(&d->lock);
    while (!d->stop) {
        struct pollfd p[3] = { { .fd = d->wake, .events = POLLIN },
                               { .fd = d->listener, .events = POLLIN },
                               { .fd = d->fd, .events = POLLIN } };
        pthread_mutex_unlock(&d->lock);
        poll(p, 3, -1);
        pthread_mutex_lock(&d->lock);
        uint64_t n;
        if (p[0].revents && read(d->wake, &n, sizeof(n)) < 0)
            continue;
        if (d->drop_now) {
            d->drop_now = false;
            drop(d);
        }
        if (p[0].revents) {
            for (uint32_t i = 1; i <= FAKE_STATES; i++)
                grant(d, i);
        }
        if (p[1].revents) {
            int fd = accept4(d->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
            if (d->script.refuse_connections) {
                close(fd);
            } else if (fd >= 0) {
                if (d->fd >= 0)
                    close(d->fd);
                d->fd = fd;
            }
        }
        take_all(d);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

struct fake_daemon *fake_start(const char *path)
{
    struct fake_daemon *d = calloc(1, sizeof(*d));
    CHECK(d);
    snprintf(d->dir, sizeof(d->dir), "/tmp/fake-ckptd-XXXXXX");
    CHECK(mkdtemp(d->dir));
    if (path)
        snprintf(d->path, sizeof(d->path), "%s", path);
    else
        snprintf(d->path, sizeof(d->path), "%s/s", d->dir);
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    memcpy(a.sun_path, d->path, strnlen(d->path, sizeof(a.sun_path) - 1));
    d->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    CHECK(bind(d->listener, (const struct sockaddr *)&a, sizeof(a)) == 0);
    CHECK(listen(d->listener, 64) == 0);
    d->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    d->fd = -1;
    d->script.grants = UINT32_MAX;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->changed, NULL);
    CHECK(pthread_create(&d->thread, NULL, fake_main, d) == 0);
    return d;
}

static void wake(struct fake_daemon *d)
{
    uint64_t one = 1;
    CHECK(write(d->wake, &one, sizeof(one)) == sizeof(one));
}

void fake_stop(struct fake_daemon *d)
{
    pthread_mutex_lock(&d->lock);
    d->stop = true;
    pthread_mutex_unlock(&d->lock);
    wake(d);
    pthread_join(d->thread, NULL);
    take_all(d); /* what came last: a BYE */
    if (d->seen.wrong)
        fprintf(stderr, "the client: %s\n", d->seen.why);
    CHECK(!d->seen.wrong);
    forget(d);
    if (d->fd >= 0)
        close(d->fd);
    close(d->listener);
    close(d->wake);
    unlink(d->path);
    rmdir(d->dir);
    pthread_mutex_destroy(&d->lock);
    pthread_cond_destroy(&d->changed);
    free(d);
}

const char *fake_path(const struct fake_daemon *d)
{
    return d->path;
}

void fake_set(struct fake_daemon *d, const struct fake_script *s)
{
    pthread_mutex_lock(&d->lock);
    d->script = *s;
    pthread_mutex_unlock(&d->lock);
    wake(d);
}

struct fake_seen fake_seen(struct fake_daemon *d)
{
    pthread_mutex_lock(&d->lock);
    struct fake_seen seen = d->seen;
    pthread_mutex_unlock(&d->lock);
    return seen;
}

void fake_drop(struct fake_daemon *d)
{
    pthread_mutex_lock(&d->lock);
    d->drop_now = true;
    pthread_mutex_unlock(&d->lock);
    wake(d);
}

void fake_await(struct fake_daemon *d, unsigned type, uint32_t count)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 60;
    pthread_mutex_lock(&d->lock);
    while (d->count[type % 128] < count)
        if (pthread_cond_timedwait(&d->changed, &d->lock, &until) != 0) {
            fprintf(stderr, "no %s came\n", wire_type_name(type));
            exit(1);
        }
    pthread_mutex_unlock(&d->lock);
}

const uint8_t *fake_image(struct fake_daemon *d, uint32_t state, uint32_t slot)
{
    pthread_mutex_lock(&d->lock);
    struct fake_state *s = &d->states[state];
    const uint8_t *p = s->used && slot < s->decl.slot_count ? s->image[slot] : NULL;
    pthread_mutex_unlock(&d->lock);
    return p;
}
