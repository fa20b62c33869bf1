/* A restore's report as bytes. */
#include "formats/report.h"

#include "formats/dtype.h"
#include "formats/key.h"

#define NOTE_BYTES_MIN 10

void report_fini(struct report *r)
{
    if (!r)
        return;
    for (size_t i = 0; i < r->note_count; i++)
        free(r->notes[i].saved);
    for (size_t i = 0; i < r->unasked_count; i++)
        free(r->unasked[i]);
    free(r->notes);
    free(r->unasked);
    *r = (struct report){ 0 };
}

static int by_tensor(const void *key, const void *note)
{
    size_t a = *(const size_t *)key, b = ((const struct report_note *)note)->tensor;
    return (a > b) - (a < b);
}

const struct report_note *report_find(const struct report *r, size_t tensor)
{
    return r->note_count ? bsearch(&tensor, r->notes, r->note_count, sizeof(*r->notes), by_tensor)
                         : NULL;
}

void report_encode(const struct report *r, struct buf *out)
{
    buf_u32(out, (uint32_t)r->note_count);
    buf_u32(out, (uint32_t)r->unasked_count);
    buf_u64(out, r->unasked_total);
    for (size_t i = 0; i < r->note_count; i++) {
        const struct report_note *n = &r->notes[i];
        buf_u32(out, n->tensor);
        buf_u8(out, n->missing);
        buf_u8(out, n->dtype);
        buf_zero(out, 2);
        buf_str(out, n->saved ? n->saved : "");
    }
    for (size_t i = 0; i < r->unasked_count; i++)
        buf_str(out, r->unasked[i]);
}

/* A name of a tensor; an empty one is NULL. */
static bool read_name(struct cursor *c, char **ret, bool *ret_memory)
{
    char name[CKPT_TENSOR_NAME_MAX + 1];
    cursor_str(c, name, sizeof(name));
    if (!cursor_ok(c) || (name[0] && tensor_name_check(name, strlen(name), NULL) != CKPT_OK))
        return false;
    if (!name[0])
        return true;
    *ret = strdup(name);
    *ret_memory = *ret != NULL;
    return *ret != NULL;
}

static bool read_note(struct cursor *c, size_t tensors, struct report *r, bool *ret_memory)
{
    struct report_note *n = &r->notes[r->note_count];
    n->tensor = cursor_u32(c);
    uint8_t missing = cursor_u8(c);
    n->dtype = cursor_u8(c);
    cursor_zero(c, 2);
    n->missing = missing;
    bool rises = r->note_count == 0 || n->tensor > n[-1].tensor;
    if (!cursor_ok(c) || n->tensor >= tensors || !rises || missing > 1 ||
        (n->dtype && !dtype_bits(n->dtype)) || !read_name(c, &n->saved, ret_memory))
        return false;
    r->note_count++;
    return true;
}

static bool read_unasked(struct cursor *c, struct report *r, bool *ret_memory)
{
    char *name = NULL;
    if (!read_name(c, &name, ret_memory) || !name)
        return false;
    r->unasked[r->unasked_count++] = name;
    return true;
}

/* False: malformed, or no memory (*ret_memory is false). */
static bool read_all(struct cursor *c, size_t tensors, struct report *r, bool *ret_memory)
{
    uint32_t notes = cursor_u32(c), names = cursor_u32(c);
    r->unasked_total = cursor_u64(c);
    if (!cursor_ok(c) || notes > cursor_left(c) / NOTE_BYTES_MIN || names > REPORT_UNASKED_MAX ||
        names > r->unasked_total)
        return false;
    r->notes = calloc(max_u64(notes, 1), sizeof(*r->notes));
    r->unasked = calloc(max_u64(names, 1), sizeof(*r->unasked));
    *ret_memory = r->notes && r->unasked;
    bool ok = *ret_memory;
    for (uint32_t i = 0; ok && i < notes; i++)
        ok = read_note(c, tensors, r, ret_memory);
    for (uint32_t i = 0; ok && i < names; i++)
        ok = read_unasked(c, r, ret_memory);
    return ok && cursor_done(c);
}

enum ckpt_status report_decode(const void *bytes, size_t len, size_t tensors, struct report *ret,
                               struct ckpt_err *err)
{
    struct report r = { 0 };
    struct cursor c = cursor_over(bytes, len);
    bool memory = true;
    if (read_all(&c, tensors, &r, &memory)) {
        *ret = r;
        return CKPT_OK;
    }
    report_fini(&r);
    return memory ? err_set(err, CKPT_CORRUPT, "restore: a report that is cut short or malformed")
                  : err_set(err, CKPT_NO_MEMORY, "restore: no memory for the report");
}
