/* What a restore takes, whether all of it came, and what came of each tensor. */
#include <inttypes.h>
#include <sys/mman.h>

#include "libckpt/context.h"

/* -- before ------------------------------------------------------------------- */

static enum ckpt_status add_patterns(struct select *to, enum select_kind kind,
                                     const char *const *list, size_t count, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    if (count && !list)
        return err_set(err, CKPT_INVALID, "ckpt_restore: %zu patterns at NULL", count);
    for (size_t i = 0; st == CKPT_OK && i < count; i++)
        st = select_add(to, kind, list[i], NULL, err);
    return st;
}

static enum ckpt_status add_all(struct select *to, const struct ckpt_restore_opts *o,
                                struct ckpt_err *err)
{
    enum ckpt_status st = add_patterns(to, SELECT_ONLY, o->only, o->only_count, err);
    if (st == CKPT_OK)
        st = add_patterns(to, SELECT_EXCEPT, o->except, o->except_count, err);
    if (st == CKPT_OK && o->rename_count && !o->renames)
        st = err_set(err, CKPT_INVALID, "ckpt_restore: %zu renames at NULL", o->rename_count);
    for (size_t i = 0; st == CKPT_OK && i < o->rename_count; i++)
        st = select_add(to, SELECT_RENAME, o->renames[i].from, o->renames[i].to, err);
    return st;
}

enum ckpt_status report_select(struct ckpt_state *s, const struct ckpt_restore_opts *o,
                               struct ckpt_err *err)
{
    struct select select = { 0 };
    enum ckpt_status st = add_all(&select, o, err);
    if (st != CKPT_OK) {
        select_fini(&select);
        return st;
    }
    select_fini(&s->select);
    s->select = select;
    s->load_flags = o->flags;
    s->restored = false;
    return CKPT_OK;
}

void report_reset(struct ckpt_state *s)
{
    report_fini(&s->report);
    s->report.unasked_total = REPORT_UNASKED_UNKNOWN;
    for (size_t i = 0; i < s->decl.tensor_count; i++) {
        struct lib_fate *f = &s->fates[i];
        f->came_bytes = f->overflowed = 0;
        f->wanted = select_wants(&s->select, s->decl.tensors[i].name);
    }
}

/* -- meanwhile ----------------------------------------------------------------- */

enum ckpt_status report_take(struct ckpt_state *s, struct wire_msg *m, struct ckpt_err *err)
{
    struct wire_report w;
    const void *bytes;
    struct report r;
    memcpy(&w, wire_body(m), sizeof(w));
    if (w.bytes > REPORT_BYTES_MAX)
        return err_set(err, CKPT_CORRUPT, "restore: a report of %" PRIu64 " bytes", w.bytes);
    enum ckpt_status st = wire_memfd_map(m->fds[0], w.bytes, &bytes, err);
    if (st != CKPT_OK)
        return st;
    st = report_decode(bytes, w.bytes, s->decl.tensor_count, &r, err);
    munmap((void *)(uintptr_t)bytes, w.bytes);
    if (st != CKPT_OK)
        return st;
    report_fini(&s->report);
    s->report = r;
    return CKPT_OK;
}

/* -- after ----------------------------------------------------------------------- */

/* Without holes, and as much as its head says; what was saved for a larger capacity than is
 * declared here may end there. */
static enum ckpt_status check_object(const struct decl_tensor *t, const struct lib_fate *f,
                                     const struct lib_side *side, bool owed, struct ckpt_err *err)
{
    if (side->reach == 0 && f->came_bytes == 0)
        return owed ? err_set(err, CKPT_CORRUPT, "restore: ckptd brought nothing of object \"%s\"",
                              t->name)
                    : CKPT_OK;
    uint64_t need = DECL_OBJECT_HEAD + min_u64(state_object_bytes(side), side->capacity);
    if (f->came_bytes == side->reach && side->reach >= need)
        return CKPT_OK;
    return err_set(err, CKPT_CORRUPT,
                   "restore: ckptd brought %" PRIu64 " of %" PRIu64 " bytes of object \"%s\" and "
                   "said done",
                   f->came_bytes, max_u64(need, side->reach), t->name);
}

