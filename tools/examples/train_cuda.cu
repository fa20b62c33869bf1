// A trainer on one GPU: predicts the next byte of a text from the 16 before it (embedding, one
// hidden layer, AdamW), in kernels of its own, and keeps all of its state with ckpt.
//
//   forward, backward          read the state: a snapshot may be in flight beside them
//   ckpt_fence_stream          the stream waits for that snapshot's copies
//   AdamW                      changes the state
//   ckpt_save                  every so many steps: the copies wait for what is on the stream
//
// No sum depends on the order in which threads run, and what a step reads follows from its number
// alone, so a run that is killed and started again ends with the very bits of one that was not.
//
// usage: ckpt-train-cuda --store DIR [--job NAME] [--steps N] [--every N] [--kill-at STEP]
// --kill-at: ends by SIGKILL right after that step, with a save under way.
#include <cuda_runtime.h>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unistd.h>

#include "libckpt/ckpt.h"

enum { BATCH = 64, CONTEXT = 16, VOCAB = 256, EMBED = 32, INPUT = CONTEXT * EMBED, HIDDEN = 256 };
enum { E, W1, B1, W2, B2, PARAMS };
static const char *const param_name[PARAMS] = { "embed", "hidden.weight", "hidden.bias",
                                                "out.weight", "out.bias" };
static const uint64_t param_shape[PARAMS][2] = {
    { VOCAB, EMBED }, { INPUT, HIDDEN }, { 1, HIDDEN }, { HIDDEN, VOCAB }, { 1, VOCAB }
};
static const char *const kind_name[3] = { "", ".exp_avg", ".exp_avg_sq" };

static void cuda_must(cudaError_t e, const char *what)
{
    if (e == cudaSuccess)
        return;
    fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(e));
    exit(1);
}

// A failed save does not end the training; a failed start does.
static void ckpt_must(enum ckpt_status st, const char *what)
{
    if (st == CKPT_OK)
        return;
    fprintf(stderr, "%s: %s: %s\n", what, ckpt_status_name(st), ckpt_error());
    exit(1);
}

// -- kernels: one thread makes one number, always in the same order ---------------------------

__device__ uint32_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return (uint32_t)(x ^ (x >> 31));
}

// The text: words of a small vocabulary, byte by byte.
__device__ int text_at(uint64_t at)
{
    uint32_t word = mix(at / 6 + 77) % 41;
    return at % 6 == 5 ? ' ' : 'a' + mix(word * 8 + at % 6) % 26;
}

__device__ uint64_t start_of(uint64_t step, int row)
{
    return mix(step * BATCH + row + 1) % 1000000;
}

__global__ void init(float *p, uint64_t n, uint64_t seed, float scale)
{
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        p[i] = ((float)(mix(seed * 1000003 + i) & 0xffffff) / 0x800000 - 1) * scale;
}

__global__ void read_text(const float *embed, float *x, int *ids, int *targets, uint64_t step)
{
    int row = blockIdx.x, k = threadIdx.x; // one thread an element of the input
    uint64_t from = start_of(step, row);
    int id = text_at(from + k / EMBED);
    x[row * INPUT + k] = embed[id * EMBED + k % EMBED];
    if (k % EMBED == 0)
        ids[row * CONTEXT + k / EMBED] = id;
    if (k == 0)
        targets[row] = text_at(from + CONTEXT);
}

// c[m,n] = a[m,k] b[k,n] (+ bias), with a or b transposed by their strides.
__global__ void product(const float *a, int a_row, int a_col, const float *b, int b_row, int b_col,
                        const float *bias, float *c, int m, int n, int k)
{
    int j = blockIdx.x * blockDim.x + threadIdx.x, i = blockIdx.y;
    if (i >= m || j >= n)
        return;
    float sum = bias ? bias[j] : 0;
    for (int t = 0; t < k; t++)
        sum += a[i * a_row + t * a_col] * b[t * b_row + j * b_col];
    c[i * n + j] = sum;
}

__global__ void squash(float *h)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    h[i] = tanhf(h[i]);
}

__global__ void unsquash(const float *h, float *dh)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    dh[i] *= 1 - h[i] * h[i];
}

