/* What every file needs: cleanup attributes, small arithmetic, the error text.
 * Header-only except for err.c; no state. */
#pragma once

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/status.h"

#define CKPT_MUST_CHECK   __attribute__((warn_unused_result))
#define CKPT_PRINTF(f, a) __attribute__((format(printf, f, a)))
#define ARRAY_COUNT(a)    (sizeof(a) / sizeof((a)[0]))

#define KIB (UINT64_C(1) << 10)
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define TIB (UINT64_C(1) << 40)

/* Limits that more than one module states (documented in FORMAT.md). */
#define CKPT_DIMS_MAX         16
#define CKPT_TENSOR_NAME_MAX  1024 /* bytes of UTF-8 */
#define CKPT_JOB_NAME_MAX     128  /* also tags */
#define CKPT_RANKS_MAX        (UINT32_C(1) << 20)
#define CKPT_TENSORS_MAX      (UINT32_C(1) << 24)
#define CKPT_CHUNK_BYTES_MAX  (UINT64_C(4) << 20)
#define CKPT_SLOT_BYTES_MIN   (UINT64_C(8) << 20)
#define CKPT_SLOT_BYTES_MAX   (UINT64_C(128) << 20)
#define CKPT_SLOT_BYTES       (UINT64_C(32) << 20)
#define CKPT_PACK_CHUNKS_MAX  16384
#define CKPT_OBJECT_BYTES_MAX (UINT64_C(1) << 40)
#define CKPT_BLOCK            UINT64_C(4096) /* alignment of direct I/O */

static inline void base_free_ptr(void *pp)
{
    free(*(void **)pp);
}
static inline void base_close_fd(const int *fd)
{
    if (*fd >= 0)
        close(*fd);
}
/* Local variables that clean themselves up. */
#define CLEANUP_FREE __attribute__((cleanup(base_free_ptr)))
#define CLEANUP_FD   __attribute__((cleanup(base_close_fd)))
/* Hands a pointer (or fd) over to the caller: the variable forgets it. */
#define TAKE_PTR(p)                 \
    ({                              \
        __typeof__(p) taken_ = (p); \
        (p) = NULL;                 \
        taken_;                     \
    })
#define TAKE_FD(fd)        \
    ({                     \
        int taken_ = (fd); \
        (fd) = -1;         \
        taken_;            \
    })

static inline uint64_t align_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}
static inline uint64_t div_up(uint64_t n, uint64_t by)
{
    return n / by + (n % by != 0);
}
static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}
static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Room for one more element of `size` bytes in a malloc'ed array that doubles; false, and
 * nothing changed, when out of memory. */
static inline bool array_room(void **array, size_t count, size_t *cap, size_t size)
{
    if (count < *cap)
        return true;
    size_t wanted = *cap ? *cap * 2 : 16;
    void *more = reallocarray(*array, wanted, size);
    if (!more)
        return false;
    *array = more;
    *cap = wanted;
    return true;
}

/* Words for people, filled once, where the error is found:
 * what failed, on what, what to do.  Owned by the operation, no allocation. */
struct ckpt_err {
    enum ckpt_status status;
    char text[1024];
};

/* Fills `err` (may be NULL) and returns `st`, so that a check is one line:
 *     return err_set(err, CKPT_BAD_NAME, "job name \"%s\" ...", name);
 * An err that is already filled keeps its first text. */
enum ckpt_status err_set(struct ckpt_err *err, enum ckpt_status st, const char *fmt, ...)
    CKPT_PRINTF(3, 4);
/* The same with ": <strerror>" appended and the status derived from `errnum`
 * (ENOSPC, EDQUOT -> FULL; EACCES, EPERM, EROFS -> DENIED; ENOMEM -> NO_MEMORY;
 * ENOENT -> NOT_FOUND; ETIMEDOUT -> TIMEOUT; ECONNREFUSED and the like ->
 * UNREACHABLE; anything else -> IO). */
enum ckpt_status err_errno(struct ckpt_err *err, int errnum, const char *fmt, ...)
    CKPT_PRINTF(3, 4);
/* Replaces the text with "<prefix>: <text>" (context added on the way up). */
void err_prefix(struct ckpt_err *err, const char *fmt, ...) CKPT_PRINTF(2, 3);
/* The text, or the status's sentence when none was given.  Never NULL. */
const char *err_text(const struct ckpt_err *err);
