/* What the end-to-end tests share: a ckptd of its own on a temporary directory, ranks that
 * are forked processes on the public API, states whose every element is known, and a look
 * into the store by the engine. */
#pragma once

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>

#include "formats/key.h"
#include "libckpt/ckpt.h"

#include "check.h"

#define KIT_RANKS  8
#define KIT_STAGES 16

/* -- the daemon ---------------------------------------------------------------- */

struct kit {
    char root[64], store[96], socket[96], log[96];
    pid_t keeper;
    uint32_t launches;
    long cases, kills;
    /* of the next ckptd that is started; NULL = as it is by itself */
    const char *io, *codec, *preload, *slot_bytes;
    const char *more[16]; /* arguments, NULL behind the last */
};
extern struct kit kit;
/* A file that the test was built with, or the one of a variable where tests were moved. */
const char *kit_file(const char *variable, const char *built);

void kit_begin(const char *name); /* makes the directory, starts ckptd */
int kit_end(void);                /* stops, removes, prints and checks the counts */
int kit_remove(void);             /* the same, ckptd is stopped already */
void kit_start(void);
int kit_stop(void); /* SIGTERM; its exit status */
pid_t kit_worker(void);
void kit_kill(pid_t pid, int sig);
void kit_pause(long ms);
/* How often, and whether, ckptd's log has this text. */
int kit_logged_times(const char *text);
bool kit_logged(const char *text);

/* -- ranks ------------------------------------------------------------------------ */

/* Shared by the ranks of one launch and the test. */
struct kit_board {
    atomic_int stage[KIT_STAGES];
    atomic_ullong value[KIT_STAGES];
};

/* How a tensor is cut among the ranks. */
enum kit_how { KIT_ROWS, KIT_COLS, KIT_FLAT, KIT_SAME, KIT_FIRST, KIT_LAST };
struct kit_part {
    const char *name;
    uint32_t dtype, ndim;
    uint64_t shape[4];
    enum kit_how how;
    uint32_t kind, flags, block[4];
    const char *alias;
    bool object; /* shape[0] = capacity, shape[1] = length saved */
    enum ckpt_object_scope scope;
};
struct kit_part_memory {
    struct ckpt_piece *pieces;
    size_t piece_count;
};

struct kit_rank {
    uint32_t rank, world;
    const char *job;
    char token[80];
    struct kit_board *board;
    const void *arg;
    /* of the open context: */
    struct ckpt *c;
    struct ckpt_state *s;
    struct ckpt_point point; /* size 0: none */
    const struct kit_part *parts;
    struct kit_part_memory *memory;
    struct ckpt_buffer *buffers;
    size_t count;
    uint64_t arena_bytes;
};
typedef void (*kit_body)(struct kit_rank *r);

struct kit_crowd {
    pid_t pid[KIT_RANKS];
    uint32_t world;
    struct kit_board *board;
};
/* Forks `world` ranks, each runs the body and exits 0. */
void kit_ranks(struct kit_crowd *w, const char *job, uint32_t world, kit_body body,
               const void *arg);
/* All must end well, but for those in `killed` (a bit each), which must have died by SIGKILL. */
void kit_wait(struct kit_crowd *w, uint32_t killed);
void kit_reap(struct kit_crowd *w, uint32_t killed); /* the same, but the board stays mapped */
void kit_run(const char *job, uint32_t world, kit_body body, const void *arg);

void kit_reach(struct kit_board *b, int stage);
/* Waits until `n` have reached the stage; the test fails after half a minute. */
void kit_await(struct kit_board *b, int stage, int n);
/* All ranks meet here. */
void kit_meet(struct kit_rank *r, int stage);

/* -- inside a rank ------------------------------------------------------------------- */

/* A call that must end with this status and words that contain `word`. */
#define KIT_FAILS(call, status, word)                                                     \
    do {                                                                                  \
        enum ckpt_status st_ = (call);                                                    \
        if (st_ != (status) || !strstr(ckpt_error(), (word))) {                           \
            fprintf(stderr, "%s:%d: %s: %s, \"%s\"; expected %s with \"%s\"\n", __FILE__, \
                    __LINE__, #call, ckpt_status_name(st_), ckpt_error(),                 \
                    ckpt_status_name(status), (word));                                    \
            exit(1);                                                                      \
        }                                                                                 \
    } while (0)
#define KIT_OK(call)                                                              \
    do {                                                                          \
        enum ckpt_status st_ = (call);                                            \
        if (st_ != CKPT_OK) {                                                     \
            fprintf(stderr, "%s:%d: %s: %s, \"%s\"\n", __FILE__, __LINE__, #call, \
                    ckpt_status_name(st_), ckpt_error());                         \
            exit(1);                                                              \
        }                                                                         \
    } while (0)

struct ckpt_open_opts kit_opts(const struct kit_rank *r);
/* Opens with kit_opts; r->point tells where to resume. */
void kit_open(struct kit_rank *r);
void kit_open_with(struct kit_rank *r, const struct ckpt_open_opts *o);
/* A new state of these parts, sealed, with memory. */
void kit_declare(struct kit_rank *r, const struct kit_part *parts, size_t count);
/* The same in steps: declared and given memory, not sealed. */
enum ckpt_status kit_declare_part(struct kit_rank *r, const struct kit_part *p,
                                  struct kit_part_memory *m, uint64_t *ret_bytes);
void kit_forget(struct kit_rank *r); /* frees the state and its memory */
void kit_close(struct kit_rank *r);

/* Every byte of the buffers as of `step`, and whether it is so. */
void kit_fill(struct kit_rank *r, uint64_t step);
void kit_scribble(struct kit_rank *r);
bool kit_part_is(const struct kit_rank *r, size_t part, uint64_t step);
void kit_check(const struct kit_rank *r, uint64_t step);

/* Fills and saves; does not wait. */
enum ckpt_status kit_save(struct kit_rank *r, uint64_t step, uint64_t *ret_op);
enum ckpt_status kit_save_with(struct kit_rank *r, const struct ckpt_save_opts *o,
                               uint64_t *ret_op);
/* Fills, saves and waits for local. */
enum ckpt_status kit_save_local(struct kit_rank *r, uint64_t step);
/* Scribbles, restores the launch's point and checks every byte against its step. */
void kit_restore(struct kit_rank *r);

/* -- the store --------------------------------------------------------------------- */

/* What kit_verify and the others look into; kit.store if it was not set. */
void kit_look_into(const char *store);
/* Verifies every commit of the job whole; how many there are.  newest: the highest step. */
size_t kit_verify(const char *job, uint64_t newest);
bool kit_committed(const char *job, uint64_t step);
/* Flips a byte in the middle of the first pack that a rank wrote for a step. */
void kit_damage(const char *job, uint64_t step);
