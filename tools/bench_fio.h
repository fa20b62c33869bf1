/* fio as the yardstick: the same bytes in the same number of files in the same directory,
 * O_DIRECT, fsync at the end. */
#pragma once

#include "formats/base.h"

struct bench_fio {
    const char *dir; /* for its files; exists */
    uint64_t file_bytes;
    unsigned files;
    unsigned depth;  /* 0 = not chosen yet */
    char line[1024]; /* the last command, for the method */
};
enum bench_fio_op {
    BENCH_WRITE,     /* over the files of the run before, in place: what no store may do */
    BENCH_WRITE_NEW, /* into new files */
    BENCH_READ,
};

/* True if a fio is there that can do it. */
bool bench_fio_there(void);
/* Bytes a second of one run.  Reads need files that a write has left. */
enum ckpt_status bench_fio_run(struct bench_fio *f, enum bench_fio_op op, double *ret_rate,
                               struct ckpt_err *err) CKPT_MUST_CHECK;
/* The rate in fio's JSON answer (hostile only in that fio may say anything); 0 if none. */
double bench_fio_parse(const char *text, size_t len, enum bench_fio_op op);
