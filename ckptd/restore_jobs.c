/* What restores and listings read, from tier after tier (tiers.h). */
#include "ckptd/restore_jobs.h"

#include <sys/mman.h>

#include "formats/report.h"
#include "formats/wire.h"

/* Of the plan's gaps and notes, those of one consumer, merged by tensor; they borrow. */
static enum ckpt_status fill_report(const struct plan *p, uint32_t consumer, struct report *r,
                                    const struct decl *d, struct ckpt_err *err)
{
    size_t g = 0, n = 0;
    r->notes = calloc(p->gap_count + p->note_count + 1, sizeof(*r->notes));
    if (!r->notes)
        return err_set(err, CKPT_NO_MEMORY, "out of memory for a restore's report");
    while (g < p->gap_count && p->gaps[g].consumer < consumer)
        g++;
    while (n < p->note_count && p->notes[n].consumer < consumer)
        n++;
    for (;;) {
        bool gap = g < p->gap_count && p->gaps[g].consumer == consumer;
        bool note = n < p->note_count && p->notes[n].consumer == consumer;
        if (!gap && !note)
            return CKPT_OK;
        struct report_note *to = &r->notes[r->note_count++];
        if (gap && (!note || p->gaps[g].tensor < p->notes[n].tensor)) {
            *to = (struct report_note){ .tensor = p->gaps[g++].tensor, .missing = true };
            continue;
        }
        const struct plan_note *from = &p->notes[n++];
        const struct decl_tensor *t = &d->tensors[from->tensor];
        *to = (struct report_note){ .tensor = from->tensor };
        if (from->saved->dtype != t->dtype)
            to->dtype = from->saved->dtype;
        if (strcmp(from->saved->name, t->name) != 0)
            to->saved = from->saved->name;
    }
}

/* Nothing is written for a consumer who gets what he declared. */
static enum ckpt_status make_reports(struct job_plan *p, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    p->reports = calloc(max_u64(p->count, 1), sizeof(*p->reports));
    if (!p->reports)
        return err_set(err, CKPT_NO_MEMORY, "out of memory for a restore's report");
    for (size_t i = 0; st == CKPT_OK && i < p->count; i++) {
        struct report r = { .unasked = p->plan->unasked,
                            .unasked_count = min_u64(p->plan->unasked_count, REPORT_UNASKED_MAX),
                            .unasked_total = p->plan->unasked_count };
        if (p->flags & PLAN_NO_UNASKED)
            r.unasked_total = REPORT_UNASKED_UNKNOWN;
        st = fill_report(p->plan, (uint32_t)i, &r, p->decls[i], err);
        if (st == CKPT_OK && r.note_count + r.unasked_count > 0)
            report_encode(&r, &p->reports[i]);
        if (p->reports[i].failed)
            st = err_set(err, CKPT_NO_MEMORY, "out of memory for a restore's report");
        free(r.notes);
    }
    return st;
}

static enum ckpt_status plan_over(struct jobs_work *w, struct job_plan *p,
                                  const struct tiers_ask *a, uint32_t *ret_away,
                                  struct ckpt_err *err)
{
    struct reader *reader;
    enum ckpt_status st =
        reader_open_away(a->stores, a->count, p->job, &p->name, &reader, ret_away, err);
    if (st != CKPT_OK)
        return st;
    const struct plan_ask ask = { .consumers = p->decls,
                                  .count = p->count,
                                  .slot_bytes = w->slot_bytes,
                                  .flags = p->flags,
                                  .select = p->select,
                                  .ranks = p->ranks };
    st = plan_make(reader, &ask, &p->plan, err);
    if (st == CKPT_OK)
        st = make_reports(p, err);
    *ret_away = reader_away(reader);
    if (st == CKPT_OK) {
        p->reader = reader;
        p->damaged = tiers_ask_bits(a, reader_damaged(reader)) & 1;
        return CKPT_OK;
    }
    plan_free(p->plan);
    p->plan = NULL;
    reader_close(reader);
    return st;
}

static void encode_listed(const struct index_tensor *t, struct buf *out)
{
    struct desc desc = { .name = t->name, .alias = t->alias };
    DESC_COPY(&desc, t);
    desc_encode(&desc, out);
}

