/* One fixed sample of every kind of object, for golden bytes and hostile tests. */
#pragma once

#include "formats/cursor.h"
#include "formats/pack.h"
#include "formats/record.h"

#define SAMPLE_JOB "llama-70b.run_7"

struct sample {
    const char *file; /* name under tests/golden/v1/ */
    const char *key;  /* the key it lies under */
    void (*encode)(struct buf *out);
    /* Decodes bytes read under `key`; compares what it got with the sample when `compare`. */
    enum ckpt_status (*decode)(const void *bytes, size_t len, const char *key, bool compare);
    bool exact; /* today's encoder gives these very bytes (zstd's output may vary) */
};

#define SAMPLE_RECORDS 14 /* the first of them are records, then come packs */
#define SAMPLES        17
const struct sample *sample_at(unsigned i);

/* The raw bytes of chunk `i` of the sample packs, malloc'ed; their size in *ret_bytes. */
#define SAMPLE_CHUNKS 4
uint8_t *sample_chunk(unsigned i, uint32_t *ret_bytes);
