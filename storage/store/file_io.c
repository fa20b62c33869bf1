/* Chooses the engine behind file_io.h, and says why. */
#include "storage/store/file_io.h"

#include <stdio.h>

typedef enum ckpt_status (*file_io_maker)(const char *engine, struct file_io **ret,
                                          struct ckpt_err *err);
static _Atomic(file_io_maker) test_maker;

void file_io_set_maker(enum ckpt_status (*maker)(const char *engine, struct file_io **ret,
                                                 struct ckpt_err *err))
{
    atomic_store(&test_maker, maker);
}

static enum ckpt_status threads_new(const char *why, struct file_io **ret, struct ckpt_err *err)
{
    enum ckpt_status st = file_io_threads_new(ret, err);
    if (st == CKPT_OK)
        snprintf((*ret)->why, sizeof((*ret)->why), "%s", why);
    return st;
}

enum ckpt_status file_io_new(const char *engine, struct file_io **ret, struct ckpt_err *err)
{
    file_io_maker maker = atomic_load(&test_maker);
    if (!engine)
        engine = "auto";
    if (maker)
        return maker(engine, ret, err);
    if (strcmp(engine, "threads") == 0 || strcmp(engine, "auto") == 0)
        return threads_new("asked for", ret, err);
    return err_set(err, CKPT_INVALID, "no I/O engine \"%s\": use auto, uring or threads", engine);
}

void file_io_free(struct file_io *io)
{
    if (io)
        io->ops->free(io);
}
