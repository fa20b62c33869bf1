/* Host memory as a device: copies happen at once in the calling thread, so every event
 * has happened as soon as it is recorded. */
#include "libckpt/gpu.h"

static enum ckpt_status host_pin(struct gpu *g, void *base, uint64_t bytes, struct ckpt_err *err)
{
    (void)g, (void)base, (void)bytes, (void)err;
    return CKPT_OK;
}

static void host_unpin(struct gpu *g, void *base, uint64_t bytes)
{
    (void)g, (void)base, (void)bytes;
}

static enum ckpt_status host_event_new(struct gpu *g, struct gpu_event **ret, struct ckpt_err *err)
{
    struct gpu_event *e = calloc(1, sizeof(*e));
    if (!e)
        return err_set(err, CKPT_NO_MEMORY, "out of memory");
    e->gpu = g;
    *ret = e;
    return CKPT_OK;
}

static void host_event_free(struct gpu_event *e)
{
    free(e);
}

static enum ckpt_status host_record(struct gpu *g, struct gpu_event *e, struct ckpt_err *err)
{
    (void)g, (void)e, (void)err;
    return CKPT_OK;
}

static enum ckpt_status host_record_user(struct gpu *g, struct gpu_event *e, void *user,
                                         struct ckpt_err *err)
{
    (void)g, (void)e;
    if (user)
        return err_set(err, CKPT_UNSUPPORTED,
                       "a stream was given, but this state lies in host memory: pass NULL");
    return CKPT_OK;
}

static enum ckpt_status host_wait(struct gpu *g, const struct gpu_event *e, struct ckpt_err *err)
{
    (void)g, (void)e, (void)err;
    return CKPT_OK;
}

static enum ckpt_status host_wait_user(struct gpu *g, void *user, const struct gpu_event *e,
                                       struct ckpt_err *err)
{
    (void)e;
    return host_record_user(g, NULL, user, err);
}

static enum ckpt_status host_query(const struct gpu_event *e, struct ckpt_err *err)
{
    (void)e, (void)err;
    return CKPT_OK;
}

static enum ckpt_status host_copy_out(struct gpu *g, void *slot, const struct box *what,
                                      unsigned bits, const struct box *held,
                                      const struct strided *tensor, struct ckpt_err *err)
{
    (void)g, (void)err;
    struct strided dense = dense_at(what, bits, slot);
    box_copy(what, bits, what, &dense, held, tensor);
    return CKPT_OK;
}

static enum ckpt_status host_copy_in(struct gpu *g, const void *slot, const struct box *what,
                                     unsigned bits, const struct box *held,
                                     const struct strided *tensor, struct ckpt_err *err)
{
    (void)g, (void)err;
    union { /* struct strided is also a destination, so its base is not const */
        const void *from;
        void *base;
    } u = { .from = slot };
    struct strided dense = dense_at(what, bits, u.base);
    box_copy(what, bits, held, tensor, what, &dense);
    return CKPT_OK;
}

static void host_free(struct gpu *g)
{
    (void)g;
}

static const struct gpu_ops host_ops = {
    .name = "host",
    .pin = host_pin,
    .unpin = host_unpin,
    .event_new = host_event_new,
    .event_free = host_event_free,
    .record = host_record,
    .record_user = host_record_user,
    .wait = host_wait,
    .wait_user = host_wait_user,
    .query = host_query,
    .copy_out = host_copy_out,
    .copy_in = host_copy_in,
    .free = host_free,
};

enum ckpt_status gpu_host_new(struct gpu **ret, struct ckpt_err *err)
{
    static struct gpu host = { .ops = &host_ops };
    (void)err;
    *ret = &host;
    return CKPT_OK;
}
