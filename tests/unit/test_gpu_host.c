/* Host memory behind the device interface: copies are done at once, streams of a user are
 * refused, and the library copies through any strides both ways. */
#include "fakes/lib_fixture.h"
#include "libckpt/gpu.h"

int main(void)
{
    uint64_t slice_max = UINT64_C(1) << 30; /* larger ones stall devices for seconds */
    struct gpu *g = NULL;
    struct gpu_event *e = NULL;
    CHECK(GPU_PIN_SLICE <= slice_max);
    struct ckpt_err err = { 0 };
    float tensor[12], slot[4] = { 0 }, back[12] = { 0 };
    struct box held = { .ndim = 2, .len = { 3, 4 } };
    struct box what = { .ndim = 2, .off = { 1, 1 }, .len = { 2, 2 } };
    for (int i = 0; i < 12; i++)
        tensor[i] = (float)i;
    CHECK_OK(gpu_host_new(&g, &err));
    CHECK_STR(g->ops->name, "host");
    CHECK_OK(g->ops->pin(g, slot, sizeof(slot), &err));
    CHECK_OK(g->ops->event_new(g, &e, &err));
    struct strided from = dense_at(&held, 32, tensor), to = dense_at(&held, 32, back);
    CHECK_OK(g->ops->copy_out(g, slot, &what, 32, &held, &from, &err));
    CHECK(slot[0] == 5 && slot[1] == 6 && slot[2] == 9 && slot[3] == 10);
    CHECK_OK(g->ops->copy_in(g, slot, &what, 32, &held, &to, &err));
    for (int i = 0; i < 12; i++)
        CHECK(back[i] == (i == 5 || i == 6 || i == 9 || i == 10 ? (float)i : 0));
    CHECK_OK(g->ops->record(g, e, &err));
    CHECK_OK(g->ops->wait(g, e, &err));
    CHECK_OK(g->ops->query(e, &err));
    CHECK_OK(g->ops->record_user(g, e, NULL, &err));
    CHECK_OK(g->ops->wait_user(g, NULL, e, &err));
    CHECK_EQ(g->ops->record_user(g, e, tensor, &err), CKPT_UNSUPPORTED);
    CHECK(strstr(err.text, "pass NULL"));
    g->ops->event_free(e);
    g->ops->unpin(g, slot, sizeof(slot));
    g->ops->free(g);
    TEST_CASES(12);
    return 0;
}
