/* The kernels that a snapshot is measured against compute what they say: bench/gpu_steps.cu, compiled
 * for the host (fakes/nvcc-on-host), on the fake runtime. */
#include <dlfcn.h>
#include <string.h>

#include "fakes/fake_cudart.h"

#include "check.h"

#define N 48 /* three tiles */

/* Small whole numbers: every sum is exact. */
static float element(size_t i)
{
    return (float)(i * 7 % 11) - 5;
}

static void *with_elements(size_t count, float **ret_look)
{
    void *memory = fake_malloc(0, count * sizeof(float));
    *ret_look = fake_look(memory);
    for (size_t i = 0; i < count; i++)
        (*ret_look)[i] = element(i);
    return memory;
}

static void test_product(int (*step)(void *memory, int n, void *stream), fake_stream s)
{
    float *a, *b, *c;
    void *memory = with_elements((size_t)3 * N * N, &a);
    b = a + (size_t)N * N;
    c = b + (size_t)N * N;
    CHECK(step(memory, N, s) == 0);
    fake_sync(s);
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < N; j++) {
            float sum = 0;
            for (size_t k = 0; k < N; k++)
                sum += a[i * N + k] * b[k * N + j];
            CHECK(c[i * N + j] == sum);
        }
    fake_free(memory);
}

/* More than one element for some threads, none for others. */
static void test_memory(int (*step)(void *memory, size_t bytes, void *stream), fake_stream s)
{
    size_t count = (size_t)4 * (2048 * 256 + 1001);
    float *from;
    void *memory = with_elements(2 * count, &from);
    CHECK(step(memory, 2 * count * sizeof(float), s) == 0);
    fake_sync(s);
    for (size_t i = 0; i < count; i++)
        CHECK(from[count + i] == element(i) + 1);
    fake_free(memory);
}

int main(void)
{
    int (*product)(void *memory, int n, void *stream);
    int (*through)(void *memory, size_t bytes, void *stream);
    void *lib = dlopen(GPU_STEPS, RTLD_NOW);
    CHECK(lib);
    void *f[] = { dlsym(lib, "step_matmul"), dlsym(lib, "step_memory") };
    CHECK(f[0] && f[1]);
    memcpy(&product, &f[0], sizeof(f[0]));
    memcpy(&through, &f[1], sizeof(f[1]));
    fake_stream s = fake_stream_new(0);
    test_product(product, s);
    test_memory(through, s);
    fake_stream_free(s);
    printf("2 cases\n");
    return 0;
}
