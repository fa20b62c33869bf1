/* The trainer's checkpoints, on the public API of libckpt: declare once, then fence before
 * each change and save after it. */
#include "tools/examples/train_ckpt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libckpt/ckpt.h"

#define OPEN_MS    120000
#define DURABLE_MS 120000
#define PIECES_MAX 8 /* a flat range of a matrix is at most 3 boxes */

struct train_ckpt {
    struct ckpt *context;
    struct ckpt_state *state;
    struct ckpt_buffer *buffers; /* one for each tensor, then one for each object */
    size_t count;
    unsigned rank, world;
    uint64_t last_op; /* 0 = nothing saved */
    uint64_t last_step;
};

/* Says what failed; always false, so that a caller can return it. */
static bool failed(const struct train_ckpt *c, const char *what)
{
    fprintf(stderr, "rank %u: %s: %s\n", c->rank, what, ckpt_error());
    return false;
}

bool train_ckpt_open(struct train_ckpt **ret, const struct train_ckpt_options *options)
{
    if (!options->store) {
        *ret = NULL;
        return true;
    }
    struct train_ckpt *c = calloc(1, sizeof(*c));
    if (!c)
        return false;
    c->rank = options->rank;
    c->world = options->world;
    struct ckpt_open_opts open = {
        .size = sizeof(open),
        .mode = CKPT_TRAIN,
        .job = options->job,
        .store = options->store,
        .rank = options->rank,
        .world = options->world,
        .launch = options->launch,
        .timeout_ms = OPEN_MS,
    };
    if (ckpt_open(&open, &c->context) != CKPT_OK) {
        failed(c, "opening the checkpoint store");
        free(c);
        return false;
    }
    *ret = c;
    return true;
}

/* A tensor that every rank holds whole: rank r is replica r of them. */
static size_t whole_piece(const struct train_ckpt *c, const struct train_ckpt_tensor *t,
                          struct ckpt_piece *piece)
{
    memset(piece, 0, sizeof(*piece));
    for (unsigned d = 0; d < t->dims; d++)
        piece->len[d] = t->shape[d];
    piece->stride[t->dims - 1] = 1;
    if (t->dims == 2)
        piece->stride[0] = (int64_t)t->shape[1];
    piece->replica = c->rank;
    piece->replica_count = c->world;
    return 1;
}

/* The elements [first, first + count) of a tensor, as boxes. */
static bool flat_pieces(const struct train_ckpt_tensor *t, struct ckpt_piece *pieces,
                        size_t *ret_count)
{
    struct ckpt_piece whole = { 0 };
    for (unsigned d = 0; d < t->dims; d++)
        whole.len[d] = t->shape[d];
    struct ckpt_flat flat = { .ndim = t->dims,
                              .dtype = CKPT_F32,
                              .boxes = &whole,
                              .box_count = 1,
                              .start = t->first,
                              .count = t->count };
    return ckpt_flat_pieces(&flat, pieces, PIECES_MAX, ret_count) == CKPT_OK;
}

static bool declare_tensor(struct train_ckpt *c, const struct train_ckpt_tensor *t)
{
    struct ckpt_piece pieces[PIECES_MAX];
    size_t count = 0;
    struct ckpt_tensor_desc desc = {
        .size = sizeof(desc), .name = t->name, .dtype = CKPT_F32, .ndim = t->dims, .shape = t->shape
    };
    if (t->replicated)
        count = whole_piece(c, t, pieces);
    else if (!flat_pieces(t, pieces, &count))
        return failed(c, t->name);
    if (ckpt_tensor(c->state, &desc, pieces, count) != CKPT_OK)
        return failed(c, t->name);
    uint64_t elements = t->replicated ? t->shape[0] * (t->dims == 2 ? t->shape[1] : 1) : t->count;
    c->buffers[c->count++] =
        (struct ckpt_buffer){ .base = t->data, .bytes = elements * sizeof(float) };
    return true;
}

