/* The safetensors file format: header and layout, no I/O.
 *
 *   u64 N | N bytes of JSON, padded with spaces to 8 | data, dense, no holes
 *
 * JSON: {"name": {"dtype", "shape", "data_offsets": [begin, end)}, ...,
 * "__metadata__": {string: string}}; offsets are relative to the start of data. */
#pragma once

#include "formats/cursor.h"

#define SAFETENSORS_HEADER_MAX   (UINT64_C(100) * 1000 * 1000)
#define SAFETENSORS_METADATA_MAX 65536 /* entries */

struct safetensors_tensor {
    char *name; /* owned */
    unsigned dtype;
    uint32_t ndim;
    uint64_t shape[CKPT_DIMS_MAX];
    uint64_t begin, bytes; /* in the data */
};
struct safetensors_note { /* an entry of __metadata__ */
    char *key, *value;    /* owned */
};
struct safetensors {
    struct safetensors_tensor *tensors; /* parse: in order of begin */
    size_t count, cap;
    struct safetensors_note *notes;
    size_t note_count, note_cap;
    uint64_t data_begin; /* in the file: 8 + N */
    uint64_t data_bytes;
};

/* True if other programs know this dtype in a safetensors file. */
bool safetensors_knows(unsigned dtype);
/* Parses hostile bytes: `bytes` are the first `len` bytes of a file of `file_bytes`
 * (a whole mapping, or at least the header).  CKPT_CORRUPT says what is wrong;
 * CKPT_UNSUPPORTED for an unknown dtype, CKPT_BAD_NAME for a name that no tensor
 * can have, CKPT_LIMIT for more dimensions than ours. */
enum ckpt_status safetensors_parse(const void *bytes, size_t len, uint64_t file_bytes,
                                   struct safetensors *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
void safetensors_fini(struct safetensors *s);

/* Adds a tensor behind the ones that are there (sets begin and bytes) or a note; all is
 * copied.  CKPT_NO_MEMORY; CKPT_LIMIT for a size that ends within a byte or overflows. */
enum ckpt_status safetensors_add(struct safetensors *s, const char *name, unsigned dtype,
                                 uint32_t ndim, const uint64_t *shape, struct ckpt_err *err)
    CKPT_MUST_CHECK;
enum ckpt_status safetensors_add_note(struct safetensors *s, const char *key, const char *value,
                                      struct ckpt_err *err) CKPT_MUST_CHECK;
/* Appends N and the padded JSON: what lies in front of the data.  Sets data_begin.
 * CKPT_LIMIT when the header would be larger than readers accept. */
enum ckpt_status safetensors_encode(struct safetensors *s, struct buf *out, struct ckpt_err *err)
    CKPT_MUST_CHECK;
