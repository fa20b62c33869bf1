/* A checkpoint as files that other programs read: safetensors, and objects as they were
 * given.
 *
 *   DIR/model.safetensors                    or, above the size limit,
 *   DIR/model-00001-of-00003.safetensors ... and model.safetensors.index.json
 *   DIR/objects/<name>
 *
 * Tensors of a dtype that safetensors does not have are U8 with a note
 * "ckpt.dtype.<name>" in the file's metadata; of tied tensors the file holds the one
 * that has the bytes, and a note <name> = <that one>, as safetensors' own writers do.
 *
 * With a layout, what one rank would hold: each tensor in the shape of the rank's array
 * (flat ranges are 1-D, padding is zeros), with a note "ckpt.shard.<name>" that says of what
 * shape it is a part and which boxes.  What the rank does not hold is not there. */
#pragma once

#include "formats/select.h"
#include "storage/repo/catalog.h"
#include "tools/layout_use.h"

#define EXPORT_FILE_BYTES UINT64_C(5000000000)

struct export_options {
    const char *dir;
    const char *glob;            /* NULL = all */
    const struct select *select; /* the same, with renames; speaks of the new names; NULL = all */
    unsigned dtype;          /* floating-point tensors are converted to it (convert.h); 0 = none */
    uint64_t file_bytes_max; /* 0 = EXPORT_FILE_BYTES; one tensor may be larger */
    bool force;
    const struct layout_option *layout; /* NULL = whole tensors */
    uint64_t rank;                      /* whose part, with a layout */
    /* May be NULL: bytes done and total. */
    void (*progress)(void *arg, uint64_t done, uint64_t total);
    void *progress_arg;
};
struct export_report {
    uint64_t tensors, ties, objects, bytes, files;
    uint64_t converted, overflowed; /* tensors; elements that the new type cannot hold */
};
/* CKPT_REFUSED: the directory is not empty; CKPT_NOT_FOUND: nothing matches; CKPT_INVALID:
 * two tensors under one new name (both named);
 * CKPT_CORRUPT: no copy has the right bytes.  Nothing is left in the directory then. */
enum ckpt_status export_checkpoint(struct store *s, const char *job, const struct ckpt_name *name,
                                   const struct export_options *o, struct export_report *ret,
                                   struct ckpt_err *err) CKPT_MUST_CHECK;
