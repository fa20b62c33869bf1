/* The kernels of bench/gpu_steps.cu on a driver that is too old for the runtime that they were made
 * with: that runtime refuses every call. */
#include <stddef.h>

#define INSUFFICIENT_DRIVER 35

__attribute__((visibility("default"))) int step_matmul(void *memory, int n, void *stream);
__attribute__((visibility("default"))) int step_memory(void *memory, size_t bytes, void *stream);

int step_matmul(void *memory, int n, void *stream)
{
    (void)memory, (void)n, (void)stream;
    return INSUFFICIENT_DRIVER;
}

int step_memory(void *memory, size_t bytes, void *stream)
{
    (void)memory, (void)bytes, (void)stream;
    return INSUFFICIENT_DRIVER;
}
