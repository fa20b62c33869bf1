/* See nccl_api.h. */
#include "libckpt/nccl_api.h"

#include <stdio.h>
#include <stdlib.h>

#include "libckpt/dynlib.h"

static const char *take_all(void *lib, struct nccl_api *api)
{
#define NCCL_TAKE(name, params)                      \
    if (!dynlib_take(lib, "nccl" #name, &api->name)) \
        return "nccl" #name;
    NCCL_FUNCTIONS(NCCL_TAKE)
#undef NCCL_TAKE
    if (!dynlib_take(lib, "ncclGetErrorString", &api->GetErrorString))
        return "ncclGetErrorString";
    if (!dynlib_take(lib, "ncclGetLastError", &api->GetLastError))
        return "ncclGetLastError";
    return NULL;
}

enum ckpt_status nccl_api_load(struct nccl_api *ret, struct ckpt_err *err)
{
    static const char *const name = "libnccl.so.2";
    static const struct dynlib_wish wish = {
        .variable = "CKPT_NCCL",
        .function = "ncclGetVersion",
        .names = &name,
        .count = 1,
        .absent = "no NCCL: libnccl.so.2 is neither loaded nor on the search path",
    };
    struct nccl_api api = { 0 };
    const char *from = "";
    void *lib = dynlib_find(&wish, &from, err);
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

bool nccl_made_to_block(void)
{
    const char *v = getenv("NCCL_COMM_BLOCKING"); // NOLINT(concurrency-mt-unsafe): only read
    return v && strtol(v, NULL, 0) == 1;
}

enum ckpt_status nccl_fail(const struct nccl_api *api, nccl_result r, const char *what,
                           struct ckpt_err *err)
{
    return err_set(err, CKPT_DEVICE, "%s: NCCL says \"%.200s\"", what, api->GetErrorString(r));
}