/* side: of an object. */
static enum ckpt_status check_tensor(const struct ckpt_state *s, size_t i,
                                     const struct lib_side *side, struct ckpt_err *err)
{
    const struct decl_tensor *t = &s->decl.tensors[i];
    const struct lib_fate *f = &s->fates[i];
    const struct report_note *note = report_find(&s->report, i);
    bool partial = s->load_flags & CKPT_RESTORE_PARTIAL;
    bool missing = note && note->missing;
    if (missing && !partial && !(t->flags & DECL_OPTIONAL))
        return err_set(err, CKPT_CORRUPT,
                       "restore: ckptd says that tensor \"%s\" is missing, and that all is done",
                       t->name);
    uint64_t owed = f->wanted && !missing ? f->held_bytes : 0;
    if (t->flags & DECL_OBJECT)
        return check_object(t, f, side, !missing && f->wanted, err);
    if (f->came_bytes != owed)
        return err_set(err, CKPT_CORRUPT,
                       "restore: ckptd brought %" PRIu64 " of %" PRIu64
                       " bytes of tensor \"%s\" and said done",
                       f->came_bytes, owed, t->name);
    return CKPT_OK;
}

enum ckpt_status report_check(const struct ckpt_state *s, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    size_t side = 0; /* sorted by tensor */
    for (size_t i = 0; st == CKPT_OK && i < s->decl.tensor_count; i++) {
        while (side < s->side_count && s->sides[side].tensor < i)
            side++;
        st = check_tensor(s, i, &s->sides[side], err);
    }
    return st;
}

/* An alias has no memory: what came of it is what came of the tensor that it is tied to. */
static enum ckpt_fate fate_of(const struct ckpt_state *s, size_t i)
{
    const struct decl_tensor *t = &s->decl.tensors[i];
    size_t target = t->alias ? (size_t)(decl_find(&s->decl, t->alias) - s->decl.tensors) : i;
    const struct report_note *note = report_find(&s->report, target);
    if (!s->fates[i].wanted || !s->fates[target].wanted)
        return CKPT_FATE_LEFT_OUT;
    if (note && note->missing)
        return CKPT_FATE_MISSING;
    return t->alias ? CKPT_FATE_TIED : CKPT_FATE_LOADED;
}

static void fill_declared(const struct ckpt_state *s, size_t i, struct ckpt_restored *ret)
{
    const struct decl_tensor *t = &s->decl.tensors[i];
    const struct report_note *note = report_find(&s->report, i);
    ret->name = ret->saved_name = t->name;
    ret->dtype = ret->saved_dtype = t->dtype;
    ret->bytes = s->fates[i].came_bytes;
    ret->overflowed = s->fates[i].overflowed;
    ret->fate = fate_of(s, i);
    if (note && note->saved)
        ret->saved_name = note->saved;
    if (note && note->dtype)
        ret->saved_dtype = note->dtype;
    if (ret->fate != CKPT_FATE_LOADED) {
        ret->saved_name = NULL;
        ret->saved_dtype = 0;
    }
}

enum ckpt_status ckpt_restored(struct ckpt_state *s, uint64_t i, struct ckpt_restored *ret)
{
    struct ckpt_err err = { 0 };
    struct ckpt_restored r = { 0 };
    enum ckpt_status st = lib_enter_state(s);
    if (st != CKPT_OK)
        return st;
    size_t size = ret ? ret->size : 0;
    if (size < offsetof(struct ckpt_restored, fate))
        st = err_set(&err, CKPT_INVALID, "set .size = sizeof(struct ckpt_restored)%s",
                     ret ? "" : " (it is NULL)");
    else if (!s->restored)
        st = err_set(&err, CKPT_WRONG_STATE, "no restore into this state has ended well");
    else if (i >= s->decl.tensor_count && i - s->decl.tensor_count >= s->report.unasked_count)
        st = err_set(&err, CKPT_NOT_FOUND, "the report has %zu entries",
                     s->decl.tensor_count + s->report.unasked_count);
    if (st != CKPT_OK)
        return lib_fail(&err);
    if (i < s->decl.tensor_count) {
        fill_declared(s, i, &r);
    } else {
        r.saved_name = s->report.unasked[i - s->decl.tensor_count];
        r.fate = CKPT_FATE_UNASKED;
    }
    r.size = size;
    memcpy(ret, &r, min_u64(size, sizeof(r)));
    return CKPT_OK;
}
