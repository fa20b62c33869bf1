// In the place of <cuda_runtime.h> where nvcc-on-host compiles: what the sources here use of it, on
// the fake runtime (fake_cudart.h).
//
//   kernel<<<grid, block, 0, stream>>>(p, n)     becomes     on_device(kernel, grid, block, 0, stream)(p, n)
//
// The stream's thread then calls the kernel once for each thread of each block, one after the other.
// Device memory is given to it where the host can reach it, which nothing else is told.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <math.h>

extern "C" {
#include "fakes/fake_cudart.h"

typedef int cudaError_t;
typedef fake_stream cudaStream_t;
enum { cudaSuccess = 0, cudaMemcpyDeviceToHost = 2 };
enum { cudaStreamNonBlocking = 1 };

const char *cudaGetErrorString(cudaError_t e);
cudaError_t cudaGetDeviceCount(int *ret);
cudaError_t cudaGetLastError(void);
cudaError_t cudaMalloc(void **ret, size_t bytes);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, int kind, cudaStream_t s);
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *ret, unsigned flags);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
}

#define __device__ static
#define __global__ static

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned nx = 1, unsigned ny = 1, unsigned nz = 1) : x(nx), y(ny), z(nz) {}
};
static thread_local dim3 gridDim, blockDim, blockIdx, threadIdx;

template <class F> static void each(dim3 n, dim3 &at, F f)
{
    for (at.z = 0; at.z < n.z; at.z++)
        for (at.y = 0; at.y < n.y; at.y++)
            for (at.x = 0; at.x < n.x; at.x++)
                f();
}

// Memory that is not the device's ends the process.
template <class T> static T *reached(T *p)
{
    return p ? (T *)fake_look((void *)p) : p;
}

template <class T> static T reached(T value)
{
    return value;
}

template <class F> static void call_once(void *f)
{
    (*(F *)f)();
    delete (F *)f;
}

template <class... P> struct kernel_call {
    void (*kernel)(P...);
    dim3 grid, block;
    cudaStream_t stream;

    void launch(P... args) const
    {
        auto run = [=, *this] {
            gridDim = grid;
            blockDim = block;
            each(grid, blockIdx, [&] { each(block, threadIdx, [&] { kernel(args...); }); });
        };
        fake_launch(stream, call_once<decltype(run)>, new auto(run));
    }

    void operator()(P... args) const
    {
        launch(reached(args)...);
    }
};

// What a device would refuse ends the process, too.
template <class... P>
static kernel_call<P...> on_device(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
                                   cudaStream_t stream)
{
    size_t threads = (size_t)block.x * block.y * block.z;
    if (threads == 0 || threads > 1024 || !grid.x || !grid.y || !grid.z || grid.y > 65535 ||
        grid.z > 65535 || shared) {
        fprintf(stderr, "a launch of %ux%ux%u blocks of %zu threads, %zu bytes shared\n", grid.x,
                grid.y, grid.z, threads, shared);
        abort();
    }
    return { kernel, grid, block, stream };
}

// What was done on devices, for tests, when the program ends.
static struct device_summary {
    ~device_summary()
    {
        fprintf(stderr, "fake devices: %u copies\n", fake_calls("copies"));
    }
} device_summary;
