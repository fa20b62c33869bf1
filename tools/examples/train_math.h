/* The arithmetic of the example trainer: matrix product, layer norm, GELU, softmax.
 *
 * Every function gives the same bits on every run, on every x86-64 CPU and for any number of ranks:
 * sums have one fixed order that follows from the sizes alone (a sum over a vector is always 16
 * sums of every 16th element), products and sums are never fused (-ffp-contract=off), and exp()
 * is our own. */
#pragma once

#include <stddef.h>

/* A matrix to read: element (i, j) is at[i * row_step + j * col_step]. */
struct mat {
    const float *at;
    size_t row_step, col_step;
};
/* C = rows x cols, A = rows x inner, B = inner x cols. */
struct mat_size {
    size_t rows, cols, inner;
};

/* A row-major matrix whose rows lie `row_step` floats apart, and its transpose. */
static inline struct mat mat_of(const float *at, size_t row_step)
{
    return (struct mat){ at, row_step, 1 };
}
static inline struct mat mat_transposed(const float *at, size_t row_step)
{
    return (struct mat){ at, 1, row_step };
}

/* C += A B.  C is row-major, `c_step` floats from row to row, and overlaps neither A nor B. */
void math_matmul_add(float *c, size_t c_step, struct mat a, struct mat b, struct mat_size size);

/* Each of the `rows` rows of `y` becomes `bias`; acc += column sums of `y`. */
void math_fill_rows(float *y, const float *bias, size_t rows, size_t width);
void math_add_column_sums(float *acc, const float *y, size_t rows, size_t width);
/* y += x */
void math_add(float *y, const float *x, size_t n);

/* Layer norm over each row of `width` floats; stats keeps {mean, 1/deviation} per row. */
struct norm {
    const float *weight, *bias; /* [width] */
    float *stats;               /* [rows][2] */
    size_t rows, width;
};
void math_norm(float *y, const float *x, struct norm n);
/* dx += gradient through the norm; d_weight and d_bias accumulate. */
void math_norm_back(float *dx, float *d_weight, float *d_bias, const float *dy, const float *x,
                    struct norm n);

/* GELU in its tanh form, and its gradient: dx = dy * gelu'(x). */
void math_gelu(float *y, const float *x, size_t n);
void math_gelu_back(float *dx, const float *dy, const float *x, size_t n);

/* The first `live` of `n` values become their softmax after scaling, the others 0. */
void math_softmax(float *x, size_t live, size_t n, float scale);
/* Sum of a[i] * b[i] in a fixed order of lanes. */
float math_dot(const float *a, const float *b, size_t n);
