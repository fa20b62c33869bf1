/* Who holds what: drawings of all tensors of a checkpoint, as they were saved or as a
 * topology would deal them out.  Tensors that look alike but for numbers in their names are
 * drawn once. */
#pragma once

#include "tools/layout_use.h"

struct show_layout {
    struct reader *reader;
    const struct layout_option *target; /* NULL = as saved */
    const char *glob;                   /* NULL = all tensors */
    const char *title;                  /* "gpt@20" */
    const char *svg;                    /* NULL = text to stdout; else this file is written, too */
};
/* *ret_matched: tensors that the pattern chose. */
enum ckpt_status show_layout(const struct show_layout *s, uint64_t *ret_matched,
                             struct ckpt_err *err) CKPT_MUST_CHECK;
