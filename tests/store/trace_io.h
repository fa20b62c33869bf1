/* An engine over the threads engine that writes down what is done, and can make
 * the n-th operation of a kind fail.  Put in place with file_io_set_maker. */
#pragma once

#include "storage/store/file_io.h"

struct trace {
    char text[16384]; /* "open mkdir fsync ..." one word an operation, with the name's last part */
    const char *fail; /* operation to fail ("fdatasync", "open!" = opens with O_DIRECT) */
    int fail_from, fail_count; /* calls fail_from .. fail_from + fail_count - 1, from 0 */
    int error;                 /* negative errno */
    int seen;                  /* calls of that operation */
};
extern struct trace trace; /* one test, one thread */

/* Clears the trace and says what to fail (NULL = nothing). */
void trace_reset(const char *fail, int from, int count, int error);
enum ckpt_status trace_maker(const char *engine, struct file_io **ret, struct ckpt_err *err);
