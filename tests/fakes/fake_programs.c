/* What programs call of a CUDA runtime, and the library does not, on the fake one: streams that wait
 * for the default stream, graphs, how much memory there is.  A graph is the stream that it was
 * captured on: that one must last as long. */
#include <stdlib.h>
#include <string.h>

#include "fakes/fake_cudart.h"

#define API         __attribute__((visibility("default")))
#define PAGE        ((size_t)4096)
#define PORTABLE    1
#define MEMORY      ((size_t)64 << 30) /* of a device */
#define INVALIDATED 901

extern int cudaGetDevice(int *ret), cudaHostRegister(void *p, size_t bytes, unsigned flags);
extern int cudaHostUnregister(void *p);

API int cudaMalloc(void **ret, size_t bytes);
API int cudaMallocHost(void **ret, size_t bytes), cudaFreeHost(void *p);
API int cudaMemsetAsync(void *p, int value, size_t bytes, fake_stream s);
API int cudaStreamCreate(fake_stream *ret);
API int cudaMemGetInfo(size_t *ret_free, size_t *ret_total);
API int cudaStreamBeginCapture(fake_stream s, int mode);
API int cudaStreamEndCapture(fake_stream s, fake_stream *ret);
API int cudaGraphInstantiate(fake_stream *ret, fake_stream graph, unsigned long long flags);
API int cudaGraphLaunch(fake_stream graph, fake_stream s);
API int cudaGraphDestroy(fake_stream graph), cudaGraphExecDestroy(fake_stream graph);

static int current(void)
{
    int device = 0;
    (void)cudaGetDevice(&device);
    return device;
}

int cudaMalloc(void **ret, size_t bytes)
{
    *ret = fake_malloc(current(), bytes);
    return 0;
}

int cudaMallocHost(void **ret, size_t bytes)
{
    size_t whole = (bytes / PAGE + 1) * PAGE;
    *ret = aligned_alloc(PAGE, whole);
    return cudaHostRegister(*ret, whole, PORTABLE);
}

int cudaFreeHost(void *p)
{
    int e = cudaHostUnregister(p);
    free(p);
    return e;
}

struct set_call {
    void *at;
    size_t bytes;
    int value;
};

static void set_bytes(void *arg)
{
    struct set_call *c = arg;
    memset(c->at, c->value, c->bytes);
    free(c);
}

int cudaMemsetAsync(void *p, int value, size_t bytes, fake_stream s)
{
    struct set_call *c = malloc(sizeof(*c));
    *c = (struct set_call){ fake_look(p), bytes, value };
    fake_launch(s, set_bytes, c);
    return 0;
}

int cudaStreamCreate(fake_stream *ret)
{
    *ret = fake_stream_new(current());
    return 0;
}

int cudaMemGetInfo(size_t *ret_free, size_t *ret_total)
{
    *ret_total = MEMORY;
    *ret_free = MEMORY - fake_allocated(current());
    return 0;
}

int cudaStreamBeginCapture(fake_stream s, int mode)
{
    fake_capture_begin(s, mode == 0);
    return 0;
}

int cudaStreamEndCapture(fake_stream s, fake_stream *ret)
{
    bool good = fake_capture_end(s);
    *ret = good ? s : NULL;
    return good ? 0 : INVALIDATED;
}

int cudaGraphInstantiate(fake_stream *ret, fake_stream graph, unsigned long long flags)
{
    (void)flags;
    *ret = graph;
    return 0;
}

int cudaGraphLaunch(fake_stream graph, fake_stream s)
{
    fake_replay(graph, s);
    return 0;
}

int cudaGraphDestroy(fake_stream graph)
{
    (void)graph;
    return 0;
}

int cudaGraphExecDestroy(fake_stream graph)
{
    (void)graph;
    return 0;
}
