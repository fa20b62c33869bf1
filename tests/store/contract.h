/* The store contract as one suite, run unchanged over every backend and wrapper. */
#pragma once

#include "storage/store/store.h"

struct contract {
    const char *name;
    /* A handle on the same, at first empty place each time. */
    enum ckpt_status (*open)(const struct contract *c, bool readonly, struct store **ret,
                             struct ckpt_err *err);
    const char *url, *io; /* for open */
    int wrapper;          /* for open */
    bool processes;       /* other processes reach the same place */
};

/* Runs all of it; returns how many cases were exercised. */
int contract_run(const struct contract *c);
