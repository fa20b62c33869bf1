/* See cuda_api.h. */
#include "libckpt/cuda_api.h"

#include <dlfcn.h>
#include <stdio.h>

#define OLDEST 12000
#define BATCH  12080

/* Any of its functions, in what the program itself and its libraries expose. */
static void *exposed(void)
{
    return dlsym(RTLD_DEFAULT, "cudaRuntimeGetVersion") ? dlopen(NULL, RTLD_NOW) : NULL;
}

static void *find_library(const char **ret_from, struct ckpt_err *err)
{
    static const char *const names[] = { "libcudart.so.13", "libcudart.so.12" };
    const char *given = getenv("CKPT_CUDART");
    void *lib = NULL;
    if (given && *given) {
        *ret_from = given;
        lib = dlopen(given, RTLD_NOW | RTLD_LOCAL);
        if (!lib)
            (void)!err_set(err, CKPT_UNSUPPORTED, "CKPT_CUDART: %.300s", dlerror());
        return lib;
    }
    *ret_from = "the program";
    lib = exposed();
    for (size_t i = 0; !lib && i < ARRAY_COUNT(names); i++) {
        *ret_from = names[i];
        lib = dlopen(names[i], RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
    }
    for (size_t i = 0; !lib && i < ARRAY_COUNT(names); i++) {
        *ret_from = names[i];
        lib = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    }
    if (!lib)
        (void)!err_set(err, CKPT_UNSUPPORTED,
                       "no CUDA runtime: neither libcudart.so.13 nor .12 is loaded or on the "
                       "search path (CKPT_CUDART names one)");
    return lib;
}

/* ISO C has no cast from void * to a function pointer. */
static bool take(void *lib, const char *name, void *ret_function)
{
    void *s = dlsym(lib, name);
    memcpy(ret_function, &s, sizeof(s));
    return s != NULL;
}

static const char *take_all(void *lib, struct cuda_api *api)
{
#define CUDA_TAKE(name, params)               \
    if (!take(lib, "cuda" #name, &api->name)) \
        return "cuda" #name;
    CUDA_FUNCTIONS(CUDA_TAKE)
#undef CUDA_TAKE
    if (!take(lib, "cudaGetErrorName", &api->GetErrorName))
        return "cudaGetErrorName";
    if (!take(lib, "cudaGetErrorString", &api->GetErrorString))
        return "cudaGetErrorString";
    return NULL;
}

/* The driver's own, if the process has the driver; the runtime has no such question. */
static void take_driver(void *runtime, struct cuda_api *api)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
    if (!take(driver ? driver : runtime, "cuCtxGetCurrent", &api->CtxGetCurrent))
        api->CtxGetCurrent = NULL;
}

enum ckpt_status cuda_api_load(struct cuda_api *ret, struct ckpt_err *err)
{
    struct cuda_api api = { 0 };
    const char *from = "";
    void *lib = find_library(&from, err);
    if (!lib)
        return CKPT_UNSUPPORTED;
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
        (void)take(lib, "cudaMemcpyBatchAsync", &api.MemcpyBatch13);
    else if (api.runtime_version >= BATCH)
        (void)take(lib, "cudaMemcpyBatchAsync", &api.MemcpyBatch12);
    take_driver(lib, &api);
    *ret = api;
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
