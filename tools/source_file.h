/* A safetensors file that somebody gave us: mapped, its header parsed. */
#pragma once

#include "formats/foreign/safetensors.h"

struct source_file {
    const char *path; /* borrowed; set by the caller */
    uint8_t *map;
    uint64_t bytes;
    struct safetensors s;
};
/* CKPT_INVALID, CKPT_CORRUPT: not such a file; the path stands in the words. */
enum ckpt_status source_file_open(struct source_file *f, struct ckpt_err *err) CKPT_MUST_CHECK;
void source_file_close(struct source_file *f);
/* The bytes of one of its tensors. */
static inline uint8_t *source_file_data(const struct source_file *f,
                                        const struct safetensors_tensor *t)
{
    return f->map + f->s.data_begin + t->begin;
}
