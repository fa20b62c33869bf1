/* One rank of the trainer: what it holds and what it does in a step. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "tools/examples/train_group.h"
#include "tools/examples/train_model.h"
#include "tools/examples/train_text.h"

struct train_options {
    unsigned ranks;
    uint64_t steps, seed, save_every, valid_every;       /* 0: never */
    const char *store, *job, *loss_out, *text, *sockets; /* NULL: none */
    bool quiet;
    struct model_config config;
};

/* What all ranks of one start have in common; inherited through the fork. */
struct train_launch {
    const struct train_options *options;
    struct group *group;
    const struct text *text;
    const char *token; /* names this start: the same on all ranks, new at each */
};

/* Trains to the last step.  Returns false after saying why on stderr. */
bool rank_run(const struct train_launch *launch, unsigned rank);
