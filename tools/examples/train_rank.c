/* One rank of a data-parallel trainer.
 *
 * A step:  compute the own micro-batches          (a save may be copying the state meanwhile)
 *          barrier; reduce the own range of the gradients
 *          fence                                  (from here on the state changes)
 *          AdamW on the own range; exchange parameters; advance the loader
 *          save, if this step is to be saved
 *
 * The state to save is therefore: the parameters, which all ranks hold; the two moments of AdamW,
 * of which each holds a range; and the place of the loader. */
#include "tools/examples/train_rank.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/examples/train_adamw.h"
#include "tools/examples/train_ckpt.h"
#include "tools/examples/train_loss.h"

/* A checkpoint of another run must not be continued by accident: saved, and compared on resume. */
struct run_identity {
    uint64_t version, seed, text_digest;
    uint64_t context, width, heads, blocks, batch;
};

/* The loader of one micro-batch: where it is and what it has read.  It belongs to the micro-batch
 * and not to the rank that happens to compute it, so the number of ranks may change on resume. */
struct loader {
    uint64_t step, bytes_read, digest;
};

struct rank {
    const struct train_launch *launch;
    unsigned rank;
    struct group_range micro; /* the micro-batches computed here */
    struct model *model;
    struct adamw adamw;
    struct run_identity identity;
    struct loader loader[GROUP_MICRO_BATCHES];
    uint8_t *batch; /* the bytes of one micro-batch */
    struct train_ckpt_state state;
    struct train_ckpt *ckpt;
    FILE *losses; /* rank 0 only, NULL if not asked for */
    double started_s;
    uint64_t first_step;
    bool stopping; /* after this step */
};

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- the state, as checkpointing sees it --------------------------------------------------- */

static struct train_ckpt_tensor *next_tensor(struct rank *r, const char *prefix,
                                             const struct model_tensor *t)
{
    struct train_ckpt_tensor *out = &r->state.tensors[r->state.tensor_count++];
    snprintf(out->name, sizeof(out->name), "%s%s", prefix, t->name);
    out->dims = t->cols ? 2 : 1;
    out->shape[0] = t->rows;
    out->shape[1] = t->cols;
    return out;
}

static void declare_params(struct rank *r, const struct model_tensor *t)
{
    struct train_ckpt_tensor *out = next_tensor(r, "model.", t);
    out->replicated = true;
    out->count = t->count;
    out->data = r->model->params + t->first;
}

/* A moment has the shape of its parameter, but only the part in this rank's range lies here. */
static void declare_moment(struct rank *r, const char *prefix, float *moment,
                           const struct model_tensor *t)
{
    struct train_ckpt_tensor *out = next_tensor(r, prefix, t);
    struct group_range part = adamw_part_in(r->adamw.range, t);
    out->first = part.first;
    out->count = part.count;
    if (part.count)
        out->data = moment + (t->first + part.first - r->adamw.range.first);
}

static void declare_object(struct rank *r, const char *name, bool replicated, void *data,
                           size_t bytes)
{
    struct train_ckpt_object *out = &r->state.objects[r->state.object_count++];
    snprintf(out->name, sizeof(out->name), "%s", name);
    out->replicated = replicated;
    out->data = data;
    out->bytes = bytes;
}

static bool declare_state(struct rank *r)
{
    const struct model *m = r->model;
    r->state.tensors = calloc(3 * m->tensor_count, sizeof(*r->state.tensors));
    r->state.objects = calloc(1 + GROUP_MICRO_BATCHES, sizeof(*r->state.objects));
    if (!r->state.tensors || !r->state.objects)
        return false;
    for (size_t i = 0; i < m->tensor_count; i++) {
        declare_params(r, &m->tensors[i]);
        declare_moment(r, "adamw.mean.", r->adamw.mean, &m->tensors[i]);
        declare_moment(r, "adamw.square.", r->adamw.square, &m->tensors[i]);
    }
    declare_object(r, "run", true, &r->identity, sizeof(r->identity));
    for (size_t i = r->micro.first; i < r->micro.first + r->micro.count; i++) {
        char name[32];
        snprintf(name, sizeof(name), "loader.%zu", i);
        declare_object(r, name, false, &r->loader[i], sizeof(r->loader[i]));
    }
    return train_ckpt_declare(r->ckpt, &r->state);
}