static bool declare_object(struct train_ckpt *c, const struct train_ckpt_object *o)
{
    enum ckpt_object_scope scope = o->replicated ? CKPT_OBJECT_SHARED : CKPT_OBJECT_SOLE;
    if (ckpt_object(c->state, o->name, o->bytes, scope) != CKPT_OK)
        return failed(c, o->name);
    c->buffers[c->count++] = (struct ckpt_buffer){ .base = o->data, .bytes = o->bytes };
    return true;
}

bool train_ckpt_declare(struct train_ckpt *c, const struct train_ckpt_state *state)
{
    if (!c)
        return true;
    if (ckpt_state_new(c->context, &c->state) != CKPT_OK)
        return failed(c, "declaring the state");
    c->buffers = calloc(state->tensor_count + state->object_count + 1, sizeof(*c->buffers));
    if (!c->buffers)
        return false;
    for (size_t i = 0; i < state->tensor_count; i++)
        if (!declare_tensor(c, &state->tensors[i]))
            return false;
    for (size_t i = 0; i < state->object_count; i++)
        if (!declare_object(c, &state->objects[i]))
            return false;
    return ckpt_seal(c->state, OPEN_MS) == CKPT_OK || failed(c, "sealing the state");
}

/* A renamed tensor or a forgotten one must not go unseen. */
static void report_gaps(const struct train_ckpt *c)
{
    struct ckpt_info info = { .size = sizeof(info) };
    if (ckpt_info(c->context, &info) != CKPT_OK)
        return;
    if (info.restore_missing)
        fprintf(stderr, "rank %u: %u tensors or objects were not in the checkpoint\n", c->rank,
                info.restore_missing);
    if (info.restore_unasked && info.restore_unasked != UINT32_MAX && c->rank == 0)
        fprintf(stderr, "%u tensors or objects of the checkpoint were not asked for\n",
                info.restore_unasked);
}

bool train_ckpt_resume(struct train_ckpt *c, uint64_t *ret_step)
{
    if (!c)
        return true;
    struct ckpt_point point = { .size = sizeof(point) };
    enum ckpt_status st = ckpt_resume(c->context, &point);
    if (st == CKPT_NOT_FOUND)
        return true;
    if (st == CKPT_OK)
        st = ckpt_restore(c->state, NULL, c->buffers, c->count, NULL, NULL);
    if (st != CKPT_OK)
        return failed(c, "restoring the newest checkpoint");
    report_gaps(c);
    *ret_step = point.step;
    return true;
}

void train_ckpt_save(struct train_ckpt *c, uint64_t step)
{
    if (!c)
        return;
    struct ckpt_save_opts save = { .size = sizeof(save), .step = step };
    uint64_t op;
    if (ckpt_save(c->state, &save, c->buffers, c->count, NULL, &op) == CKPT_OK) {
        c->last_op = op;
        c->last_step = step;
    } else {
        failed(c, "save (training goes on)");
    }
}

void train_ckpt_fence(struct train_ckpt *c)
{
    if (c && ckpt_fence(c->state, DURABLE_MS) != CKPT_OK)
        failed(c, "fence");
}

void train_ckpt_progress(struct train_ckpt *c, uint64_t step)
{
    if (c && ckpt_progress(c->context, step) != CKPT_OK)
        failed(c, "progress");
}

bool train_ckpt_close(struct train_ckpt *c, bool finished)
{
    bool ok = true;
    if (!c)
        return true;
    if (c->last_op && ckpt_wait(c->context, c->last_op, CKPT_LEVEL_LOCAL, DURABLE_MS) != CKPT_OK)
        ok = failed(c, "the last save");
    if (finished) /* or starting a finished run again and again would look like crashes */
        train_ckpt_progress(c, CKPT_FINISHED);
    ckpt_close(c->context);
    free(c->buffers);
    free(c);
    return ok;
}
