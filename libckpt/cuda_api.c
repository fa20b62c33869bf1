/* See cuda_api.h. */
#include "libckpt/cuda_api.h"

#include <dlfcn.h>
#include <stdio.h>

#include "libckpt/dynlib.h"

#define OLDEST 12000
#define BATCH  12080

static const char *take_all(void *lib, struct cuda_api *api)
{
#define CUDA_TAKE(name, params)                      \
    if (!dynlib_take(lib, "cuda" #name, &api->name)) \
        return "cuda" #name;
    CUDA_FUNCTIONS(CUDA_TAKE)
#undef CUDA_TAKE
    if (!dynlib_take(lib, "cudaGetErrorName", &api->GetErrorName))
        return "cudaGetErrorName";
    if (!dynlib_take(lib, "cudaGetErrorString", &api->GetErrorString))
        return "cudaGetErrorString";
    return NULL;
}

/* The driver's own, if the process has the driver; the runtime has no such question. */
static void take_driver(void *runtime, struct cuda_api *api)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
    void *from = driver ? driver : runtime;
    (void)dynlib_take(from, "cuCtxGetCurrent", &api->CtxGetCurrent);
    (void)dynlib_take(from, "cuDevicePrimaryCtxGetState", &api->DevicePrimaryCtxGetState);
    (void)dynlib_take(from, "cuPointerGetAttributes", &api->PointerGetAttributes);
}

/* Fills *ret from one library. */
static enum ckpt_status take_runtime(void *lib, const char *from, struct cuda_api *ret,
                                     struct ckpt_err *err)
{
    struct cuda_api api = { 0 };
    snprintf(api.from, sizeof(api.from), "%s", from);
    const char *missing = take_all(lib, &api);
    if (missing)
        return err_set(err, CKPT_UNSUPPORTED, "the CUDA runtime %.200s has no %s", from, missing);
    if (api.RuntimeGetVersion(&api.runtime_version) != CUDA_SUCCESS || api.runtime_version < OLDEST)
        return err_set(err, CKPT_UNSUPPORTED, "the CUDA runtime %.200s is older than CUDA 12",
                       from);
    if (api.DriverGetVersion(&api.driver_version) != CUDA_SUCCESS)
        api.driver_version = 0;
    if (api.runtime_version >= 13000)
        (void)dynlib_take(lib, "cudaMemcpyBatchAsync", &api.MemcpyBatch13);
    else if (api.runtime_version >= BATCH)
        (void)dynlib_take(lib, "cudaMemcpyBatchAsync", &api.MemcpyBatch12);
    take_driver(lib, &api);
    *ret = api;
    return CKPT_OK;
}

/* A driver serves runtimes of its own major version and of older ones. */
static bool too_new(const struct cuda_api *api)
{
    return api->driver_version && api->driver_version / 1000 < api->runtime_version / 1000;
}

enum ckpt_status cuda_api_load(struct cuda_api *ret, struct ckpt_err *err)
{
    static const char *const names[] = { "libcudart.so.13", "libcudart.so.12" };
    struct dynlib_wish wish = {
        .variable = "CKPT_CUDART",
        .function = "cudaRuntimeGetVersion",
        .names = names,
        .count = ARRAY_COUNT(names),
        .absent =
            "no CUDA runtime: neither libcudart.so.13 nor .12 is loaded or on the search path",
    };
    const char *from = "";
    void *lib = dynlib_find(&wish, &from, err);
    if (!lib)
        return CKPT_UNSUPPORTED;
    enum ckpt_status st = take_runtime(lib, from, ret, err);
    if (st != CKPT_OK || !too_new(ret))
        return st;
    struct cuda_api older;
    wish.function = NULL; /* the process's own may be the one that the driver refuses */
    wish.names++;
    wish.count--;
    lib = dynlib_find(&wish, &from, NULL);
    if (lib && take_runtime(lib, from, &older, NULL) == CKPT_OK)
        *ret = older;
    return CKPT_OK;
}

enum ckpt_status cuda_fail(const struct cuda_api *api, cuda_error e, const char *what,
                           struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_DEVICE;
    if (e == CUDA_NO_DEVICE || e == CUDA_INSUFFICIENT_DRIVER || e == CUDA_STUB_LIBRARY)
        st = CKPT_UNSUPPORTED;
    else if (e == CUDA_NO_MEMORY)
        st = CKPT_NO_MEMORY;
    (void)api->GetLastError(); /* a sticky error comes back with the next call all the same */
    return err_set(err, st, "%s: %s (%s)", what, api->GetErrorName(e), api->GetErrorString(e));
}
