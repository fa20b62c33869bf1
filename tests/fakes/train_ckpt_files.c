/* Checkpointing for the example trainer as it could be done in an afternoon: one file per tensor,
 * each rank writing its range, and a mark per rank.  Durable against nothing but SIGKILL; it
 * exists to prove, without the checkpoint library, that the trainer declares all of its state,
 * fences before it changes any of it, and resumes with any number of ranks.
 *
 * A save is taken as late as allowed, at the next fence: what changed before that is caught.
 * FAKE_KILL_STEP=n makes the last rank kill itself after step n. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/examples/train_ckpt.h"
#include "tools/examples/train_text.h"

enum { PATH_BYTES = 1024, STEPS_MAX = 1000 };

struct train_ckpt {
    struct train_ckpt_options options;
    const struct train_ckpt_state *state;
    uint64_t saving_step, digest; /* saving_step 0: none */
};

static void fail(const char *what)
{
    fprintf(stderr, "fake checkpoint: %s: %m\n", what);
    _exit(1);
}

static void path_of(const struct train_ckpt *c, uint64_t step, const char *name,
                    char path[static PATH_BYTES])
{
    snprintf(path, PATH_BYTES, "%s/%s.%llu/%s", c->options.store, c->options.job,
             (unsigned long long)step, name);
}

static void transfer(const char *path, bool write_it, void *data, size_t bytes, size_t at)
{
    int fd = open(path, write_it ? O_WRONLY | O_CREAT | O_CLOEXEC : O_RDONLY | O_CLOEXEC, 0666);
    ssize_t moved = -1;
    if (fd >= 0 && write_it)
        moved = pwrite(fd, data, bytes, (off_t)at);
    else if (fd >= 0)
        moved = pread(fd, data, bytes, (off_t)at);
    if (moved != (ssize_t)bytes)
        fail(path);
    close(fd);
}

static void transfer_state(const struct train_ckpt *c, uint64_t step, bool write_it)
{
    char path[PATH_BYTES];
    for (size_t i = 0; i < c->state->tensor_count; i++) {
        const struct train_ckpt_tensor *t = &c->state->tensors[i];
        path_of(c, step, t->name, path);
        if (t->count && (!write_it || !t->replicated || c->options.rank == 0))
            transfer(path, write_it, t->data, t->count * sizeof(float), t->first * sizeof(float));
    }
    for (size_t i = 0; i < c->state->object_count; i++) {
        const struct train_ckpt_object *o = &c->state->objects[i];
        path_of(c, step, o->name, path);
        if (!write_it || !o->replicated || c->options.rank == 0)
            transfer(path, write_it, o->data, o->bytes, 0);
    }
}

static uint64_t digest_state(const struct train_ckpt *c)
{
    uint64_t digest = TEXT_DIGEST_START;
    for (size_t i = 0; i < c->state->tensor_count; i++)
        digest = text_digest(digest, c->state->tensors[i].data,
                             c->state->tensors[i].count * sizeof(float));
    for (size_t i = 0; i < c->state->object_count; i++)
        digest = text_digest(digest, c->state->objects[i].data, c->state->objects[i].bytes);
    return digest;
}

bool train_ckpt_open(struct train_ckpt **ret, const struct train_ckpt_options *options)
{
    *ret = NULL;
    if (!options->store)
        return true;
    struct train_ckpt *c = calloc(1, sizeof(*c));
    if (!c)
        fail("open");
    c->options = *options;
    *ret = c;
    return true;
}

bool train_ckpt_declare(struct train_ckpt *c, const struct train_ckpt_state *state)
{
    if (c)
        c->state = state;
    return true;
}

/* A step counts when each rank of the world that saved it has left its mark. */
static bool is_complete(const struct train_ckpt *c, uint64_t step)
{
    char path[PATH_BYTES], name[32];
    unsigned world = 1;
    for (unsigned rank = 0; rank < world; rank++) {
        snprintf(name, sizeof(name), "mark.%u", rank);
        path_of(c, step, name, path);
        if (access(path, F_OK) != 0)
            return false;
        transfer(path, false, &world, sizeof(world), 0);
    }
    return true;
}

bool train_ckpt_resume(struct train_ckpt *c, uint64_t *ret_step)
{
    for (uint64_t step = STEPS_MAX; c && step > 0; step--) {
        if (!is_complete(c, step))
            continue;
        transfer_state(c, step, false);
        *ret_step = step;
        return true;
    }
    return true;
}

void train_ckpt_save(struct train_ckpt *c, uint64_t step)
{
    if (!c)
        return;
    c->saving_step = step;
    c->digest = digest_state(c);
}

void train_ckpt_fence(struct train_ckpt *c)
{
    char path[PATH_BYTES], mark[32];
    if (!c || !c->saving_step)
        return;
    if (digest_state(c) != c->digest) {
        fprintf(stderr, "fake checkpoint: the state changed before the fence\n");
        _exit(1);
    }
    path_of(c, c->saving_step, "", path);
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
        fail(path);
    transfer_state(c, c->saving_step, true);
    snprintf(mark, sizeof(mark), "mark.%u", c->options.rank);
    path_of(c, c->saving_step, mark, path);
    transfer(path, true, &c->options.world, sizeof(c->options.world), 0);
    c->saving_step = 0;
}

void train_ckpt_progress(struct train_ckpt *c, uint64_t step)
{
    const char *kill_step = getenv("FAKE_KILL_STEP");
    if (c && kill_step && strtoull(kill_step, NULL, 10) == step &&
        c->options.rank == c->options.world - 1)
        raise(SIGKILL);
}

bool train_ckpt_close(struct train_ckpt *c, bool finished)
{
    (void)finished;
    train_ckpt_fence(c);
    free(c);
    return true;
}
