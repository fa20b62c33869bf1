/* What the tests of libckpt share: a context on a scripted daemon, and a state with one of
 * everything (strided, sub-byte, volatile, two pieces, objects) whose bytes are known. */
#pragma once

#include <dirent.h>

#include "fakes/scripted_daemon.h"
#include "libckpt/ckpt.h"

#include "check.h"
#include "pattern.h"

#define FIX_TENSORS 6
#define FIX_BIG     (UINT64_C(5) << 20) /* floats: 20 MiB, three slots of 8 MiB */

struct fixture {
    struct fake_daemon *d;
    struct ckpt *c;
    struct ckpt_state *s;
    uint8_t *mem[FIX_TENSORS];
    struct ckpt_buffer buf[FIX_TENSORS];
};

static inline struct fake_script fix_script(void)
{
    return (struct fake_script){ .grants = UINT32_MAX };
}

/* Without fence audits, whose tests set CKPT_AUDIT themselves. */
static inline struct ckpt_open_opts fix_opts(const struct fake_daemon *d)
{
    setenv("CKPT_AUDIT", "0", 0);
    return (struct ckpt_open_opts){ .size = sizeof(struct ckpt_open_opts),
                                    .mode = CKPT_TRAIN,
                                    .job = "job",
                                    .socket = d ? fake_path(d) : NULL,
                                    .timeout_ms = 20000 };
}

/* A call that must fail with this status and with words that contain `word`. */
#define CHECK_FAILS(call, status, word)                                           \
    do {                                                                          \
        enum ckpt_status st_ = (call);                                            \
        if (st_ != (status) || !strstr(ckpt_error(), (word))) {                   \
            fprintf(stderr, "%s:%d: %s: %s, \"%s\"\n", __FILE__, __LINE__, #call, \
                    status_name(st_), ckpt_error());                              \
            exit(1);                                                              \
        }                                                                         \
    } while (0)

static inline void fix_declare(struct fixture *f, uint64_t big)
{
    const uint64_t shapes[4][2] = { { big, 0 }, { 6, 8 }, { 4, 64 }, { 10, 0 } };
    struct ckpt_tensor_desc t = { .size = sizeof(t) };
    struct ckpt_piece whole = { .len = { big }, .stride = { 1 } };
    t.name = "big", t.dtype = CKPT_F32, t.ndim = 1, t.shape = shapes[0];
    CHECK_OK(ckpt_tensor(f->s, &t, &whole, 1));
    /* Two pieces: the upper half column-major, the lower dense behind it. */
    struct ckpt_piece two[2] = {
        { .off = { 0, 0 }, .len = { 3, 8 }, .stride = { 1, 3 } },
        { .off = { 3, 0 }, .len = { 3, 8 }, .offset_bytes = 100, .stride = { 8, 1 } },
    };
    t.name = "two", t.dtype = CKPT_BF16, t.ndim = 2, t.shape = shapes[1];
    CHECK_OK(ckpt_tensor(f->s, &t, two, 2));
    struct ckpt_piece nibbles = { .len = { 4, 64 }, .offset_bytes = 1, .stride = { 80, 1 } };
    t.name = "four", t.dtype = CKPT_U4, t.ndim = 2, t.shape = shapes[2];
    CHECK_OK(ckpt_tensor(f->s, &t, &nibbles, 1));
    struct ckpt_piece vol = { .len = { 10 }, .stride = { 2 } };
    t.name = "vol", t.dtype = CKPT_F64, t.ndim = 1, t.shape = shapes[3], t.flags = CKPT_VOLATILE;
    CHECK_OK(ckpt_tensor(f->s, &t, &vol, 1));
    CHECK_OK(ckpt_object(f->s, "rng", 100, CKPT_OBJECT_RANK));
    CHECK_OK(ckpt_object(f->s, "cfg", 5000, CKPT_OBJECT_SHARED));
}

TEST_UNSEEN static inline void fix_pattern(void *to, uint64_t at, size_t n, const void *seed)
{
    uint8_t *b = to;
    for (uint64_t k = at; k < at + n; k++)
        b[k - at] = (uint8_t)((k * 31 + k / 251 + *(const unsigned *)seed) | 1);
}