// Logits become their gradient; one thread a row.
__global__ void softmax_loss(float *logits, const int *targets, float *loss)
{
    float *row = logits + threadIdx.x * VOCAB, top = row[0], sum = 0;
    for (int j = 1; j < VOCAB; j++)
        top = fmaxf(top, row[j]);
    for (int j = 0; j < VOCAB; j++)
        sum += expf(row[j] - top);
    int t = targets[threadIdx.x];
    loss[threadIdx.x] = logf(sum) + top - row[t];
    for (int j = 0; j < VOCAB; j++)
        row[j] = (expf(row[j] - top) / sum - (j == t)) / BATCH;
}

__global__ void sum_rows(const float *a, float *ret, int m, int n)
{
    int j = blockIdx.x * blockDim.x + threadIdx.x;
    float sum = 0;
    for (int i = 0; i < m; i++)
        sum += a[i * n + j];
    ret[j] = sum;
}

__global__ void embed_gradient(const float *dx, const int *ids, float *de)
{
    int v = blockIdx.x, d = threadIdx.x;
    float sum = 0;
    for (int i = 0; i < BATCH * CONTEXT; i++)
        if (ids[i] == v)
            sum += dx[i * EMBED + d];
    de[v * EMBED + d] = sum;
}

__global__ void adamw(float *p, float *m, float *v, const float *g, uint64_t n, float c1, float c2)
{
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    m[i] = 0.9f * m[i] + 0.1f * g[i];
    v[i] = 0.999f * v[i] + 0.001f * g[i] * g[i];
    p[i] -= 1e-3f * (m[i] / c1 / (sqrtf(v[i] / c2) + 1e-8f) + 0.01f * p[i]);
}

// -- the trainer -----------------------------------------------------------------------------

struct trainer {
    const char *store, *job;
    uint64_t steps, every, kill_at, done; // done: steps
    cudaStream_t stream;
    float *state[PARAMS][3], *gradient[PARAMS]; // parameter and both moments
    float *x, *h, *logits, *dh, *dx, *loss;
    int *ids, *targets;
    struct ckpt *c;
    struct ckpt_state *s;
    struct ckpt_buffer buffers[PARAMS * 3];
};

static uint64_t elements(int p)
{
    return param_shape[p][0] * param_shape[p][1];
}

static unsigned blocks(uint64_t n)
{
    return (unsigned)((n + 255) / 256);
}

// Zeros, on the trainer's own stream: the default one would not be waited for.
template <class T> static void room(struct trainer *t, T **ret, uint64_t n)
{
    cuda_must(cudaMalloc((void **)ret, n * sizeof(T)), "cudaMalloc");
    cuda_must(cudaMemsetAsync(*ret, 0, n * sizeof(T), t->stream), "cudaMemsetAsync");
}

static void make_model(struct trainer *t)
{
    cuda_must(cudaStreamCreateWithFlags(&t->stream, cudaStreamNonBlocking), "cudaStreamCreate");
    for (int p = 0; p < PARAMS; p++) {
        for (int k = 0; k < 3; k++)
            room(t, &t->state[p][k], elements(p));
        room(t, &t->gradient[p], elements(p));
        float scale = p == B1 || p == B2 ? 0 : p == E ? 1 : 0.06f;
        init<<<blocks(elements(p)), 256, 0, t->stream>>>(t->state[p][0], elements(p), p, scale);
    }
    room(t, &t->x, BATCH * INPUT);
    room(t, &t->dx, BATCH * INPUT);
    room(t, &t->h, BATCH * HIDDEN);
    room(t, &t->dh, BATCH * HIDDEN);
    room(t, &t->logits, BATCH * VOCAB);
    room(t, &t->loss, BATCH);
    room(t, &t->ids, BATCH * CONTEXT);
    room(t, &t->targets, BATCH);
}

static void times(struct trainer *t, const float *a, int a_row, int a_col, const float *b,
                  int b_row, int b_col, const float *bias, float *c, int m, int n, int k)
{
    product<<<dim3((n + 127) / 128, m), 128, 0, t->stream>>>(a, a_row, a_col, b, b_row, b_col, bias,
                                                             c, m, n, k);
}

