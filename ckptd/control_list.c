/* What a checkpoint holds, for a program that has not declared anything yet: the keys that
 * data loaders saved, say.  A crew walks the index; one answer at a time for each session. */
#include <stdio.h>

#include "ckptd/control.h"
#include "ckptd/log.h"

static void answer(struct client *cl, const struct wire_listed *body, int fd, const char *text)
{
    struct wire_msg *m = control_msg();
    wire_begin(m, WIRE_LISTED, body);
    if (fd >= 0)
        m->fds[m->fd_count++] = fd;
    (void)wire_tail(m, text, strlen(text));
    client_send(cl, m);
}

static void refuse(struct client *cl, uint64_t token, enum ckpt_status st, const char *text)
{
    const struct wire_listed body = { .token = token, .status = st };
    answer(cl, &body, -1, text);
}

static enum ckpt_status submit(struct control *c, struct client *cl, const struct wire_list *b,
                               struct select *select)
{
    struct job *j = job_new(JOB_LIST);
    if (!j)
        return CKPT_NO_MEMORY;
    j->client = cl->number;
    j->list.token = b->token;
    j->list.objects = b->flags & WIRE_LIST_OBJECTS;
    j->list.name = (struct ckpt_name){ b->point.epoch, b->point.step, b->point.attempt };
    if (b->flags & WIRE_LIST_RESUME)
        j->list.name = cl->s->point;
    j->list.select = *select;
    *select = (struct select){ 0 };
    snprintf(j->list.job, sizeof(j->list.job), "%s", cl->s->job);
    cl->listing = true;
    control_submit(c, c->records, j);
    return CKPT_OK;
}

void control_list(struct control *c, struct client *cl, const struct wire_msg *m)
{
    struct wire_list b;
    struct ckpt_err err = { 0 };
    struct select select = { 0 };
    size_t len;
    memcpy(&b, wire_body(m), sizeof(b));
    const uint8_t *tail = wire_tail_of(m, &len);
    enum ckpt_status st = CKPT_OK;
    if (b.flags & ~(uint32_t)(WIRE_LIST_RESUME | WIRE_LIST_OBJECTS))
        st = err_set(&err, CKPT_INVALID, "LIST with unknown flags %x", b.flags);
    else if (cl->listing)
        st = err_set(&err, CKPT_BUSY, "another list is being made for this session");
    else if ((b.flags & WIRE_LIST_RESUME) && !(cl->s->flags & WIRE_HAS_POINT))
        st = err_set(&err, CKPT_NOT_FOUND, "there is no checkpoint to resume from");
    if (st == CKPT_OK)
        st = select_decode(tail, len, &select, &err);
    if (st == CKPT_OK)
        st = submit(c, cl, &b, &select);
    if (st != CKPT_OK)
        refuse(cl, b.token, st, err.text[0] ? err_text(&err) : status_sentence(st));
    select_fini(&select);
}

void control_list_done(struct control *c, struct job *j)
{
    struct client *cl = c->clients[j->client];
    cl->listing = false;
    if (!cl->conn)
        return; /* it asks again when it is back */
    if (j->status != CKPT_OK) {
        log_warn("a list could not be made", "job=%s rank=%u why=\"%s\"", cl->s->job, cl->s->rank,
                 err_text(&j->err));
        refuse(cl, j->list.token, j->status, err_text(&j->err));
        return;
    }
    const struct wire_listed body = { .token = j->list.token,
                                      .bytes = j->list.bytes,
                                      .point = { j->list.name.epoch, j->list.name.step,
                                                 j->list.name.attempt } };
    answer(cl, &body, j->list.fd, "");
}
