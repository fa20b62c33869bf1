/* See nccl_api.h. */
#include "libckpt/nccl_api.h"

#include <dlfcn.h>
#include <stdio.h>

static void *find_library(const char **ret_from, struct ckpt_err *err)
{
    static const char name[] = "libnccl.so.2";
    const char *given = getenv("CKPT_NCCL"); // NOLINT(concurrency-mt-unsafe): only read
    void *lib = NULL;
    if (given && *given) {
        *ret_from = given;
        lib = dlopen(given, RTLD_NOW | RTLD_LOCAL);
        if (!lib)
            (void)!err_set(err, CKPT_UNSUPPORTED, "CKPT_NCCL: %.300s", dlerror());
        return lib;
    }
    *ret_from = "the program";
    if (dlsym(RTLD_DEFAULT, "ncclGetVersion"))
        lib = dlopen(NULL, RTLD_NOW);
    if (lib)
        return lib;
    *ret_from = name;
    lib = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
    if (!lib)
        lib = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!lib)
        (void)!err_set(err, CKPT_UNSUPPORTED,
                       "no NCCL: %s is neither loaded nor on the search path (CKPT_NCCL names one)",
                       name);
    return lib;
}

/* ISO C has no cast from void * to a function pointer. */
static bool take(void *lib, const char *name, void *ret_function)
{
    void *s = dlsym(lib, name);
    memcpy(ret_function, &s, sizeof(s));
    return s != NULL;
}

static const char *take_all(void *lib, struct nccl_api *api)
{
#define NCCL_TAKE(name, params)               \
    if (!take(lib, "nccl" #name, &api->name)) \
        return "nccl" #name;
    NCCL_FUNCTIONS(NCCL_TAKE)
#undef NCCL_TAKE
    if (!take(lib, "ncclGetErrorString", &api->GetErrorString))
        return "ncclGetErrorString";
    if (!take(lib, "ncclGetLastError", &api->GetLastError))
        return "ncclGetLastError";
    return NULL;
}

enum ckpt_status nccl_api_load(struct nccl_api *ret, struct ckpt_err *err)
{
    struct nccl_api api = { 0 };
    const char *from = "";
    void *lib = find_library(&from, err);
    if (!lib)
        return CKPT_UNSUPPORTED;
    snprintf(api.from, sizeof(api.from), "%s", from);
    const char *missing = take_all(lib, &api);
    if (missing && api.GetVersion && api.GetVersion(&api.version) == NCCL_SUCCESS)
        return err_set(err, CKPT_UNSUPPORTED, "NCCL %d by %.200s has no %s", api.version, from,
                       missing);
    if (missing)
        return err_set(err, CKPT_UNSUPPORTED, "%.200s has no %s", from, missing);
    if (api.GetVersion(&api.version) != NCCL_SUCCESS || api.version < NCCL_OLDEST)
        return err_set(err, CKPT_UNSUPPORTED, "NCCL %d by %.200s is older than 2.14", api.version,
                       from);
    *ret = api;
    return CKPT_OK;
}

enum ckpt_status nccl_fail(const struct nccl_api *api, nccl_result r, const char *what,
                           struct ckpt_err *err)
{
    return err_set(err, CKPT_DEVICE, "%s: NCCL says \"%.200s\"", what, api->GetErrorString(r));
}
