// The training steps that a snapshot is measured against: kernels, so a library of its own that
// nvcc builds where it is.  Both queue one step on a stream.
#include <cuda_runtime.h>

#define TILE 16

// Bound by arithmetic: c = a x b, n a multiple of TILE.
__global__ void matmul(const float *a, const float *b, float *c, int n)
{
    __shared__ float left[TILE][TILE], right[TILE][TILE];
    int row = blockIdx.y * TILE + threadIdx.y, col = blockIdx.x * TILE + threadIdx.x;
    float sum = 0;
    for (int at = 0; at < n; at += TILE) {
        left[threadIdx.y][threadIdx.x] = a[(size_t)row * n + at + threadIdx.x];
        right[threadIdx.y][threadIdx.x] = b[(size_t)(at + threadIdx.y) * n + col];
        __syncthreads();
        for (int k = 0; k < TILE; k++)
            sum += left[threadIdx.y][k] * right[k][threadIdx.x];
        __syncthreads();
    }
    c[(size_t)row * n + col] = sum;
}

// Bound by memory.
__global__ void stream_through(const float4 *from, float4 *to, size_t n)
{
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        float4 v = from[i];
        to[i] = make_float4(v.x + 1, v.y + 1, v.z + 1, v.w + 1);
    }
}

extern "C" int step_matmul(void *memory, int n, void *stream)
{
    float *a = (float *)memory;
    dim3 block(TILE, TILE), grid(n / TILE, n / TILE);
    size_t one = (size_t)n * n;
    matmul<<<grid, block, 0, (cudaStream_t)stream>>>(a, a + one, a + 2 * one, n);
    return cudaGetLastError();
}

extern "C" int step_memory(void *memory, size_t bytes, void *stream)
{
    size_t n = bytes / 2 / sizeof(float4);
    float4 *from = (float4 *)memory;
    stream_through<<<2048, 256, 0, (cudaStream_t)stream>>>(from, from + n, n);
    return cudaGetLastError();
}
