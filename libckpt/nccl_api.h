/* NCCL as a table of functions, found at run time: nothing of NCCL is needed to build or to
 * load this library.
 *
 * Which one (dynlib.h): CKPT_NCCL's, else the process's own (a caller's communicator is then of one
 * kind with ours), else libnccl.so.2.
 *
 * The types below are those of NCCL's C interface as far as used here.  They have not changed
 * since 2.14, the oldest that has communicators that do not block; the configuration is that
 * version's, which newer ones take. */
#pragma once

#include "formats/base.h"

#define NCCL_OLDEST 21400 /* as ncclGetVersion says it: 2.14.0 */

typedef struct ncclComm *nccl_comm;
typedef int nccl_result;
struct nccl_id { /* by value, as NCCL takes it */
    char bytes[128];
};

enum { NCCL_SUCCESS = 0, NCCL_UNHANDLED_CUDA = 1, NCCL_REMOTE = 6, NCCL_IN_PROGRESS = 7 };
enum { NCCL_U8 = 1, NCCL_U64 = 5 }; /* ncclDataType_t */
enum { NCCL_MIN = 3 };              /* ncclRedOp_t */

#define NCCL_CONFIG_MAGIC 0xcafebeefu
struct nccl_config {
    size_t size;
    unsigned magic, version;
    int blocking;
};

/* One line a function: name without "nccl", parameters.  All return an nccl_result.  `stream`
 * is a cudaStream_t. */
#define NCCL_FUNCTIONS(F)                                                                        \
    F(GetVersion, (int *version))                                                                \
    F(GetUniqueId, (struct nccl_id * ret))                                                       \
    F(CommInitRankConfig,                                                                        \
      (nccl_comm * ret, int count, struct nccl_id id, int rank, struct nccl_config *config))     \
    F(CommFinalize, (nccl_comm c))                                                               \
    F(CommDestroy, (nccl_comm c))                                                                \
    F(CommAbort, (nccl_comm c))                                                                  \
    F(CommGetAsyncError, (nccl_comm c, nccl_result * ret))                                       \
    F(CommCount, (nccl_comm c, int *count))                                                      \
    F(CommUserRank, (nccl_comm c, int *rank))                                                    \
    F(CommCuDevice, (nccl_comm c, int *device))                                                  \
    F(GroupStart, (void))                                                                        \
    F(GroupEnd, (void))                                                                          \
    F(Broadcast,                                                                                 \
      (const void *from, void *to, size_t count, int type, int root, nccl_comm c, void *stream)) \
    F(AllReduce,                                                                                 \
      (const void *from, void *to, size_t count, int type, int op, nccl_comm c, void *stream))

struct nccl_api {
#define NCCL_MEMBER(name, params) nccl_result(*name) params;
    NCCL_FUNCTIONS(NCCL_MEMBER)
#undef NCCL_MEMBER
    const char *(*GetErrorString)(nccl_result r);
    const char *(*GetLastError)(nccl_comm c);
    int version;    /* 22809 = 2.28.9 */
    char from[256]; /* which library */
};

/* Fills *ret.  CKPT_UNSUPPORTED: no NCCL of 2.14 or newer; the text says what was looked for,
 * or which function is missing.  Needs no driver and no device.  The library stays loaded
 * until the process ends: others may use it. */
enum ckpt_status nccl_api_load(struct nccl_api *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
/* NCCL_COMM_BLOCKING=1: a communicator of our own would block too, beyond any time limit, until all
 * have come. */
bool nccl_made_to_block(void);
/* What an error of NCCL is to us: always CKPT_DEVICE.  Sets err to "<what>: <words>". */
enum ckpt_status nccl_fail(const struct nccl_api *api, nccl_result r, const char *what,
                           struct ckpt_err *err) CKPT_MUST_CHECK;