// Loss and gradients of a step: reads the parameters.
static void forward_backward(struct trainer *t, uint64_t step)
{
    cudaStream_t q = t->stream;
    float **g = t->gradient;
    const float *w1 = t->state[W1][0], *w2 = t->state[W2][0];
    read_text<<<BATCH, INPUT, 0, q>>>(t->state[E][0], t->x, t->ids, t->targets, step);
    times(t, t->x, INPUT, 1, w1, HIDDEN, 1, t->state[B1][0], t->h, BATCH, HIDDEN, INPUT);
    squash<<<BATCH, HIDDEN, 0, q>>>(t->h);
    times(t, t->h, HIDDEN, 1, w2, VOCAB, 1, t->state[B2][0], t->logits, BATCH, VOCAB, HIDDEN);
    softmax_loss<<<1, BATCH, 0, q>>>(t->logits, t->targets, t->loss);
    times(t, t->h, 1, HIDDEN, t->logits, VOCAB, 1, NULL, g[W2], HIDDEN, VOCAB, BATCH);
    sum_rows<<<1, VOCAB, 0, q>>>(t->logits, g[B2], BATCH, VOCAB);
    times(t, t->logits, VOCAB, 1, w2, 1, VOCAB, NULL, t->dh, BATCH, HIDDEN, VOCAB);
    unsquash<<<BATCH, HIDDEN, 0, q>>>(t->h, t->dh);
    times(t, t->x, 1, INPUT, t->dh, HIDDEN, 1, NULL, g[W1], INPUT, HIDDEN, BATCH);
    sum_rows<<<1, HIDDEN, 0, q>>>(t->dh, g[B1], BATCH, HIDDEN);
    times(t, t->dh, HIDDEN, 1, w1, 1, HIDDEN, NULL, t->dx, BATCH, INPUT, HIDDEN);
    embed_gradient<<<VOCAB, EMBED, 0, q>>>(t->dx, t->ids, g[E]);
}

static void optimize(struct trainer *t, uint64_t step)
{
    float c1 = 1, c2 = 1;
    for (uint64_t i = 0; i < step && i < 20000; i++) {
        c1 *= 0.9f;
        c2 *= 0.999f;
    }
    for (int p = 0; p < PARAMS; p++)
        adamw<<<blocks(elements(p)), 256, 0, t->stream>>>(t->state[p][0], t->state[p][1],
                                                          t->state[p][2], t->gradient[p],
                                                          elements(p), 1 - c1, 1 - c2);
    cuda_must(cudaGetLastError(), "a step");
}

// -- its checkpoints -------------------------------------------------------------------------

static void declare(struct trainer *t, int p, int k)
{
    char name[64];
    struct ckpt_tensor_desc d = {};
    struct ckpt_piece whole = {};
    snprintf(name, sizeof(name), "%s%s", param_name[p], kind_name[k]);
    d.size = sizeof(d);
    d.name = name;
    d.dtype = CKPT_F32;
    d.ndim = 2;
    d.shape = param_shape[p];
    whole.len[0] = param_shape[p][0];
    whole.len[1] = param_shape[p][1];
    whole.stride[0] = (int64_t)param_shape[p][1];
    whole.stride[1] = 1;
    ckpt_must(ckpt_tensor(t->s, &d, &whole, 1), name);
    t->buffers[p * 3 + k].base = t->state[p][k];
    t->buffers[p * 3 + k].bytes = elements(p) * sizeof(float);
}

// Opens, declares, and goes on where the job was.
static void resume(struct trainer *t)
{
    struct ckpt_open_opts o = {};
    struct ckpt_point at = {};
    o.size = sizeof(o);
    o.mode = CKPT_TRAIN;
    o.job = t->job;
    o.store = t->store;
    at.size = sizeof(at);
    ckpt_must(ckpt_open(&o, &t->c), "ckpt_open");
    ckpt_must(ckpt_state_new(t->c, &t->s), "ckpt_state_new");
    for (int p = 0; p < PARAMS; p++)
        for (int k = 0; k < 3; k++)
            declare(t, p, k);
    ckpt_must(ckpt_seal(t->s, 60000), "ckpt_seal");
    enum ckpt_status st = ckpt_resume(t->c, &at);
    if (st == CKPT_NOT_FOUND)
        return;
    ckpt_must(st, "ckpt_resume");
    ckpt_must(ckpt_restore(t->s, NULL, t->buffers, PARAMS * 3, t->stream, NULL), "ckpt_restore");
    t->done = at.step;
    fprintf(stderr, "resumed behind step %llu\n", (unsigned long long)t->done);
}

static void save(struct trainer *t, uint64_t *op)
{
    struct ckpt_save_opts o = {};
    o.size = sizeof(o);
    o.step = t->done;
    if (ckpt_save(t->s, &o, t->buffers, PARAMS * 3, t->stream, op) != CKPT_OK)
        fprintf(stderr, "step %llu is not saved: %s\n", (unsigned long long)t->done, ckpt_error());
}

