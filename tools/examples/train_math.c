/* The arithmetic of the example trainer.  Built with -O3 and without fused multiply-add.
 *
 * The matrix product packs a block of A (64 rows) and a panel of B (16 columns) into small
 * contiguous buffers and multiplies 4 x 16 tiles of them in registers:
 *
 *            16                       B panel: inner x 16
 *          +----+
 *     4 -> |tile|  += A block row (4 x inner)  x  B panel
 *          +----+
 *
 * Packing reads any strides, so products with a transposed matrix need no code of their own. */
#include "tools/examples/train_math.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { LANES = 16, TILE_ROWS = 4, TILE_COLS = 16, BLOCK_ROWS = 128, BLOCK_INNER = 256 };

/* One copy of a hot loop per CPU generation (gcc); the dynamic linker picks one.  All copies give the
 * same bits.  Sanitizers run before the linker's choice is made and get the plain copy. */
#if defined(__x86_64__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__) && !defined(TRAIN_ONE_VERSION)
#define PER_CPU __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define PER_CPU
#endif

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* e^x with a relative error of about 1e-7, branch-free so that loops of it vectorise. */
static inline float fast_exp(float x)
{
    const float round_magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float n = (x * 1.44269504f + round_magic) - round_magic;
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    int32_t bits = ((int32_t)n + 127) * (1 << 23);
    float scale;
    memcpy(&scale, &bits, sizeof(scale));
    return p * scale;
}

/* ---- matrix product ------------------------------------------------------------------------ */

/* out[k][0..4) = A[first + 0..4)[k], rows past the end as zeros. */
static void pack_rows(float *out, struct mat a, size_t rows, size_t inner)
{
    for (size_t k = 0; k < inner; k++)
        for (size_t i = 0; i < TILE_ROWS; i++)
            out[k * TILE_ROWS + i] = i < rows ? a.at[i * a.row_step + k * a.col_step] : 0.0f;
}

/* out[k][0..16) = B[k][first + 0..16), columns past the end as zeros. */
static void pack_panel(float *out, struct mat b, size_t inner, size_t cols)
{
    if (cols == TILE_COLS && b.col_step == 1) {
        for (size_t k = 0; k < inner; k++)
            memcpy(out + k * TILE_COLS, b.at + k * b.row_step, TILE_COLS * sizeof(float));
        return;
    }
    if (cols < TILE_COLS)
        memset(out, 0, inner * TILE_COLS * sizeof(float));
    for (size_t j = 0; j < cols; j++)
        for (size_t k = 0; k < inner; k++)
            out[k * TILE_COLS + j] = b.at[k * b.row_step + j * b.col_step];
}

/* tile = A rows x B panel.  Written so that the compiler keeps the four rows of the tile in
 * registers and makes vectors of j, of whatever length the CPU has. */
PER_CPU static void multiply_tile(float *tile, const float *a, const float *b, size_t inner)
{
    float row[TILE_ROWS][TILE_COLS] = { 0 };
    for (size_t k = 0; k < inner; k++, a += TILE_ROWS, b += TILE_COLS) {
        for (size_t j = 0; j < TILE_COLS; j++) {
            row[0][j] += a[0] * b[j];
            row[1][j] += a[1] * b[j];
            row[2][j] += a[2] * b[j];
            row[3][j] += a[3] * b[j];
        }
    }
    memcpy(tile, row, sizeof(row));
}

static void add_tile(float *c, size_t c_step, const float *tile, size_t rows, size_t cols)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++)
            c[i * c_step + j] += tile[i * TILE_COLS + j];
}

/* One block: at most BLOCK_ROWS rows and BLOCK_INNER of the inner dimension, all columns. */
static void multiply_block(float *c, size_t c_step, struct mat a, struct mat b, struct mat_size s)
{
    float rows[BLOCK_ROWS * BLOCK_INNER], panel[BLOCK_INNER * TILE_COLS];
    float tile[TILE_ROWS * TILE_COLS];
    for (size_t i = 0; i < s.rows; i += TILE_ROWS) {
        struct mat from = { a.at + i * a.row_step, a.row_step, a.col_step };
        pack_rows(rows + i * s.inner, from, smaller(TILE_ROWS, s.rows - i), s.inner);
    }
    for (size_t j = 0; j < s.cols; j += TILE_COLS) {
        size_t cols = smaller(TILE_COLS, s.cols - j);
        struct mat from = { b.at + j * b.col_step, b.row_step, b.col_step };
        pack_panel(panel, from, s.inner, cols);
        for (size_t i = 0; i < s.rows; i += TILE_ROWS) {
            multiply_tile(tile, rows + i * s.inner, panel, s.inner);
            add_tile(c + i * c_step + j, c_step, tile, smaller(TILE_ROWS, s.rows - i), cols);
        }
    }
}