static inline void fix_fill(struct fixture *f, unsigned seed)
{
    for (unsigned i = 0; i < FIX_TENSORS; i++)
        pattern_fill(f->mem[i], f->buf[i].bytes, fix_pattern, &(unsigned){ seed * 7 + i });
}

static inline void fix_buffers(struct fixture *f, uint64_t big)
{
    const uint64_t bytes[FIX_TENSORS] = { big * 4, 148, 1 + 3 * 40 + 32, 19 * 8, 77, 4000 };
    for (int i = 0; i < FIX_TENSORS; i++) {
        f->mem[i] = malloc(bytes[i]);
        CHECK(f->mem[i]);
        f->buf[i] = (struct ckpt_buffer){ .base = f->mem[i], .bytes = bytes[i] };
    }
    fix_fill(f, 1);
}

static inline void fix_open_with(struct fixture *f, const struct fake_script *s, uint64_t big)
{
    memset(f, 0, sizeof(*f));
    f->d = fake_start(NULL);
    fake_set(f->d, s);
    struct ckpt_open_opts o = fix_opts(f->d);
    CHECK_OK(ckpt_open(&o, &f->c));
    CHECK_OK(ckpt_state_new(f->c, &f->s));
    fix_declare(f, big);
    CHECK_OK(ckpt_seal(f->s, 20000));
    fix_buffers(f, big);
}

static inline void fix_open(struct fixture *f)
{
    struct fake_script s = fix_script();
    fix_open_with(f, &s, FIX_BIG);
}

static inline void fix_close(struct fixture *f)
{
    ckpt_close(f->c);
    fake_stop(f->d);
    for (int i = 0; i < FIX_TENSORS; i++)
        free(f->mem[i]);
}

static inline enum ckpt_status fix_save(struct fixture *f, uint64_t step, uint64_t *ret_op)
{
    struct ckpt_save_opts o = { .size = sizeof(o), .step = step };
    return ckpt_save(f->s, &o, f->buf, FIX_TENSORS, NULL, ret_op);
}

static inline struct ckpt_point fix_point(uint64_t step)
{
    return (struct ckpt_point){ sizeof(struct ckpt_point), step, 3, step };
}

/* Restores into other memory and compares what the pieces cover with fix_fill(seed). */
static inline void fix_compare(struct fixture *f, unsigned seed)
{
    struct ckpt_point p = fix_point(1);
    fix_fill(f, seed);
    uint8_t *want[FIX_TENSORS];
    for (int i = 0; i < FIX_TENSORS; i++) {
        want[i] = malloc(f->buf[i].bytes);
        memcpy(want[i], f->mem[i], f->buf[i].bytes);
    }
    fix_fill(f, seed + 1);
    CHECK_OK(ckpt_restore(f->s, &p, f->buf, FIX_TENSORS, NULL, NULL));
    CHECK(memcmp(f->mem[0], want[0], f->buf[0].bytes) == 0);
    CHECK(memcmp(f->mem[1], want[1], 48) == 0);
    CHECK(memcmp(f->mem[1] + 100, want[1] + 100, 48) == 0);
    CHECK(f->mem[1][60] != want[1][60]); /* between the pieces nothing is touched */
    for (int row = 0; row < 4; row++)
        CHECK(memcmp(f->mem[2] + 1 + row * 40, want[2] + 1 + row * 40, 32) == 0);
    CHECK(f->mem[2][0] != want[2][0] && f->mem[2][35] != want[2][35]);
    for (int k = 0; k < 10; k++)
        CHECK(memcmp(f->mem[3] + k * 16, want[3] + k * 16, 8) == 0);
    CHECK(f->mem[3][9] != want[3][9]);
    CHECK_EQ(f->buf[4].bytes, 77);
    CHECK_EQ(f->buf[5].bytes, 4000);
    CHECK(memcmp(f->mem[4], want[4], 77) == 0 && memcmp(f->mem[5], want[5], 4000) == 0);
    for (int i = 0; i < FIX_TENSORS; i++)
        free(want[i]);
}

static inline int fix_open_fds(void)
{
    int n = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}