static void train(struct trainer *t)
{
    uint64_t op = 0;
    while (t->done < t->steps) {
        forward_backward(t, t->done + 1);
        if (ckpt_fence_stream(t->s, t->stream) != CKPT_OK)
            fprintf(stderr, "the save under way is given up: %s\n", ckpt_error());
        optimize(t, ++t->done);
        ckpt_progress(t->c, t->done);
        if (t->done % t->every == 0 || t->done == t->steps)
            save(t, &op);
        if (t->done == t->kill_at)
            raise(SIGKILL);
    }
    if (op && ckpt_wait(t->c, op, CKPT_LEVEL_LOCAL, 600000) != CKPT_OK)
        fprintf(stderr, "the last save failed: %s\n", ckpt_error());
    ckpt_progress(t->c, CKPT_FINISHED);
}

// What a trainer's log wants of its saves.
static void report(struct trainer *t)
{
    struct ckpt_info i = {};
    i.size = sizeof(i);
    ckpt_must(ckpt_info(t->c, &i), "ckpt_info");
    fprintf(stderr, "%llu saves committed, %llu failed; %s; audit: %s\n",
            (unsigned long long)i.saves_committed, (unsigned long long)i.saves_failed, i.devices,
            i.audit);
}

// The whole state as one number.
static uint64_t digest(struct trainer *t)
{
    uint64_t sum = 1469598103934665603ull;
    for (int i = 0; i < PARAMS * 3; i++) {
        uint64_t n = t->buffers[i].bytes;
        uint8_t *host = (uint8_t *)malloc(n);
        cuda_must(cudaMemcpyAsync(host, t->buffers[i].base, n, cudaMemcpyDeviceToHost, t->stream),
                  "cudaMemcpyAsync");
        cuda_must(cudaStreamSynchronize(t->stream), "cudaStreamSynchronize");
        for (uint64_t k = 0; k < n; k++)
            sum = (sum ^ host[k]) * 1099511628211ull;
        free(host);
    }
    return sum;
}

static float mean_loss(struct trainer *t)
{
    float loss[BATCH], sum = 0;
    forward_backward(t, 0);
    cuda_must(cudaMemcpyAsync(loss, t->loss, sizeof(loss), cudaMemcpyDeviceToHost, t->stream),
              "cudaMemcpyAsync");
    cuda_must(cudaStreamSynchronize(t->stream), "cudaStreamSynchronize");
    for (int i = 0; i < BATCH; i++)
        sum += loss[i];
    return sum / BATCH;
}

static void usage(void)
{
    fprintf(stderr, "usage: ckpt-train-cuda --store DIR [--job NAME] [--steps N] [--every N] "
                    "[--kill-at STEP]\n");
    exit(2);
}

static uint64_t number(const char *text)
{
    char *end = NULL;
    unsigned long long n = strtoull(text, &end, 10);
    if (end == text || *end)
        usage();
    return n;
}

static void read_args(struct trainer *t, int argc, char **argv)
{
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!value)
            usage();
        else if (strcmp(argv[i], "--store") == 0)
            t->store = value;
        else if (strcmp(argv[i], "--job") == 0)
            t->job = value;
        else if (strcmp(argv[i], "--steps") == 0)
            t->steps = number(value);
        else if (strcmp(argv[i], "--every") == 0)
            t->every = number(value);
        else if (strcmp(argv[i], "--kill-at") == 0)
            t->kill_at = number(value);
        else
            usage();
    }
    if (!t->store || t->every == 0)
        usage();
}

int main(int argc, char **argv)
{
    static struct trainer t;
    int devices = 0;
    t.job = "train-cuda";
    t.steps = 200;
    t.every = 20;
    read_args(&t, argc, argv);
    cudaError_t e = cudaGetDeviceCount(&devices);
    if (e != cudaSuccess || devices == 0) {
        printf("SKIP: no GPU: %s\n", cudaGetErrorString(e));
        return 77;
    }
    cuda_must(cudaSetDevice(0), "cudaSetDevice");
    make_model(&t);
    resume(&t);
    train(&t);
    report(&t);
    float loss = mean_loss(&t);
    printf("step %llu loss %.6f state %016llx\n", (unsigned long long)t.done, loss,
           (unsigned long long)digest(&t));
    ckpt_close(t.c);
    return 0;
}