void math_matmul_add(float *c, size_t c_step, struct mat a, struct mat b, struct mat_size size)
{
    for (size_t k = 0; k < size.inner; k += BLOCK_INNER) {
        for (size_t i = 0; i < size.rows; i += BLOCK_ROWS) {
            struct mat a_at = { a.at + i * a.row_step + k * a.col_step, a.row_step, a.col_step };
            struct mat b_at = { b.at + k * b.row_step, b.row_step, b.col_step };
            struct mat_size part = { smaller(BLOCK_ROWS, size.rows - i), size.cols,
                                     smaller(BLOCK_INNER, size.inner - k) };
            multiply_block(c + i * c_step, c_step, a_at, b_at, part);
        }
    }
}

/* ---- rows ---------------------------------------------------------------------------------- */

void math_fill_rows(float *y, const float *bias, size_t rows, size_t width)
{
    for (size_t i = 0; i < rows; i++)
        memcpy(y + i * width, bias, width * sizeof(float));
}

void math_add(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] += x[i];
}

void math_add_column_sums(float *acc, const float *y, size_t rows, size_t width)
{
    for (size_t i = 0; i < rows; i++)
        math_add(acc, y + i * width, width);
}

/* LANES running sums instead of one, so that they make a vector; then the lanes in order. */
float math_dot(const float *a, const float *b, size_t n)
{
    float lane[LANES] = { 0 }, total = 0.0f;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            lane[j] += a[i + j] * b[i + j];
    for (; i < n; i++)
        total += a[i] * b[i];
    for (size_t j = 0; j < LANES; j++)
        total += lane[j];
    return total;
}

static float sum(const float *x, size_t n)
{
    float lane[LANES] = { 0 }, total = 0.0f;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            lane[j] += x[i + j];
    for (; i < n; i++)
        total += x[i];
    for (size_t j = 0; j < LANES; j++)
        total += lane[j];
    return total;
}

/* ---- layer norm ---------------------------------------------------------------------------- */

void math_norm(float *y, const float *x, struct norm n)
{
    for (size_t row = 0; row < n.rows; row++, x += n.width, y += n.width) {
        float mean = sum(x, n.width) / (float)n.width;
        for (size_t i = 0; i < n.width; i++)
            y[i] = x[i] - mean;
        float variance = math_dot(y, y, n.width) / (float)n.width;
        float inverse = 1.0f / sqrtf(variance + 1e-5f);
        for (size_t i = 0; i < n.width; i++)
            y[i] = y[i] * inverse * n.weight[i] + n.bias[i];
        n.stats[2 * row] = mean;
        n.stats[2 * row + 1] = inverse;
    }
}

void math_norm_back(float *dx, float *d_weight, float *d_bias, const float *dy, const float *x,
                    struct norm n)
{
    enum { WIDTH_MAX = 4096 };
    float unit[WIDTH_MAX], grad[WIDTH_MAX]; /* normalised x, and the gradient that reaches it */
    for (size_t row = 0; row < n.rows; row++) {
        float mean = n.stats[2 * row], inverse = n.stats[2 * row + 1];
        for (size_t i = 0; i < n.width; i++) {
            unit[i] = (x[i] - mean) * inverse;
            grad[i] = dy[i] * n.weight[i];
            d_weight[i] += dy[i] * unit[i];
            d_bias[i] += dy[i];
        }
        float grad_mean = sum(grad, n.width) / (float)n.width;
        float along = math_dot(grad, unit, n.width) / (float)n.width;
        for (size_t i = 0; i < n.width; i++)
            dx[i] += inverse * (grad[i] - grad_mean - unit[i] * along);
        x += n.width, dy += n.width, dx += n.width;
    }
}

/* ---- GELU and softmax ---------------------------------------------------------------------- */

/* gelu(x) = x * sigmoid(u) with u = 2 sqrt(2/pi) (x + 0.044715 x^3), which is the tanh form. */
static inline float gelu_gate(float x)
{
    float u = 1.59576912f * (x + 0.044715f * x * x * x);
    return 1.0f / (1.0f + fast_exp(-u));
}

PER_CPU void math_gelu(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * gelu_gate(x[i]);
}

PER_CPU void math_gelu_back(float *dx, const float *dy, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float gate = gelu_gate(x[i]);
        float slope = 1.59576912f * (1.0f + 3.0f * 0.044715f * x[i] * x[i]);
        dx[i] = dy[i] * (gate + x[i] * gate * (1.0f - gate) * slope);
    }
}

PER_CPU void math_softmax(float *x, size_t live, size_t n, float scale)
{
    float top = x[0];
    for (size_t i = 1; i < live; i++)
        top = x[i] > top ? x[i] : top;
    for (size_t i = 0; i < live; i++)
        x[i] = fast_exp((x[i] - top) * scale);
    float factor = 1.0f / sum(x, live);
    for (size_t i = 0; i < live; i++)
        x[i] *= factor;
    for (size_t i = live; i < n; i++)
        x[i] = 0.0f;
}