/* Fills the state from the newest checkpoint and makes sure that it continues this very run. */
static bool resume(struct rank *r)
{
    struct run_identity expected = r->identity;
    uint64_t step = 0;
    if (!train_ckpt_resume(r->ckpt, &step))
        return false;
    if (memcmp(&expected, &r->identity, sizeof(expected)) != 0) {
        fprintf(stderr,
                "the checkpoint of step %llu is of a run with another seed, size or text; "
                "choose another --job\n",
                (unsigned long long)step);
        return false;
    }
    for (size_t i = r->micro.first; i < r->micro.first + r->micro.count; i++) {
        if (r->loader[i].step == step)
            continue;
        fprintf(stderr, "rank %u resumes at step %llu but loader %zu is at step %llu\n", r->rank,
                (unsigned long long)step, i, (unsigned long long)r->loader[i].step);
        return false;
    }
    r->first_step = step + 1;
    return true;
}

/* ---- a step -------------------------------------------------------------------------------- */

static size_t batch_bytes(const struct rank *r)
{
    return r->model->config.batch * (r->model->config.context + 1);
}

static void read_batch(struct rank *r, size_t micro, uint64_t step)
{
    struct model_config c = r->model->config;
    struct text_rows want = { r->launch->options->seed, step, micro * c.batch, c.batch,
                              c.context + 1 };
    text_read_train(r->launch->text, want, r->batch);
}

/* Writes loss and gradients of the own micro-batches to the shared memory; changes no state. */
static void compute_gradients(struct rank *r, uint64_t step)
{
    struct group *g = r->launch->group;
    for (size_t i = r->micro.first; i < r->micro.first + r->micro.count; i++) {
        float *gradients = group_gradients(g, i);
        memset(gradients, 0, g->param_count * sizeof(*gradients));
        read_batch(r, i, step);
        g->shared->loss[i] = model_forward(r->model, r->batch);
        model_backward(r->model, r->batch, gradients);
    }
}

static void advance_loaders(struct rank *r, uint64_t step)
{
    for (size_t i = r->micro.first; i < r->micro.first + r->micro.count; i++) {
        struct loader *l = &r->loader[i];
        read_batch(r, i, step);
        l->step = step;
        l->bytes_read += batch_bytes(r);
        l->digest = text_digest(l->digest, r->batch, batch_bytes(r));
    }
}

/* The loss on the held-out text: the same batches each time, shared out among the ranks. */
static double validate(struct rank *r)
{
    struct group *g = r->launch->group;
    struct model_config c = r->model->config;
    for (size_t i = r->rank; i < GROUP_VALID_BATCHES; i += g->world) {
        for (size_t row = 0; row < c.batch; row++)
            text_read_valid(r->launch->text, i * c.batch + row, GROUP_VALID_BATCHES * c.batch,
                            c.context + 1, r->batch + row * (c.context + 1));
        g->shared->valid_loss[i] = model_forward(r->model, r->batch);
    }
    group_barrier(g);
    return group_valid_loss(g);
}

/* True for every n-th step and, if there is an n at all, for the last one. */
static bool is_due(const struct rank *r, uint64_t step, uint64_t every)
{
    return every && (step % every == 0 || step == r->launch->options->steps);
}

static bool report(struct rank *r, uint64_t step, double loss)
{
    const struct train_options *o = r->launch->options;
    bool valid_due = is_due(r, step, o->valid_every);
    double valid = valid_due ? validate(r) : 0.0;
    if (r->rank != 0)
        return true;
    if (r->losses && !loss_add(r->losses, step, loss))
        return false;
    if (valid_due && !o->quiet) {
        double per_step = (now_s() - r->started_s) / (double)(step - r->first_step + 1);
        printf("step %5llu  loss %.4f  validation %.4f  %.3f s/step\n", (unsigned long long)step,
               loss, valid, per_step);
        fflush(stdout);
    }
    return true;
}

