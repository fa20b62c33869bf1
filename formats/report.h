/* What came of a restore, tensor by tensor: the daemon says it once, before the last word
 * about the load.  Only what is not plain is in it: a tensor of the declaration that is not
 * mentioned was restored under its own name and type, unless the patterns left it out.
 *
 *   0  u32 notes, u32 unasked names, u64 unasked in all (2^64 - 1: not known)
 *  16  notes: u32 tensor, u8 missing, u8 saved dtype (0: as declared), u16 0,
 *             saved name (u16 length + bytes; empty: the declared one)
 *      names: u16 length + bytes, in order */
#pragma once

#include "formats/cursor.h"

#define REPORT_UNASKED_MAX     4096 /* names; the first in order */
#define REPORT_UNASKED_UNKNOWN UINT64_MAX
#define REPORT_BYTES_MAX       (UINT64_C(1) << 30)

struct report_note {
    uint32_t tensor; /* ordinal in the declaration */
    bool missing;    /* the checkpoint does not have it */
    uint8_t dtype;   /* it was saved as this and converted; 0: as it is declared */
    char *saved;     /* owned; its name in the checkpoint, NULL: the same */
};
struct report {
    struct report_note *notes; /* rising by tensor */
    size_t note_count;
    char **unasked; /* owned; names in the checkpoint that no rank declared */
    size_t unasked_count;
    uint64_t unasked_total;
};
void report_fini(struct report *r);
/* The note of a tensor, or NULL. */
const struct report_note *report_find(const struct report *r, size_t tensor);
void report_encode(const struct report *r, struct buf *out);
/* From hostile bytes; notes of tensors below `tensors` only, each once, with known dtypes
 * and names that can be. */
enum ckpt_status report_decode(const void *bytes, size_t len, size_t tensors, struct report *ret,
                               struct ckpt_err *err) CKPT_MUST_CHECK;
