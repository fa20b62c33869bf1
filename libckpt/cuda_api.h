/* The CUDA runtime as a table of functions, found at run time: nothing of CUDA is needed
 * to build or to load this library.
 *
 * Which runtime (dynlib.h): CKPT_CUDART's, else the process's own (streams and events are then of
 * one kind with a framework's), else libcudart.so.13, else .12.  If the driver is too old for what
 * was found: .12.
 *
 * The types below are those of the C interface of CUDA 12 and 13, as far as used here;
 * the layouts are checked against the real header where a toolkit is at hand
 * (tests/gpu/test_cuda_layout.c). */
#pragma once

#include "formats/base.h"

typedef struct CUstream_st *cuda_stream;
typedef struct CUevent_st *cuda_event;
typedef int cuda_error;

enum {
    CUDA_SUCCESS = 0,
    CUDA_INVALID_VALUE = 1,
    CUDA_NO_MEMORY = 2,
    CUDA_STUB_LIBRARY = 34,
    CUDA_INSUFFICIENT_DRIVER = 35,
    CUDA_NO_DEVICE = 100,
    CUDA_ECC = 214,
    CUDA_NOT_READY = 600,
    CUDA_HOST_ALREADY_REGISTERED = 712,
    CUDA_NOT_SUPPORTED = 801,
    CUDA_CAPTURE_IMPLICIT = 906,
};
/* Of the driver: what it can be asked about a pointer, and what memory that is. */
enum { CUDA_POINTER_MEMORY_TYPE = 2, CUDA_POINTER_IS_MANAGED = 8, CUDA_POINTER_DEVICE = 9 };
enum { CUDA_MEMORY_HOST = 1, CUDA_MEMORY_DEVICE = 2 };
enum { CUDA_HOST_TO_DEVICE = 1, CUDA_DEVICE_TO_HOST = 2 };
enum {
    CUDA_STREAM_NON_BLOCKING = 1,
    CUDA_EVENT_DISABLE_TIMING = 2,
    CUDA_EVENT_WAIT_EXTERNAL = 1,
    CUDA_HOST_REGISTER_PORTABLE = 1,
};
enum { CUDA_CAPTURE_GLOBAL = 0, CUDA_CAPTURE_THREAD_LOCAL = 1, CUDA_CAPTURE_RELAXED = 2 };
/* A device has pinned memory where the host has it; asking makes no context. */
enum { CUDA_USES_HOST_POINTERS = 91 };
enum { CUDA_SRC_ACCESS_STREAM = 1, CUDA_COPY_BESIDE_COMPUTE = 1 };

struct cuda_mem_location {
    int type, id;
};
struct cuda_memcpy_attributes {
    int src_access_order;
    struct cuda_mem_location src_hint, dst_hint;
    unsigned flags;
};

/* One line a function: name without "cuda", parameters.  All return a cuda_error. */
#define CUDA_FUNCTIONS(F)                                                               \
    F(RuntimeGetVersion, (int *version))                                                \
    F(DriverGetVersion, (int *version))                                                 \
    F(GetDeviceCount, (int *count))                                                     \
    F(GetDevice, (int *device))                                                         \
    F(SetDevice, (int device))                                                          \
    F(DeviceGetPCIBusId, (char *id, int len, int device))                               \
    F(DeviceGetAttribute, (int *ret, int attribute, int device))                        \
    F(GetLastError, (void))                                                             \
    F(HostRegister, (void *p, size_t bytes, unsigned flags))                            \
    F(HostUnregister, (void *p))                                                        \
    F(StreamCreateWithFlags, (cuda_stream * ret, unsigned flags))                       \
    F(StreamDestroy, (cuda_stream s))                                                   \
    F(StreamQuery, (cuda_stream s))                                                     \
    F(StreamWaitEvent, (cuda_stream s, cuda_event e, unsigned flags))                   \
    F(StreamIsCapturing, (cuda_stream s, int *ret))                                     \
    F(ThreadExchangeStreamCaptureMode, (int *mode))                                     \
    F(EventCreateWithFlags, (cuda_event * ret, unsigned flags))                         \
    F(EventDestroy, (cuda_event e))                                                     \
    F(EventRecord, (cuda_event e, cuda_stream s))                                       \
    F(EventQuery, (cuda_event e))                                                       \
    F(MemcpyAsync, (void *dst, const void *src, size_t bytes, int kind, cuda_stream s)) \
    F(Memcpy2DAsync, (void *dst, size_t dst_pitch, const void *src, size_t src_pitch,   \
                      size_t width, size_t height, int kind, cuda_stream s))

struct cuda_api {
#define CUDA_MEMBER(name, params) cuda_error(*name) params;
    CUDA_FUNCTIONS(CUDA_MEMBER)
#undef CUDA_MEMBER
    const char *(*GetErrorName)(cuda_error e);
    const char *(*GetErrorString)(cuda_error e);
    /* CUDA 12.8 and newer, else NULL both; 12.8 has one parameter more than 13. */
    cuda_error (*MemcpyBatch12)(void **dsts, void **srcs, size_t *sizes, size_t count,
                                struct cuda_memcpy_attributes *attrs, size_t *attrs_first,
                                size_t attr_count, size_t *fail, cuda_stream s);
    cuda_error (*MemcpyBatch13)(void *const *dsts, const void *const *srcs, const size_t *sizes,
                                size_t count, struct cuda_memcpy_attributes *attrs,
                                size_t *attrs_first, size_t attr_count, cuda_stream s);
    /* Of the driver; NULL: not loaded.  These make no context, as the runtime's would. */
    cuda_error (*CtxGetCurrent)(void **ret);
    cuda_error (*DevicePrimaryCtxGetState)(int device, unsigned *flags, int *active);
    cuda_error (*PointerGetAttributes)(unsigned count, int *attributes, void **data,
                                       unsigned long long p);
    int runtime_version, driver_version; /* 13000 = 13.0; driver 0 = there is none */
    char from[256];                      /* which library */
};

/* Fills *ret.  CKPT_UNSUPPORTED: no runtime of CUDA 12 or newer; the text says what was
 * looked for, or which function is missing.  Needs no driver and no device.  The library
 * stays loaded until the process ends: others may use it. */
enum ckpt_status cuda_api_load(struct cuda_api *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
/* What an error of the runtime is to us: no driver or device: CKPT_UNSUPPORTED; out of
 * memory: CKPT_NO_MEMORY; anything else: CKPT_DEVICE.  Sets err to "<what>: <name> (<words>)"
 * and clears the runtime's last error, which would else be found by the trainer. */
enum ckpt_status cuda_fail(const struct cuda_api *api, cuda_error e, const char *what,
                           struct ckpt_err *err) CKPT_MUST_CHECK;
