// In the place of <cuda_runtime.h> where nvcc-on-host compiles: what our kernels and their callers
// use of it, on the fake runtime (fake_cudart.h).
//
//   kernel<<<grid, block, 0, stream>>>(p, n)   is   on_device(kernel, grid, block, 0, stream)(p, n)
//
// In its turn the stream's thread calls the kernel once for each thread of each block, one after
// the other.  Only if one waits for the rest of its block, the rest become threads of the host.
// Device memory is shown to kernels where the host can touch it; nobody else knows that place.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <pthread.h>
#include <thread>
#include <vector>

extern "C" {
#include "fakes/fake_cudart.h"

typedef int cudaError_t;
typedef fake_stream cudaStream_t;
enum { cudaSuccess = 0 };
enum { cudaStreamNonBlocking = 1 };
enum { cudaMemcpyDeviceToHost = 2 };

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
#define __shared__ static // blocks run one after the other

struct float4 {
    float x, y, z, w;
};
static inline float4 make_float4(float x, float y, float z, float w)
{
    return { x, y, z, w };
}

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned nx = 1, unsigned ny = 1, unsigned nz = 1) : x(nx), y(ny), z(nz)
    {
    }
    size_t count() const
    {
        return (size_t)x * y * z;
    }
    dim3 at(size_t i) const
    {
        return { (unsigned)(i % x), (unsigned)(i / x % y), (unsigned)(i / x / y) };
    }
};
static thread_local dim3 gridDim, blockDim, blockIdx, threadIdx;

// -- a block -----------------------------------------------------------------------------------

struct meeting {
    pthread_barrier_t all;
    std::vector<std::thread> others;
};
static thread_local const std::function<void()> *thread_of_block;
static thread_local meeting *met;

// The first to wait is the block's first thread, which is alone until then.
static void others_come()
{
    met = new meeting;
    pthread_barrier_init(&met->all, NULL, (unsigned)blockDim.count());
    for (size_t i = 1; i < blockDim.count(); i++)
        met->others.emplace_back(
            [i, m = met, run = thread_of_block, grid = gridDim, block = blockDim, at = blockIdx] {
                met = m;
                gridDim = grid;
                blockDim = block;
                blockIdx = at;
                threadIdx = block.at(i);
                (*run)();
            });
}

static inline void __syncthreads()
{
    if (!met)
        others_come();
    pthread_barrier_wait(&met->all);
}

static void run_block()
{
    for (size_t i = 0; i < blockDim.count() && !met; i++) {
        threadIdx = blockDim.at(i);
        (*thread_of_block)();
    }
    if (!met)
        return;
    for (std::thread &t : met->others)
        t.join();
    pthread_barrier_destroy(&met->all);
    delete met;
    met = nullptr;
}

// -- launches ----------------------------------------------------------------------------------

template <class T> static T seen_by_kernel(T value)
{
    return value;
}

// What is not the device's memory ends the process.
template <class T> static T *seen_by_kernel(T *p)
{
    return p ? (T *)fake_look((void *)p) : p;
}

template <class... P> struct launch {
    void (*kernel)(P...);
    dim3 grid, block;
    cudaStream_t stream;

    void operator()(P... args) const
    {
        queue(seen_by_kernel(args)...);
    }

    void queue(P... args) const
    {
        auto *run = new std::function<void()>([=, k = kernel] { k(args...); });
        auto *blocks = new std::function<void()>([=, g = grid, b = block] {
            gridDim = g;
            blockDim = b;
            thread_of_block = run;
            for (size_t i = 0; i < g.count(); i++) {
                blockIdx = g.at(i);
                run_block();
            }
            delete run;
        });
        fake_launch(stream, call_once, blocks);
    }

    static void call_once(void *arg)
    {
        auto *f = (std::function<void()> *)arg;
        (*f)();
        delete f;
    }
};

// What a device would refuse ends the process, too.
template <class... P>
static launch<P...> on_device(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
                              cudaStream_t stream)
{
    if (block.count() == 0 || block.count() > 1024 || grid.count() == 0 || grid.y > 65535 ||
        grid.z > 65535 || shared) {
        fprintf(stderr, "a launch of %zu blocks of %zu threads, %zu bytes shared\n", grid.count(),
                block.count(), shared);
        abort();
    }
    return { kernel, grid, block, stream };
}

// Said at the end, for tests.
static struct summary {
    ~summary()
    {
        fprintf(stderr, "fake devices: %u copies\n", fake_calls("copies"));
    }
} summary;
