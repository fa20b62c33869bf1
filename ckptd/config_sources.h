/* For config.c alone: what the sources say, before it is decided what stands. */
#pragma once

#include "ckptd/config.h"

struct loading {
    const struct config_input *in;
    struct config *c;
    struct config *scratch; /* each value is tried there as it is read */
    struct config_errors *errors;
    const char *file; /* as it was named; NULL: none, or the default */
    bool named;
};
/* Fills c->values, weaker ones first, with c->jobs, c->file and its text. */
void config_collect(struct loading *l);
/* Returns where to write one more error; NULL: no more are kept. */
struct ckpt_err *config_one_more(struct config_errors *e);
/* Where a value stands, as its reader would write it. */
void config_place(const struct config *c, const struct config_value *v, char *ret, size_t cap);
/* One about a value, with its place. */
void config_complain(struct loading *l, const struct config_value *v, const struct ckpt_err *why);
/* The section of that pattern; NULL: none. */
struct config_job *config_job_of(struct config *c, const char *pattern);