static enum ckpt_status list_tensors(struct reader *r, const struct job_list *l, struct buf *out,
                                     struct ckpt_err *err)
{
    uint64_t count = 0;
    buf_u64(out, 0);
    for (uint64_t i = 0; i < reader_tensor_count(r); i++) {
        const struct index_tensor *t;
        enum ckpt_status st = reader_tensor_at(r, i, &t, err);
        if (st != CKPT_OK)
            return st;
        if ((l->objects && !(t->flags & DECL_OBJECT)) || !select_wants(&l->select, t->name))
            continue;
        encode_listed(t, out);
        if (++count > JOBS_LIST_MAX || out->len > JOBS_LIST_BYTES_MAX)
            return err_set(err, CKPT_LIMIT,
                           "more than %u tensors, or names too long: ask with patterns",
                           JOBS_LIST_MAX);
    }
    if (!out->failed)
        buf_patch_u64(out, 0, count);
    return out->failed ? err_set(err, CKPT_NO_MEMORY, "out of memory for a list") : CKPT_OK;
}

static enum ckpt_status list_over(const struct job_list *l, const struct tiers_ask *a,
                                  uint32_t *ret_away, struct buf *out, struct ckpt_err *err)
{
    struct reader *reader;
    enum ckpt_status st =
        reader_open_away(a->stores, a->count, l->job, &l->name, &reader, ret_away, err);
    if (st != CKPT_OK)
        return st;
    out->len = 0;
    st = list_tensors(reader, l, out, err);
    *ret_away = reader_away(reader);
    reader_close(reader);
    return st;
}

enum ckpt_status list_job_run(struct jobs_work *w, struct job_list *l, struct ckpt_err *err)
{
    CLEANUP_BUF struct buf out = { 0 };
    struct tiers_ask a = { .t = &w->tiers };
    while (tiers_ask_next(&a)) {
        struct ckpt_err why = { 0 };
        uint32_t away;
        enum ckpt_status got = list_over(l, &a, &away, &out, &why);
        tiers_ask_answer(&a, got, away, &why);
    }
    enum ckpt_status st = tiers_ask_end(&a, err);
    if (st != CKPT_OK)
        return st;
    l->fd = wire_memfd("ckpt-list", out.data, out.len, err); /* here: control copies nothing */
    l->bytes = out.len;
    return l->fd < 0 ? err->status : CKPT_OK;
}

void jobs_part_drop(struct restore_part *part)
{
    if (part->bytes > 0)
        close(part->fd);
    *part = (struct restore_part){ .fd = -1 };
}

/* The declaration that a rank sent in place of its state's.  What it declares is its own to
 * say: fragments go to the rank alone, which checks them against what it sent. */
static enum ckpt_status take_part(struct job_part_decl *part, uint64_t slot_bytes)
{
    const void *bytes;
    enum ckpt_status st = wire_memfd_map(part->given.fd, part->given.bytes, &bytes, &part->err);
    if (st != CKPT_OK)
        return st;
    st = decl_decode(bytes, part->given.bytes, slot_bytes, &part->decl, &part->err);
    munmap((void *)(uintptr_t)bytes, part->given.bytes);
    return st;
}

/* A part that cannot be taken is its rank's trouble alone, which gets nothing. */
static void take_parts(struct job_plan *p, uint64_t slot_bytes)
{
    for (size_t i = 0; i < p->count; i++)
        if (p->parts[i].given.bytes > 0 && take_part(&p->parts[i], slot_bytes) == CKPT_OK)
            p->decls[i] = &p->parts[i].decl;
}

enum ckpt_status plan_job_run(struct jobs_work *w, struct job_plan *p, struct ckpt_err *err)
{
    struct tiers_ask a = { .t = &w->tiers };
    take_parts(p, w->slot_bytes);
    while (tiers_ask_next(&a)) {
        struct ckpt_err why = { 0 };
        uint32_t away;
        enum ckpt_status st = plan_over(w, p, &a, &away, &why);
        tiers_ask_answer(&a, st, away, &why);
    }
    return tiers_ask_end(&a, err);
}

enum ckpt_status batch_job_run(struct jobs_work *w, struct job_batch *b, struct ckpt_err *err)
{
    struct tiers_ask a = { .t = &w->tiers };
    uint32_t damaged = 0;
    while (tiers_ask_next(&a)) {
        struct ckpt_err why = { 0 };
        b->stats.damaged_tier = b->stats.away_tier = 0;
        enum ckpt_status st = load_batch(w->load, a.stores, a.count, b->job, &b->name, b->plan,
                                         b->memory, &b->stats, &why);
        damaged |= tiers_ask_bits(&a, b->stats.damaged_tier);
        tiers_ask_answer(&a, st, b->stats.away_tier, &why);
    }
    b->stats.damaged_tier = damaged;
    return tiers_ask_end(&a, err);
}