static bool train_step(struct rank *r, uint64_t step)
{
    struct group *g = r->launch->group;
    compute_gradients(r, step);
    if (step < r->launch->options->steps)
        group_stop_decide(g, r->rank);
    group_barrier(g);
    r->stopping = group_stopping(g);
    group_reduce(g, r->adamw.range, r->adamw.gradients);
    double loss = group_loss(g);

    train_ckpt_fence(r->ckpt);
    adamw_step(&r->adamw, r->model, step);
    group_gather_params(g, r->rank, r->model->params);
    advance_loaders(r, step);

    /* The line of a step is written before its save begins: a checkpoint never lacks one. */
    if (!report(r, step, loss))
        return false;
    uint64_t every = r->launch->options->save_every;
    if (is_due(r, step, every) || (every && r->stopping))
        train_ckpt_save(r->ckpt, step);
    train_ckpt_progress(r->ckpt, step);
    return true;
}

/* ---- start and end ------------------------------------------------------------------------- */

static struct run_identity identity_of(const struct train_launch *launch)
{
    struct model_config c = launch->options->config;
    return (struct run_identity){
        1,      launch->options->seed, launch->text->digest, c.context, c.width, c.heads, c.blocks,
        c.batch
    };
}

static bool start(struct rank *r)
{
    const struct train_options *o = r->launch->options;
    struct group *g = r->launch->group;
    r->identity = identity_of(r->launch);
    r->micro.first = (size_t)GROUP_MICRO_BATCHES * r->rank / g->world;
    r->micro.count = (size_t)GROUP_MICRO_BATCHES * (r->rank + 1) / g->world - r->micro.first;
    for (size_t i = 0; i < GROUP_MICRO_BATCHES; i++)
        r->loader[i].digest = TEXT_DIGEST_START;
    r->model = model_new(o->config);
    bool ok = r->model && adamw_init(&r->adamw, group_range_of(g, r->rank));
    r->batch = ok ? malloc(batch_bytes(r)) : NULL;
    if (!r->batch) {
        fprintf(stderr, "rank %u: out of memory\n", r->rank);
        return false;
    }
    model_init(r->model, o->seed);

    struct train_ckpt_options options = { o->job, o->store, r->launch->token, r->rank, g->world };
    if (!train_ckpt_open(&r->ckpt, &options) || !declare_state(r) || !resume(r))
        return false;
    if (r->rank != 0)
        return true;
    if (r->first_step > 1)
        printf("resumed after step %llu\n", (unsigned long long)(r->first_step - 1));
    fflush(stdout);
    if (o->loss_out)
        r->losses = loss_open(o->loss_out, r->first_step - 1);
    return r->losses || !o->loss_out;
}

static void summarize(struct rank *r)
{
    double valid = validate(r), unigram = text_unigram_entropy(r->launch->text);
    if (r->rank != 0)
        return;
    size_t bytes = r->model->param_count * sizeof(float);
    printf("validation loss %.4f nats per byte; best possible without context (unigram) %.4f\n",
           valid, unigram);
    printf("parameters %016llx\n",
           (unsigned long long)text_digest(TEXT_DIGEST_START, r->model->params, bytes));
    fflush(stdout);
}

static void finish(struct rank *r)
{
    if (r->losses)
        fclose(r->losses);
    free(r->state.tensors);
    free(r->state.objects);
    free(r->batch);
    adamw_fini(&r->adamw);
    model_free(r->model);
}

bool rank_run(const struct train_launch *launch, unsigned rank)
{
    struct rank r = { .launch = launch, .rank = rank };
    bool ok = start(&r);
    r.started_s = now_s();
    uint64_t step = r.first_step;
    for (; ok && !r.stopping && step <= launch->options->steps; step++)
        ok = train_step(&r, step);
    bool done = ok && step > launch->options->steps;
    if (done)
        summarize(&r);
    else if (ok && rank == 0)
        printf("stopped after step %llu\n", (unsigned long long)(step - 1));
    ok = train_ckpt_close(r.ckpt, done) && ok;
    finish(&r);
    return ok;
}
