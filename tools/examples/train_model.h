/* A small GPT over bytes: token and position embeddings, blocks of causal attention and MLP with
 * the norm in front, a final norm, and the token embedding again as output head.
 *
 * All parameters lie in one array of floats; the table `tensors` says which part of it is what.
 * Gradients and optimizer state use the same layout, so a position in one array names the same
 * parameter in all of them. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum { MODEL_VOCAB = 256 };

struct model_config {
    size_t context; /* bytes a prediction can look back */
    size_t width;   /* a multiple of heads */
    size_t heads;
    size_t blocks;
    size_t batch; /* sequences in one micro-batch */
};

/* One named parameter tensor.  1-D tensors have cols == 0. */
struct model_tensor {
    char name[48];
    size_t rows, cols;
    size_t first, count; /* where in the array of all parameters */
};

struct model {
    struct model_config config;
    struct model_tensor *tensors;
    size_t tensor_count;
    float *params; /* [param_count] */
    size_t param_count;
    struct model_activations *act;
};

/* NULL when out of memory.  Parameters are zero until model_init or a restore fills them. */
struct model *model_new(struct model_config config);
void model_free(struct model *m);
/* Random parameters that follow from the seed alone. */
void model_init(struct model *m, uint64_t seed);

/* Mean loss (nats per byte) of one micro-batch: `text` holds config.batch rows of context + 1
 * bytes; byte i + 1 of a row is what must be predicted after byte i. */
double model_forward(struct model *m, const uint8_t *text);
/* grads += gradient of that loss.  Follows model_forward with the same text. */
void model_backward(struct model *m, const uint8_t *text, float *grads);
