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

/* io_uring if the kernel lets us, else threads, with the kernel's answer. */
static enum ckpt_status auto_new(struct file_io **ret, struct ckpt_err *err)
{
    struct ckpt_err refused = { 0 };
    if (file_io_uring_new(ret, &refused) == CKPT_OK) {
        snprintf((*ret)->why, sizeof((*ret)->why), "the kernel has it");
        return CKPT_OK;
    }
    enum ckpt_status st = file_io_threads_new(ret, err);
    if (st == CKPT_OK)
        snprintf((*ret)->why, sizeof((*ret)->why), "%.100s", err_text(&refused));
    return st;
}

enum ckpt_status file_io_new(const char *engine, struct file_io **ret, struct ckpt_err *err)
{
    file_io_maker maker = atomic_load(&test_maker);
    if (!engine)
        engine = "auto";
    if (maker)
        return maker(engine, ret, err);
    if (strcmp(engine, "auto") == 0)
        return auto_new(ret, err);
    if (strcmp(engine, "threads") == 0)
        return file_io_threads_new(ret, err);
    if (strcmp(engine, "uring") != 0)
        return err_set(err, CKPT_INVALID, "no I/O engine \"%s\": use auto, uring or threads",
                       engine);
    enum ckpt_status st = file_io_uring_new(ret, err);
    if (st == CKPT_UNSUPPORTED && err)
        err_prefix(err, "io engine \"uring\" (use threads, or allow io_uring_setup, _enter and "
                        "_register in the seccomp profile and kernel.io_uring_disabled = 0)");
    return st;
}

void file_io_free(struct file_io *io)
{
    if (io)
        io->ops->free(io);
}
